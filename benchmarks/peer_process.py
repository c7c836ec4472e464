"""Peers of `benchmarks/peers.py`, each in its own process that runs one iteration per request.

    python benchmarks/peer_process.py ours-ps mujoco [--smoke]

Each line on standard input requests an iteration; the answer is a line of JSON on standard output, see `Answer`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.children import answers
from lorasa_rllib.nn.policy import Phase


@dataclass(frozen=True)
class Task:
    """Sizes of an iteration, the same for all peers.

    envs, steps: environments, and steps of each. passes, minibatches: of an update. hidden: width of all layers.
    compiled: whether ours compiles optimiser steps before the first one, where that is possible.
    """

    envs: int
    steps: int
    passes: int
    minibatches: int
    hidden: int
    compiled: bool = True

    @property
    def env_steps(self) -> int:
        return self.envs * self.steps

    @property
    def optimiser_steps(self) -> int:
        return self.passes * self.minibatches


TASKS = {
    "mujoco": Task(envs=16, steps=250, passes=5, minibatches=1, hidden=64),
    "vmas": Task(envs=600, steps=10, passes=30, minibatches=15, hidden=256),
    "smax": Task(envs=128, steps=128, passes=4, minibatches=4, hidden=128),
}
SMOKE = {
    "mujoco": Task(envs=2, steps=20, passes=2, minibatches=1, hidden=64, compiled=False),
    "vmas": Task(envs=4, steps=10, passes=2, minibatches=2, hidden=256, compiled=False),
    "smax": Task(envs=4, steps=16, passes=2, minibatches=2, hidden=128, compiled=False),
}
"""Sizes for a quick check."""
SCENARIO, AGENT_CONF, WORLDS, MAP = "HalfCheetah", "6x1", "navigation", "3s5z"


@dataclass(frozen=True)
class Answer:
    """What an iteration was. seconds: of wall clock, and of CPU over all threads. parameters: of policy and critic."""

    env_steps: int
    optimiser_steps: int
    parameters: int
    loss: float
    seconds: float
    cpu_seconds: float


class Peer(Protocol):
    def iterate(self) -> float:
        """Runs an iteration: samples and updates. Returns its loss."""

    def optimiser_steps(self) -> int:
        """Optimiser steps so far."""

    def parameters(self) -> int:
        """Numbers in policy and critic."""


class Ours:
    """Runner and learner of this package in this process. Steps are compiled where they can be: see `compile`."""

    def __init__(self, name: str, task: Task, phase: Phase):
        from benchmarks.ours import Team
        from lorasa_rllib import MAPPOConfig
        from lorasa_rllib.learning.compiled import COMPILERS
        from lorasa_rllib.rllib.module import MODULE_ID

        config = MAPPOConfig().sharing("lora", phase_switch=0).debugging(seed=0, log_level="ERROR")
        config.env_runners(num_env_runners=0, num_envs_per_env_runner=task.envs)
        config.training(train_batch_size_per_learner=task.env_steps, num_epochs=task.passes, target_kl=None)
        config.training(minibatch_size=task.env_steps // task.minibatches if task.minibatches > 1 else None)
        config.network(hidden_size=task.hidden, layer_norm=False, obs_norm=None)  # as the peers
        compiles = task.compiled and any(map(shutil.which, COMPILERS))
        if name == "mujoco":
            config.environment("mamujoco", env_config={"scenario": SCENARIO, "agent_conf": AGENT_CONF})
            config.training(lr=3e-4, grad_clip=10.0, lambda_=0.93, compile=compiles)
        elif name == "vmas":
            config.environment("vmas", env_config={"scenario": WORLDS, "n_agents": 4})
            config.network(activation="tanh", distribution="squashed_gaussian")
            config.training(lr=3e-4, grad_clip=1.0, gamma=0.9, lambda_=0.9, entropy_coeff=1e-4, compile=compiles)
        else:
            config.environment("smax", env_config={"map_name": MAP})
            config.network(num_layers=1, recurrent=True, critic_recurrent=True, post_layers=1, id_features="none")
            config.training(critic_input="agent_state", chunk_length=task.steps, lr=2e-3, grad_clip=0.25)
        self._team, self._id = Team(config, phase), MODULE_ID

    def iterate(self) -> float:
        return float(self._team.iteration()[self._id]["total_loss"])

    def optimiser_steps(self) -> int:
        critic = self._team.learner.optimisers()["critic"]
        return int(max(state["step"].max() for state in critic.state.values())) if critic.state else 0

    def parameters(self) -> int:
        policy = self._team.learner.policy
        used = ("backbone", "critic") if self._team.phase == "backbone" else ("backbone", "adapters", "critic")
        return sum(p.numel() for group in used for p in policy.parameters_of(group).values())


class Stock:
    """RLlib's own PPO, see `benchmarks.stock`."""

    def __init__(self, task: Task):
        from benchmarks.stock import StockTrainer, stock_ppo_config

        config = stock_ppo_config(
            SCENARIO, AGENT_CONF, num_envs=task.envs, train_batch=task.env_steps, num_epochs=task.passes,
            hidden=(task.hidden,) * 2,
        )  # fmt: skip
        self._trainer = StockTrainer(config)

    def iterate(self) -> float:
        return self._trainer.iterate()["loss"]

    def optimiser_steps(self) -> int:
        return self._trainer.optimiser_steps()

    def parameters(self) -> int:
        return self._trainer.parameters()


