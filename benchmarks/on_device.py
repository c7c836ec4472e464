"""What does an update cost on a GPU? Run through `learning_step.py --device cuda`; needs torch but not Ray.

Compared   the CPU (one thread) | the device, one operation after the other | the device with steps replayed as CUDA
           graphs (the default): updates of MAPPO and A2PO in LoRASA's adapter phase, transfer included
Method     random rollouts of 6 and 64 agents, 4,000 and 32,000 environment steps, 17 features, one action dimension,
           two hidden layers of 64 and 256; five epochs of one minibatch; the device alternating; median and range;
           the CPU once
Run        python benchmarks/learning_step.py --device cuda [--json FILE]
Expect     64 agents: MAPPO at most 0.08 s, A2PO at most 1.5 s with replayed graphs
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch

from benchmarks.timing import alternate, report, spread
from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.sharing.methods import owners_of
from lorasa_rllib.spec import TeamSpec

OBS, ENVS = 17, 16
CASES = ((6, 4000, 64), (6, 32_000, 256), (64, 4000, 64))
"""Agents, environment steps, hidden size."""


def team(agents: int) -> TeamSpec:
    bounds = {"action_low": ((-1.0,),) * agents, "action_high": ((1.0,),) * agents}
    return TeamSpec(
        agents=tuple(f"agent_{n}" for n in range(agents)),
        obs_sizes=(OBS,) * agents,
        action_kind="continuous",
        action_sizes=(1,) * agents,
        state_size=OBS,
        shared_reward=True,
        **bounds,
    )


def random_rollout(agents: int, steps: int) -> TeamRollout:
    random = np.random.default_rng(0)
    times, rows = steps // ENVS, (steps // ENVS, ENVS, agents)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    no = np.zeros((times, ENVS), bool)
    return TeamRollout(
        obs=normal(*rows, OBS),
        state=normal(times + 1, ENVS, OBS),
        actions=0.5 * np.tanh(normal(*rows, 1)),
        log_probs=normal(*rows, 1),  # replaced by those of the policy
        rewards=normal(times, ENVS, 1),
        terminated=no,
        truncated=no.copy(),
        active=np.ones(rows, bool),
        final_index=np.zeros((0, 2), np.int64),
        final_obs=np.zeros((0, agents, OBS), np.float32),
        final_state=np.zeros((0, OBS), np.float32),
    )


class Update:
    """One update of an algorithm on a device, including the transfer to it. replayed: with CUDA graphs."""

    def __init__(self, algorithm: str, device: str, replayed: bool, agents: int, steps: int, hidden: int):
        spec = team(agents)
        critic = "agent_state" if algorithm == "a2po" else "state"
        network = NetworkConfig(hidden_size=hidden, num_layers=2)
        config = PolicyConfig(spec, owners_of("lora", spec), LoRAConfig(), network, critic)
        self.policy, self.device = TeamPolicy(config).to(device), device
        self.policy.set_phase("adapters")
        groups = {
            group: list(self.policy.parameters_of(group).values()) for group in ("backbone", "adapters", "critic")
        }
        self.optimisers = {group: OwnerAdam(params, lr=3e-4) for group, params in groups.items()}
        self.rollout, self.algorithm = random_rollout(agents, steps), algorithm
        with torch.no_grad():
            seen = self.rollout.to(device)
            self.rollout.log_probs = self.policy.distribution(seen.obs).log_prob(seen.actions).cpu().numpy()
        kind, self.update = (a2po.A2POSettings, a2po.update) if algorithm == "a2po" else (MAPPOSettings, mappo.update)
        self.settings = kind(num_epochs=5)
        self.generator = torch.Generator(device).manual_seed(0)
        self.compiler = StepCompiler("auto") if replayed else None

    def __call__(self) -> None:
        args = self.policy, self.optimisers, self.rollout.to(self.device), self.settings, self.generator
        log = self.update(*args, compiler=self.compiler)
        assert np.isfinite(float(log["total_loss"]))  # waits for the device


def main(options: Any) -> None:
    rows = []
    for algorithm in ("mappo", "a2po"):
        for case in CASES:
            seconds = alternate({"cpu": Update(algorithm, "cpu", False, *case)}, 1, warmups=0)
            on_device = {"one by one": False, "replayed": True}
            seconds |= alternate(
                {
                    f"{options.device}, {name}": Update(algorithm, options.device, replayed, *case)
                    for name, replayed in on_device.items()
                },
                options.repeats,
                warmups=2,
            )
            (base,) = seconds["cpu"]
            agents, steps, hidden = case
            rows += [
                {
                    "algorithm": algorithm,
                    "agents": agents,
                    "env_steps": steps,
                    "hidden": hidden,
                    "device": device,
                    "seconds": spread(values),
                    "speed-up": base / statistics.median(values),
                }
                for device, values in seconds.items()
            ]
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    report(f"One update, five epochs; {name}", rows, options.json)
