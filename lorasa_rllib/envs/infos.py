"""Environment metrics: numbers in the infos of each agent's last step, averaged per episode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import SupportsFloat, TypeGuard

from lorasa_rllib.envs.pettingzoo_answers import Answer

METRICS_KEY = "metrics"
COMMON = "__common__"
"""Key of infos that do not belong to an agent, in RLlib's multi-agent environments."""


class EpisodeInfos:
    """Collects metrics of the running episodes of E environments.

    key: entry of an agent's infos that holds its metrics: a dictionary of numbers, or a single number, which is then
         named after the key. Values that are not finite numbers are ignored.
    """

    def __init__(self, num_envs: int, key: str):
        self._key = key
        self._of: list[list[dict[str, float]]] = [[] for _ in range(num_envs)]

    def restart(self, e: int) -> None:
        """Discards the metrics of the running episode of environment e."""
        self._of[e].clear()

    def add(self, e: int, agents: Iterable[object], infos: Answer | None) -> None:
        """Adds the infos of agents at their last step."""
        if isinstance(infos, Mapping):
            self._of[e] += [found for agent in agents if (found := numbers_in(infos.get(agent), self._key))]

    def finish(self, e: int, infos: Answer | None) -> dict[str, float]:
        """Ends an episode and returns the mean of each metric over the agents that reported it."""
        self.add(e, (COMMON,), infos)
        given, self._of[e] = self._of[e], []
        names = dict.fromkeys(name for metrics in given for name in metrics)
        values = {name: [metrics[name] for metrics in given if name in metrics] for name in names}
        return {name: sum(of_agents) / len(of_agents) for name, of_agents in values.items()}


def numbers_in(info: object, key: str) -> dict[str, float]:
    """The finite numbers under `info[key]`, by name."""
    found = info.get(key) if isinstance(info, Mapping) else None
    entries = found.items() if isinstance(found, Mapping) else ((key, found),)
    return {str(name): float(value) for name, value in entries if _is_number(value) and math.isfinite(value)}


def _is_number(value: object) -> TypeGuard[SupportsFloat]:
    """Whether `value` is a single number: from Python or NumPy, or an array or tensor without dimensions."""
    if getattr(value, "shape", None) == ():
        return getattr(getattr(value, "dtype", None), "kind", "f") in "biuf"
    return isinstance(value, Real)