class TorchRL:
    """TorchRL's multi-agent PPO, see `benchmarks.torchrl_ppo`; on VMAS with the numbers of its tutorial."""

    def __init__(self, name: str, task: Task):
        from benchmarks.torchrl_ppo import Numbers, TorchRLPPO
        from benchmarks.torchrl_tasks import mujoco_envs, vmas_envs

        sizes = {
            "batch": task.env_steps, "minibatch": task.env_steps // task.minibatches, "epochs": task.passes,
            "hidden": task.hidden,
        }  # fmt: skip
        if name == "mujoco":
            env, numbers = mujoco_envs(SCENARIO, AGENT_CONF, task.envs), Numbers(**sizes, max_norm=10.0, lambda_=0.93)
        else:
            env = vmas_envs(WORLDS, task.envs, n_agents=4)
            numbers = Numbers(
                **sizes, max_norm=1.0, gamma=0.9, lambda_=0.9, entropy=1e-4, normalise_advantage=False
            )  # fmt: skip
        self._trainer = TorchRLPPO(env, numbers)

    def iterate(self) -> float:
        self._trainer.train()
        return self._trainer.loss

    def optimiser_steps(self) -> int:
        return self._trainer.optimiser_steps

    def parameters(self) -> int:
        return self._trainer.parameters


class JaxMARL:
    """JaxMARL's own script, see `benchmarks.jaxmarl_mappo`."""

    def __init__(self, task: Task):
        from benchmarks.jaxmarl_mappo import JaxMARLMAPPO

        self._trainer = JaxMARLMAPPO(MAP, task.envs, task.steps, task.passes, task.minibatches)
        self._steps = 0

    def iterate(self) -> float:
        loss = self._trainer.iterate()
        self._steps += self._trainer.optimiser_steps  # each iteration counts from zero
        return loss

    def optimiser_steps(self) -> int:
        return self._steps

    def parameters(self) -> int:
        return self._trainer.parameters


PEERS: dict[str, dict[str, Callable[[str, Task], Peer]]] = {
    task: {
        "ours-ps": partial(Ours, phase="backbone"),
        "ours-lora": partial(Ours, phase="adapters"),
        "ours-lora-joint": partial(Ours, phase="joint"),
    }
    for task in TASKS
}
"""Task -> name -> who does it."""
PEERS["mujoco"] |= {"rllib-ppo": lambda _, task: Stock(task), "torchrl-ppo": TorchRL}
PEERS["vmas"] |= {"torchrl-ppo": TorchRL}
PEERS["smax"] |= {"jaxmarl-mappo": lambda _, task: JaxMARL(task)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    given = parser.parse_args()
    told = answers()
    logging.getLogger().setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = (SMOKE if given.smoke else TASKS)[given.task]
    peer = PEERS[given.task][given.who](given.task, task)
    for _ in sys.stdin:
        before, began, cpu = peer.optimiser_steps(), time.perf_counter(), time.process_time()
        loss = peer.iterate()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        steps = peer.optimiser_steps() - before
        answer = Answer(task.env_steps, steps, peer.parameters(), loss, seconds, cpu)
        print(json.dumps(asdict(answer)), file=told, flush=True)


if __name__ == "__main__":
    main()
