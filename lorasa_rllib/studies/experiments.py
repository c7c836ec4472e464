"""Reads curves of Ray Tune experiments not created by this package, from each trial's result.json or progress.csv and
params.json. Nothing is unpickled."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lorasa_rllib.learning.phases import usual_schedule
from lorasa_rllib.old_names import with_current_names
from lorasa_rllib.policies.files import PolicyFileError
from lorasa_rllib.studies.curves import read_text, read_trial, whole_lines
from lorasa_rllib.studies.methods import METHODS

RESULTS, TABLE, PARAMETERS = "result.json", "progress.csv", "params.json"
SCENARIO = ("scenario", "agent_conf", "map_name", "num_agents", "env")
"""Environment settings that identify a scenario."""

TELL_NO_ARM = ("seed", "trial_name", "env", "env_config", "method", "schedule", "adapter_key")
"""Settings that do not distinguish methods: they are columns of the curves, or part of the method's name anyway."""

MOST_SETTINGS = 4
"""Maximum number of settings in a method's name."""


def is_trial(folder: Path) -> bool:
    return os.path.lexists(folder / RESULTS) or os.path.lexists(folder / TABLE)


def read_experiment(folder: Path) -> pd.DataFrame | None:
    """The curves of the trials in an experiment's folder, or of the trial whose folder this is. None without trials.

    A method's name is the sharing method, or else the algorithm, plus the settings that differ between trials:
    "lora[lr=0.001]". Runs that differ only in their seed are seeds of one method. Raises ValueError if no trial has
    reported an episode return.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    trials = [path for path in ([folder] if is_trial(folder) else inside) if is_trial(path)]
    if not trials:
        return None
    settings = {trial: _settings(trial) for trial in trials}
    varied = _varied(list(settings.values()))
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for trial, config in settings.items():
        run, seed = _run(trial, config, varied), config.get("seed")
        count = seen[tuple(run.values())] = seen.get(tuple(run.values()), 0) + 1
        found.append(read_trial(_lines(trial), {**run, "seed": count if seed is None else seed}))
    curves = pd.concat(found, ignore_index=True)
    if curves.empty:
        raise ValueError(
            f"{folder}: no trial has reported a return of episodes (env_runners/episode_return_mean, or "
            "episode_reward_mean of older versions of RLlib)."
        )
    return curves


def _run(trial: Path, config: Mapping[str, Any], varied: list[str]) -> dict[str, str]:
    """Scenario, observations, algorithm and method of a trial."""
    known = re.search(r"(\w+)'>$", str(config.get("algo_class", "")))
    algorithm = (known[1] if known else trial.name.partition("_")[0]).lower()
    told = [f"{name.rpartition('.')[2]}={_short(_flat(config).get(name))}" for name in varied[:MOST_SETTINGS]]
    method = (_sharing(config) or algorithm) + (f"[{','.join(told)}]" if told else "")
    return {"scenario": _scenario(config), "obs": "", "algorithm": algorithm, "method": method}


def _sharing(config: Mapping[str, Any]) -> str | None:
    """Our name for the sharing method; None for algorithms without one."""
    if "adapter_key" not in config:  # not one of ours, whatever it calls a method
        return None
    sharing = config.get("method")
    usual = usual_schedule(config.get("total_env_steps"), config.get("phase_switch"))
    key, schedule = config.get("adapter_key", "agent"), config.get("schedule", "two_phase") or usual
    for name, method in METHODS.items():
        adapts = not method.adapts or (method.schedule == schedule and method.adapter_key == key)
        if method.sharing == sharing and adapts:
            return name
    return None if sharing is None else f"{sharing}-{schedule}"


def _scenario(config: Mapping[str, Any]) -> str:
    given = config.get("env_config")
    given = given if isinstance(given, dict) else {}
    named = [given[name] for name in SCENARIO if name in given] or [config.get("env") or "task"]
    return "-".join(re.sub(r"^<class '(?:.*\.)?(.*)'>$", r"\1", str(name)) for name in named)


def _settings(trial: Path) -> dict[str, Any]:
    """A trial's settings from Tune's params.json; empty if there is no such file."""
    file = trial / PARAMETERS
    if not os.path.lexists(file):
        return {}
    try:
        found = json.loads(read_text(file))
    except (PolicyFileError, RecursionError) as error:
        raise ValueError(str(error)) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: it holds no settings.")
    return with_current_names(found)


def _varied(configs: list[dict[str, Any]]) -> list[str]:
    """Full names, such as "env_config.level", of the settings that differ between trials."""
    flat = [_flat(config) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    differ = [name for name in names if len({json.dumps(one.get(name), default=str) for one in flat}) > 1]
    return [name for name in differ if name not in (*TELL_NO_ARM, *(f"env_config.{part}" for part in SCENARIO))]


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return found


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return re.sub(r"\s+", "", text)[:24]


def _lines(trial: Path) -> Iterator[str]:
    """Yields a trial's results, one JSON document each; skips truncated lines."""
    if os.path.lexists(trial / RESULTS):
        yield from whole_lines(read_text(trial / RESULTS).splitlines())
        return
    try:
        for row in csv.DictReader(io.StringIO(read_text(trial / TABLE))):
            nested: dict[str, Any] = {}
            for name, text in row.items():
                *path, last = name.split("/")
                place = nested
                for part in path:
                    place = place.setdefault(part, {})
                if text not in ("", None):
                    place[last] = _number(text)
            yield json.dumps(nested)
    except (csv.Error, AttributeError, TypeError) as error:
        raise ValueError(f"{trial / TABLE} is not a table of results: {error}.") from error


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if math.isfinite(value) and value.is_integer() else value
