"""RLlib's stock PPO on Multi-Agent MuJoCo: the baseline of our benchmarks and learning curves.

    python -m benchmarks.stock --scenario HalfCheetah --agent-conf 6x1 --what sample
    python -m benchmarks.stock --scenario Ant --agent-conf 4x2 --what iteration
    python -m benchmarks.stock --what train --total-env-steps 1000000 --seed 1 --csv stock_1.csv

This is what a careful RLlib user would write without our package: a `MultiAgentEnv` with flat padded observations,
one module shared by all agents, RLlib's own env runner, connectors and learner. Everything runs in this
process, on one torch thread and without `ray.init`; `stock_ppo_config(...).build_algo()` is the same on a Ray cluster.
RLlib orders agents by iterating over a set: two runs of one seed are equal only under the same PYTHONHASHSEED.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium_robotics import mamujoco_v1
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

SHARED_POLICY = "shared_policy"


class StockMAMuJoCo(MultiAgentEnv):
    """A Multi-Agent MuJoCo task with equal spaces for all agents, as parameter sharing in RLlib requires.

    Observation float32 [D + N]: the agent's own entries, zeros up to the longest of the team (D), one-hot id.
    Action [d], d = actuators of the largest agent, in the task's torque bounds; surplus entries are ignored.
    Reward: the team reward / N for every agent, so the return of an RLlib episode (a sum over agents) is the team's.
    The task's time limit (usually 1,000 steps) is a truncation.

    config: "scenario" and "agent_conf" as in `mamujoco_v1.parallel_env`, "agent_obsk" (joints away that are observed).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._task = mamujoco_v1.parallel_env(config["scenario"], config["agent_conf"], config.get("agent_obsk", 1))
        self.possible_agents = list(self._task.possible_agents)
        self.agents = list(self.possible_agents)
        num_agents = len(self.agents)
        observed = [self._task.observation_space(agent).shape[0] for agent in self.agents]
        actions = [self._task.action_space(agent) for agent in self.agents]
        self._action_sizes = {agent: space.shape[0] for agent, space in zip(self.agents, actions, strict=True)}
        largest = max(actions, key=lambda space: space.shape[0])
        obs_space = Box(-np.inf, np.inf, (max(observed) + num_agents,), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, obs_space)
        self.action_spaces = dict.fromkeys(self.agents, largest)
        self._blank = np.zeros((num_agents, *obs_space.shape), np.float32)
        self._blank[:, max(observed) :] = np.eye(num_agents, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        obs, _ = self._task.reset(seed=seed, options=options)
        return self._padded(obs), {}

    def step(self, action_dict: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], ...]:
        actions = {agent: action_dict[agent][:size] for agent, size in self._action_sizes.items()}
        obs, rewards, terminated, truncated, _ = self._task.step(actions)
        first = self.possible_agents[0]  # reward and ends are common to the team
        shares = dict.fromkeys(self.possible_agents, float(rewards[first]) / len(self.possible_agents))
        ends = {"__all__": bool(terminated[first])}, {"__all__": bool(truncated[first])}
        return self._padded(obs), shares, *ends, {}

    def close(self) -> None:
        self._task.close()

    def _padded(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = self._blank.copy()
        for row, agent in zip(rows, self.possible_agents, strict=True):
            row[: len(obs[agent])] = obs[agent]
        return dict(zip(self.possible_agents, rows, strict=True))


class FullBatchPPOLearner(PPOTorchLearner):
    """RLlib's PPO learner, except that every epoch is one minibatch of all agent rows.

    No setting achieves this. `minibatch_size` counts agent rows, but `None` uses the number of env steps (N times too
    small), and no fixed number is right: the learner pipeline appends one masked bootstrap row per agent and episode
    chunk, so the number of rows varies with the episodes that end.
    """

    def update(self, *, training_data: TrainingData, **kwargs: Any) -> dict[str, Any]:
        agents = [agent for episode in training_data.episodes for agent in episode.agent_episodes.values()]
        kwargs["minibatch_size"] = sum(len(agent) + 1 for agent in agents)
        return super().update(training_data=training_data, **kwargs)


def shared_policy(agent_id: Any, episode: Any, **kwargs: Any) -> str:
    """Map every agent to the one module."""
    return SHARED_POLICY


def stock_ppo_config(
    scenario: str,
    agent_conf: str,
    *,
    agent_obsk: int = 1,
    num_envs: int = 16,
    num_env_runners: int = 0,
    train_batch: int = 4000,
    num_epochs: int = 5,
    hidden: Sequence[int] = (64, 64),
    lr: float = 3e-4,
    gamma: float = 0.99,
    lambda_: float = 0.93,
    clip_param: float = 0.2,
    seed: int = 0,
) -> PPOConfig:
    """Stock PPO, new API stack, one shared module with separate policy and value networks of `hidden` units.

    train_batch: env steps per iteration over all runners; num_envs: environments per runner.
    num_epochs:  optimiser steps per iteration, each on all train_batch * N agent rows.
    In the results, `env_runners/episode_return_mean` is the mean over the episodes that ended in the iteration, NaN
    if none did: RLlib 2.60 empties its window at every iteration, and the window here holds them all. (With several
    runners it is the mean of their means.)
    """
    return (
        PPOConfig()
        .environment(
            StockMAMuJoCo, env_config={"scenario": scenario, "agent_conf": agent_conf, "agent_obsk": agent_obsk}
        )
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=num_envs)
        .multi_agent(policies={SHARED_POLICY}, policy_mapping_fn=shared_policy)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=list(hidden), fcnet_activation="relu", vf_share_layers=False, free_log_std=True
            )
        )
        .learners(num_learners=0, learner_class=FullBatchPPOLearner)
        .training(
            train_batch_size_per_learner=train_batch,
            minibatch_size=None,  # set by the learner, see there
            num_epochs=num_epochs,
            shuffle_batch_per_epoch=False,  # one minibatch has no order
            lr=lr,
            gamma=gamma,
            lambda_=lambda_,
            clip_param=clip_param,
            vf_clip_param=math.inf,
            vf_loss_coeff=1.0,
            entropy_coeff=0.0,
            use_kl_loss=False,
            grad_clip=10.0,
            grad_clip_by="global_norm",
        )
        .reporting(metrics_num_episodes_for_smoothing=1_000_000)
        .debugging(seed=seed)
    )


