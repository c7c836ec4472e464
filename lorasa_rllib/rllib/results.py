"""Result keys: RLlib's standard ones, always present and finite, and this package's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.rllib.utils.metrics import (
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rollout.episodes import PER_AGENT_KEYS_UP_TO, EpisodeSummary, Sampled
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

WIN_RATE = "win_rate"
METRICS = "metrics"
"""Key of the metrics that environments report about their episodes: see `metrics_key` of `PettingZooTeam`."""
NUM_RESTARTS = "num_simulator_restarts_lifetime"
SPLIT = "split"
"""Key of an iteration's seconds by part: "sample", "transfer" (rollouts to learners), "learn", "sync" (weights)."""


EPISODE_KEYS = (
    EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, EPISODE_RETURN_MAX, EPISODE_LEN_MEAN, EPISODE_LEN_MIN, EPISODE_LEN_MAX,
    EPISODE_DURATION_SEC_MEAN, WIN_RATE,
)  # fmt: skip
"""Keys of `episode_statistics`."""


def log_restarts(metrics: MetricsLogger, restarts: int) -> None:
    """Logs how many simulators (such as StarCraft games) of a runner were restarted since the last round."""
    metrics.log_value(NUM_RESTARTS, restarts, reduce="lifetime_sum")


def log_sampling(metrics: MetricsLogger, sampled: Sampled, spec: TeamSpec, weights_seq_no: int) -> None:
    """Logs counters and times of one round of a runner; RLlib aggregates them over runners."""
    env_steps, agent_steps = sampled.num_env_steps, sampled.agent_steps()
    sums = {NUM_ENV_STEPS_SAMPLED: env_steps, NUM_EPISODES: len(sampled.episodes)}
    lifetime = {NUM_EPISODES_LIFETIME: len(sampled.episodes)}
    for per, total, steps in (
        (NUM_MODULE_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED_LIFETIME, {MODULE_ID: agent_steps}),
        (NUM_AGENT_STEPS_SAMPLED, NUM_AGENT_STEPS_SAMPLED_LIFETIME, _steps_per_agent(spec, sampled.steps_of_agents)),
    ):
        for name, count in steps.items():
            sums[(per, name)] = count  # type: ignore[index]
            lifetime[(total, name)] = count  # type: ignore[index]
    for key, value in sums.items():
        metrics.log_value(key, value, reduce="sum")
    for key, value in lifetime.items():
        metrics.log_value(key, value, reduce="lifetime_sum")
    metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, env_steps, reduce="lifetime_sum", with_throughput=True)
    metrics.log_value(WEIGHTS_SEQ_NO, weights_seq_no, reduce="mean", window=1)
    for name, seconds in sampled.seconds.items():
        metrics.log_value(f"{name}_seconds", seconds, reduce="mean", window=1)


def log_evaluation(metrics: MetricsLogger, sampled: Sampled) -> None:
    """Logs the episode statistics of an evaluation runner, over exactly the episodes of this round.

    RLlib averages the runners' means, which is the mean over all episodes only if all runners have equally many.
    """
    for key, value in episode_statistics(sampled.episodes).items():
        reduce = "min" if key.endswith("_min") else "max" if key.endswith("_max") else "mean"
        metrics.log_value(key, value, reduce=reduce, window=1)
    for name, value in reported_metrics(sampled.episodes).items():
        metrics.log_value((METRICS, name), value, reduce="mean", window=1)


def forget_evaluation(metrics: MetricsLogger) -> None:
    """Removes the keys of `log_evaluation` from a training runner: in training, the algorithm logs these itself."""
    for key in (*EPISODE_KEYS, METRICS):
        metrics.delete(key, key_error=False)


class RecentEpisodes:
    """Sliding window of episodes behind `episode_return_mean` and related keys. window: number of episodes."""

    def __init__(self, window: int):
        self._episodes: deque[EpisodeSummary] = deque(maxlen=window)
        self._running_return = 0.0

    def add(self, sampled: Iterable[Sampled]) -> None:
        running = []
        for part in sampled:
            self._episodes.extend(part.episodes)
            running.append(part.running_return)
        if running:
            self._running_return = float(np.mean(running))

    @property
    def any(self) -> bool:
        """Whether any episode has ended."""
        return bool(self._episodes)

    def statistics(self) -> dict[str, float]:
        """Statistics of recent episodes; until the first one ends, based on the return so far of the running ones."""
        if self._episodes:
            return episode_statistics(self._episodes)
        return episode_statistics([EpisodeSummary(self._running_return, 0, 0.0)])

    def reported_metrics(self) -> dict[str, float]:
        """Mean metrics reported by environments, over recent episodes."""
        return reported_metrics(self._episodes)

    def agent_returns(self) -> list[float]:
        """Mean return of each agent over recent episodes; empty for shared rewards and large teams."""
        returns = [e.agent_returns for e in self._episodes if e.agent_returns is not None]
        return np.mean(returns, axis=0).tolist() if returns else []

    def get_state(self) -> list[tuple[Any, ...]]:
        return [astuple(episode) for episode in self._episodes]

    def set_state(self, state: Sequence[tuple[Any, ...]]) -> None:
        self._episodes.clear()
        self._episodes.extend(EpisodeSummary(*episode) for episode in state)


def episode_statistics(episodes: Iterable[EpisodeSummary]) -> dict[str, float]:
    """RLlib's episode keys, and the win rate if episodes can be won. Empty without episodes."""
    episodes = list(episodes)
    if not episodes:
        return {}
    returns = np.array([e.team_return for e in episodes])
    lengths = np.array([e.length for e in episodes])
    statistics = {
        EPISODE_RETURN_MEAN: float(returns.mean()),
        EPISODE_RETURN_MIN: float(returns.min()),
        EPISODE_RETURN_MAX: float(returns.max()),
        EPISODE_LEN_MEAN: float(lengths.mean()),
        EPISODE_LEN_MIN: int(lengths.min()),
        EPISODE_LEN_MAX: int(lengths.max()),
        EPISODE_DURATION_SEC_MEAN: float(np.mean([e.seconds for e in episodes])),
    }
    won = [e.won for e in episodes if e.won is not None]
    return statistics | ({WIN_RATE: float(np.mean(won))} if won else {})


def reported_metrics(episodes: Iterable[EpisodeSummary]) -> dict[str, float]:
    """Mean of every metric that environments report, over the episodes that contain it."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in episode.metrics.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of_episodes)) for name, of_episodes in values.items()}


def _steps_per_agent(spec: TeamSpec, steps: np.ndarray) -> dict[str, int]:
    if spec.num_agents > PER_AGENT_KEYS_UP_TO:
        return {}
    return dict(zip(spec.agents, steps.tolist(), strict=True))
