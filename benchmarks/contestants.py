"""Contestants of `benchmarks/time_to_return.py`, each in its own process that trains on request.

    python benchmarks/contestants.py ours-ps HalfCheetah-2x3 --seed 1 --total-env-steps 1000000 --every 20000

Each line on standard input requests training for another `--every` environment steps and a greedy evaluation; the
answer is a line of JSON on standard output: "env_steps" so far, "seconds" of training so far (without building and
evaluations, including compilation that delays training) and "greedy", the mean return.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.children import answers


class Contestant(Protocol):
    def train(self) -> int:
        """Runs one iteration. Returns the environment steps so far."""

    def greedy(self) -> float:
        """Mean return of whole episodes without exploration."""

    def close(self) -> None: ...


class Ours:
    """An algorithm of this package with a preset of its scripts."""

    def __init__(
        self, task: str, total_env_steps: int, seed: int, episodes: int, batch: int | None, preset: str, method: str
    ):
        import ray

        from lorasa_rllib.studies.options import read_options
        from lorasa_rllib.studies.trials import config_of

        arguments = ["--scenario", task, "--preset", preset, "--total-env-steps", str(total_env_steps)]
        config = config_of(read_options(arguments, ""), task, method, seed)
        if batch is not None:
            config.training(train_batch_size=batch, minibatch_size=None)
        ray.init("local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        config.evaluation(evaluation_interval=10**9, evaluation_duration=episodes)
        self._algo = config.build_algo()

    def train(self) -> int:
        return int(self._algo.train()["num_env_steps_sampled_lifetime"])

    def greedy(self) -> float:
        return float(self._algo.evaluate()["env_runners"]["episode_return_mean"])

    def close(self) -> None:
        self._algo.stop()


class Stock:
    """RLlib's own PPO with the settings of our recipe and RLlib's observation filter."""

    def __init__(self, task: str, total_env_steps: int, seed: int, episodes: int, batch: int | None):
        from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
        from ray.rllib.connectors.env_to_module import MeanStdFilter

        from benchmarks.stock import StockMAMuJoCo, StockTrainer, build_stock_runner, stock_ppo_config
        from lorasa_rllib.learning import recipe

        scenario, _, agent_conf = task.partition("-")
        batch = batch or recipe.BATCH
        config = stock_ppo_config(
            scenario, agent_conf, train_batch=batch, num_epochs=recipe.NUM_EPOCHS, lambda_=0.93, seed=seed
        )
        num_agents = len(StockMAMuJoCo({"scenario": scenario, "agent_conf": agent_conf}).possible_agents)
        config.learners(learner_class=PPOTorchLearner).training(
            minibatch_size=min(recipe.MINIBATCH, batch // num_agents) * num_agents,  # RLlib counts rows of agents
            shuffle_batch_per_epoch=True,
            lr=[[0, recipe.LR], [total_env_steps, 0.0]],
            grad_clip=recipe.GRAD_CLIP,
        ).env_runners(env_to_module_connector=lambda env, spaces=None, device=None: MeanStdFilter(multi_agent=True))
        self._trainer, self._episodes = StockTrainer(config), episodes
        self._player = build_stock_runner(config.copy(copy_frozen=False).env_runners(num_envs_per_env_runner=1))

    def train(self) -> int:
        return int(self._trainer.iterate()["env_steps"])

    def greedy(self) -> float:
        self._player.set_state(self._trainer.acting_state())
        played = self._player.sample(num_episodes=self._episodes, explore=False)
        self._player.get_metrics()
        return sum(episode.get_return() for episode in played) / len(played)

    def close(self) -> None:
        self._player.stop()
        self._trainer.stop()


def torchrl(task: str, total_env_steps: int, seed: int, episodes: int, batch: int | None) -> Contestant:
    from benchmarks.torchrl_tasks import TorchRLMuJoCo

    scenario, _, agent_conf = task.partition("-")
    return TorchRLMuJoCo(scenario, agent_conf, total_env_steps, seed, episodes, batch)


CONTESTANTS: dict[str, Callable[..., Contestant]] = {
    "ours-ps": partial(Ours, preset="recommended", method="ps"),
    "ours-lora-joint": partial(Ours, preset="recommended", method="lora-joint"),
    "ours-ps-published": partial(Ours, preset="published", method="ps"),
    "rllib-ppo": Stock,
    "torchrl-ppo": torchrl,
}


def answer(contestant: Contestant, every: int, asked: IO[str], answers: IO[str]) -> None:
    """Trains and evaluates once per line of `asked`, until its end."""
    seconds, steps = 0.0, 0
    for _ in asked:
        until = (steps // every + 1) * every
        while steps < until:
            began = time.perf_counter()
            steps = contestant.train()
            seconds += time.perf_counter() - began
        told = {"env_steps": steps, "seconds": seconds, "greedy": contestant.greedy()}
        print(json.dumps(told), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=CONTESTANTS)
    parser.add_argument("task", help="such as HalfCheetah-2x3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-env-steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=20_000, help="environment steps between evaluations")
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    parser.add_argument("--batch", type=int, help="environment steps of an iteration; default: each one's own")
    given = parser.parse_args()
    told = answers()
    import torch

    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(given).items() if name not in ("who", "every")}
    contestant = CONTESTANTS[given.who](**settings)
    try:
        answer(contestant, given.every, sys.stdin, told)
    finally:
        contestant.close()


if __name__ == "__main__":
    main()