def build_stock_runner(config: PPOConfig) -> MultiAgentEnvRunner:
    """RLlib's own env runner in this process, on one torch thread, ready for `.sample(num_timesteps=...)`."""
    torch.set_num_threads(1)
    return MultiAgentEnvRunner(config=config, worker_index=0)


class StockTrainer:
    """RLlib's env runner and learner in this process, driven by the three calls of `PPO.training_step`.

    `Algorithm` does the same and adds bookkeeping, but it starts a Ray instance (`ray.put`) even without workers.
    """

    def __init__(self, config: PPOConfig) -> None:
        if config.num_env_runners:
            raise ValueError(f"num_env_runners={config.num_env_runners} must be 0; use config.build_algo() for more.")
        config.validate()
        self._config = config
        self._runner = build_stock_runner(config)
        self._learner = config.build_learner(spaces=self._runner.get_spaces())
        self._sync_weights()
        self.env_steps = 0

    def iterate(self) -> dict[str, float]:
        """One iteration. Returns "env_steps" so far; "episode_return_mean", the mean team return of the episodes
        that ended in this iteration (NaN if none); "loss"; seconds "sample", "learn" and "total" of this iteration.
        """
        start = time.perf_counter()
        episodes = self._runner.sample(num_timesteps=self._config.total_train_batch_size)
        metrics = self._runner.get_metrics()
        sampled = time.perf_counter()
        self.env_steps += int(metrics["num_env_steps_sampled"].peek())
        results = self._learner.update(
            training_data=TrainingData(episodes=episodes),
            timesteps={"num_env_steps_sampled_lifetime": self.env_steps},
            num_epochs=self._config.num_epochs,
            minibatch_size=self._config.minibatch_size,
            shuffle_batch_per_epoch=self._config.shuffle_batch_per_epoch,
        )
        learned = time.perf_counter()
        self._sync_weights()
        ended = metrics.get("episode_return_mean")  # absent until a first episode has ended
        return {
            "env_steps": self.env_steps,
            "episode_return_mean": float(ended.peek()) if ended is not None else math.nan,
            "loss": float(results[SHARED_POLICY]["total_loss"]),
            "sample": sampled - start,
            "learn": learned - sampled,
            "total": time.perf_counter() - start,
        }

    def optimiser_steps(self) -> int:
        """So far."""
        states = [state for optimiser in self._optimisers() for state in optimiser.state.values()]
        return int(states[0]["step"]) if states else 0

    def parameters(self) -> int:
        """Numbers in policy and critic."""
        return sum(p.numel() for optimiser in self._optimisers() for g in optimiser.param_groups for p in g["params"])

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        return [optimiser for _, optimiser in self._learner.get_optimizers_for_module(SHARED_POLICY)]

    def acting_state(self) -> dict[str, Any]:
        """State that makes another env runner act identically: weights, and statistics of observation filters."""
        connectors = self._runner.get_state(components="env_to_module_connector")
        return {**connectors, "rl_module": self._learner.get_state(components="rl_module")["rl_module"]}

    def stop(self) -> None:
        self._runner.stop()

    def _sync_weights(self) -> None:
        self._runner.set_state(self._learner.get_state(components="rl_module", inference_only=True))


