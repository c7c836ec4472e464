"""Studies of switch times: the backbone is trained once per seed, and adapter phases fork from its checkpoints."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT

from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.trials import TrialName, config_of, observed

STEPS = "num_env_steps_sampled_lifetime"


def fork_method(base: str, step: int) -> str:
    """Name of the method `base` with the phase switch at `step`."""
    return f"{base}{',' if ':' in base else ':'}switch={step}"


@dataclass
class ForkPoints(Callback):
    """Tune callback that checkpoints every trial at its first result at or after each of `steps`."""

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        self._passed: dict[str, int] = {}

    def on_trial_result(self, result: dict[str, Any], trial: Trial, **info: object) -> None:
        now = int(result[STEPS])
        before = self._passed.get(trial.trial_id, 0)
        self._passed[trial.trial_id] = now
        if any(before < step <= now for step in self.steps):
            result[SHOULD_CHECKPOINT] = True  # documented by Tune: callbacks may change results


def fork_steps(options: StudyOptions, config: TeamConfig) -> tuple[int, ...]:
    """`fork_at` rounded up to whole iterations. Raises ValueError if this leaves no steps for the adapters."""
    batch = config.total_train_batch_size
    steps = tuple(dict.fromkeys(-(-step // batch) * batch for step in options.fork_at))
    if steps and steps[-1] >= options.total_env_steps:
        raise ValueError(
            f"--fork-at {options.fork_at[-1]}: the iteration that reaches it ends at {steps[-1]}, the budget is "
            f"--total-env-steps {options.total_env_steps}; fork earlier."
        )
    return steps


def trunks(options: StudyOptions) -> dict[TrialName, TeamConfig]:
    """Configs of the runs that train the backbones."""
    named = {}
    for scenario in options.scenarios:
        for seed in options.seeds:
            config = config_of(options, scenario, options.fork_base, seed)
            config.sharing(phase_switch=options.total_env_steps - 1)
            named[TrialName(scenario, "", options.algorithm, "trunk", seed)] = config
    return named


def forks(options: StudyOptions, checkpoints: dict[tuple[str, int], dict[int, str]]) -> dict[TrialName, TeamConfig]:
    """Configs of runs that continue from `checkpoints`, (scenario, seed) -> step -> path, and switch at that step."""
    named = {}
    for (scenario, seed), by_step in checkpoints.items():
        for step, path in by_step.items():
            config = config_of(options, scenario, options.fork_base, seed).sharing(phase_switch=step, fork_from=path)
            config.copy(copy_frozen=False).validate()
            method = fork_method(options.fork_base, step)
            name = TrialName(scenario, observed(options, scenario), options.algorithm, method, seed)
            named[name] = config
    return named


def whole_curves(curves: pd.DataFrame, trunk_curves: pd.DataFrame, forked: Collection[str]) -> pd.DataFrame:
    """The curves, with those of their trunks prepended for methods in `forked`, as if each had run from the start."""
    if trunk_curves.empty or curves.empty:
        return curves
    parts = []
    for (scenario, method, seed), fork in curves.groupby(["scenario", "method", "seed"], sort=False):
        before = trunk_curves[(trunk_curves["scenario"] == scenario) & (trunk_curves["seed"] == seed)]
        before = before[before["env_steps"] < fork["env_steps"].min()].copy()
        if method in forked and len(before):
            before[["obs", "method"]] = fork.iloc[0][["obs", "method"]].tolist()
            fork = fork.assign(seconds=fork["seconds"] + before["seconds"].max())
            parts.append(before)
        parts.append(fork)
    return pd.concat(parts, ignore_index=True)
