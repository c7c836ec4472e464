"""Exports results of a run as Ray metrics to Prometheus, for the Ray dashboard and Grafana.

Ray adds the prefix `ray_`; `cluster/grafana_dashboard.json` plots them.
"""

from __future__ import annotations

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_AGENT_RETURN_MEAN, EPISODE_RETURN_MEAN, LEARNER_RESULTS
from ray.rllib.utils.typing import ResultDict
from ray.util.metrics import Gauge

from lorasa_rllib.rllib.learner import ADAPTER_NORM
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.results import SPLIT, WIN_RATE

SERIES = {
    "lorasa_env_steps": ("Environment steps sampled so far", ()),
    "lorasa_env_steps_per_second": ("Environment steps per second of the last iteration", ()),
    "lorasa_split_seconds": ("Seconds of the last iteration by part: sample, transfer, learn, sync", ("part",)),
    "lorasa_phase": ("Phase of training: 0 backbone, 1 adapters, 2 joint", ()),
    "lorasa_episode_return_mean": ("Team return, mean of recent episodes", ()),
    "lorasa_agent_return_mean": ("Return of an agent that has its own reward, mean of recent episodes", ("agent",)),
    "lorasa_win_rate": ("Share of recent episodes that were won", ()),
    "lorasa_adapter_norm": ("Frobenius norm of what an adapter adds to the weights", ("adapter",)),
    "lorasa_env_runners": ("Remote env runners that answer", ()),
    "lorasa_faults": ("Faults survived so far: env runners lost, rollouts lost, environments rebuilt", ()),
}
"""Name -> description, and tags in addition to "run"."""


class Gauges:
    """The gauges of one run. Values are sent to the node's metrics agent in the background."""

    def __init__(self, run: str):
        self._gauges = {name: Gauge(name, what, ("run", *tags)) for name, (what, tags) in SERIES.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": _ascii(run)})

    def show(self, results: ResultDict, env_runners: int) -> None:
        """Sets the gauges from the results of an iteration."""
        for (name, *tag), value in values_of(results, env_runners).items():
            self._gauges[name].set(value, dict(zip(SERIES[name][1], map(_ascii, tag), strict=True)))


def _ascii(tag: str) -> str:
    """The tag in ASCII, all that Ray accepts: other characters as escapes, "\\xfc"."""
    return tag.encode("ascii", "backslashreplace").decode()


def values_of(results: ResultDict, env_runners: int) -> dict[tuple[str, ...], float]:
    """(series, tag if any) -> value, from the results of an iteration; omits missing values."""
    runners, learner = results[ENV_RUNNER_RESULTS], results.get(LEARNER_RESULTS, {}).get(MODULE_ID, {})
    split = results.get(SPLIT, {})
    norms = {key.removeprefix(ADAPTER_NORM): norm for key, norm in learner.items() if key.startswith(ADAPTER_NORM)}
    sampled, seconds = runners.get("num_env_steps_sampled", 0), sum(split.values())
    values: dict[tuple[str, ...], float | None] = {
        ("lorasa_env_steps",): results["num_env_steps_sampled_lifetime"],
        ("lorasa_env_steps_per_second",): sampled / seconds if seconds else None,
        ("lorasa_phase",): results["phase_index"],
        ("lorasa_episode_return_mean",): runners.get(EPISODE_RETURN_MEAN),
        ("lorasa_win_rate",): runners.get(WIN_RATE),
        ("lorasa_env_runners",): env_runners,
        ("lorasa_faults",): results["num_faults"],
    }
    for series, tagged in (
        ("lorasa_split_seconds", split),
        ("lorasa_agent_return_mean", runners.get(EPISODE_AGENT_RETURN_MEAN, {})),
        ("lorasa_adapter_norm", norms),
    ):
        values |= {(series, str(tag)): value for tag, value in tagged.items()}
    return {key: float(value) for key, value in values.items() if value is not None}