def sampling_speed(config: PPOConfig, steps: int, repeats: int = 3) -> list[float]:
    """Env steps per second of each of `repeats` calls that sample `steps` env steps, after a warm-up call."""
    runner = build_stock_runner(config)
    speeds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        sampled = sum(len(episode) for episode in runner.sample(num_timesteps=steps))
        runner.get_metrics()  # part of every iteration; also empties the runner's lists of ended episodes
        speeds.append(sampled / (time.perf_counter() - start))
    runner.stop()
    return speeds[1:]


def iteration_seconds(config: PPOConfig, repeats: int = 3) -> list[dict[str, float]]:
    """Results of `StockTrainer.iterate` for `repeats` iterations after a warm-up."""
    trainer = StockTrainer(config)
    rows = [trainer.iterate() for _ in range(repeats + 1)]
    trainer.stop()
    return rows[1:]


def train(config: PPOConfig, total_env_steps: int, path: Path) -> None:
    """Train for at least `total_env_steps` env steps; append one row per iteration in which an episode ended.

    Columns: env_steps so far, episode_return_mean (mean team return of the episodes that ended in this iteration),
    seconds since training began. Each row is flushed; an existing file is an error.
    """
    trainer = StockTrainer(config)
    with open(path, "x", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["env_steps", "episode_return_mean", "seconds"])
        file.flush()
        start = time.perf_counter()
        while trainer.env_steps < total_env_steps:
            row = trainer.iterate()
            if not math.isnan(row["episode_return_mean"]):
                seconds = time.perf_counter() - start
                writer.writerow([row["env_steps"], f"{row['episode_return_mean']:.4f}", f"{seconds:.2f}"])
                file.flush()
    trainer.stop()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="HalfCheetah")
    parser.add_argument("--agent-conf", default="6x1")
    parser.add_argument("--agent-obsk", type=int, default=1)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4000, help="env steps per sample call or training iteration")
    parser.add_argument("--num-epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; medians are printed")
    parser.add_argument("--what", choices=["sample", "iteration", "train"], default="sample")
    parser.add_argument("--total-env-steps", type=int, default=1_000_000, help="for --what train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="new file, for --what train")
    args = parser.parse_args(argv)
    if args.what == "train" and not args.csv:
        parser.error("--what train needs --csv FILE")
    config = stock_ppo_config(
        **{name: getattr(args, name) for name in ("scenario", "agent_conf", "agent_obsk", "num_envs")},
        **{"train_batch": args.steps, "num_epochs": args.num_epochs, "seed": args.seed},
    )
    task = f"stock {args.scenario} {args.agent_conf}, {args.num_envs} envs"
    if args.what == "sample":
        speeds = sampling_speed(config, args.steps, args.repeats)
        print(f"{task}: {median(speeds):.0f} env steps/s ({min(speeds):.0f} to {max(speeds):.0f})")
    elif args.what == "iteration":
        rows = iteration_seconds(config, args.repeats)
        split = {name: median(row[name] for row in rows) for name in ("total", "sample", "learn")}
        print(
            f"{task}, {args.steps} env steps x {args.num_epochs} epochs: {split['total']:.2f} s per iteration "
            f"(sample {split['sample']:.2f} s, learn {split['learn']:.2f} s)"
        )
    else:
        train(config, args.total_env_steps, args.csv)


if __name__ == "__main__":
    main()
