"""Learning curves of a study: reads the trials' results into one tidy table."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasa_rllib.policies.files import PolicyFileError, contents_of

LIMIT = 2**30
"""Maximum size of a result file in bytes."""

STEPS = "num_env_steps_sampled_lifetime"
COLUMNS = [
    "scenario",
    "obs",
    "algorithm",
    "method",
    "seed",
    "env_steps",
    "episode_return",
    "evaluation_return",
    "win_rate",
    "evaluation_win_rate",
    "phase",
    "episodes",
    "seconds",
    "versions",
    "commit",
]
NEEDED = (*COLUMNS[:8], "seconds")
"""Columns that every table of curves has."""
NUMBERS = 4
"""How many of the last columns of `NEEDED` are numeric."""


def row_of(run: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """One iteration's result as a row of `COLUMNS`; `run` holds the first five. Evaluation columns are None in
    iterations without an evaluation, win rates if episodes cannot be won.

    Accepts results of other algorithms and older RLlib versions, which lack some entries or use other names.
    """
    evaluation = _part(_part(result, "evaluation"), "env_runners")
    runners = _part(result, "env_runners")
    value = _number(runners.get("episode_return_mean", result.get("episode_reward_mean")))
    steps = [place[name] for place, name in ((result, STEPS), (runners, STEPS), (result, "timesteps_total"),
                                             (result, "training_iteration")) if _number(place.get(name))]  # fmt: skip
    return {
        **run,
        "env_steps": int(steps[0]) if steps else 0,
        "episode_return": value,
        "evaluation_return": _number(evaluation.get("episode_return_mean")),
        "win_rate": _number(runners.get("win_rate")),
        "evaluation_win_rate": _number(evaluation.get("win_rate")),
        "phase": result.get("phase", ""),
        "episodes": int(_number(runners.get("num_episodes_lifetime", value is not None and value == value)) or 0),
        "seconds": _number(result.get("time_total_s", math.nan)),
        "versions": result.get("versions"),
        "commit": result.get("commit"),
    }


def _part(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = result.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | int | None:
    """The value if it is a number (NaN included) of at most 1e300 in size; otherwise None."""
    return value if isinstance(value, int | float) and not abs(value) > 1e300 else None


def whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yields the valid results among the lines of a `result.json`; skips truncated and other lines."""
    for line in lines:
        try:
            if isinstance(json.loads(line).get("training_iteration"), int):
                yield line
        except (ValueError, AttributeError, RecursionError):
            continue


def read_trial(results: Iterable[str], run: Mapping[str, Any]) -> pd.DataFrame:
    """The curve of one trial, `run`, from the lines of its `result.json`, starting at the first finished episode.

    Skips truncated lines. For iterations that a resumed run wrote twice, the later one is used.
    """
    rows = {}
    for line in whole_lines(results):
        result = json.loads(line)
        rows[result["training_iteration"]] = row_of(run, result)
    frame = pd.DataFrame([rows[iteration] for iteration in sorted(rows)], columns=COLUMNS)
    # RLlib repeats the last evaluation in iterations without one.
    repeated = frame["evaluation_return"].eq(frame["evaluation_return"].shift())
    frame.loc[repeated, ["evaluation_return", "evaluation_win_rate"]] = None
    return frame[frame["episodes"] > 0].reset_index(drop=True)


def has_wins(curves: pd.DataFrame) -> bool:
    """Whether there are win rates of evaluations, which then are the study's measure."""
    return "evaluation_win_rate" in curves and bool(curves["evaluation_win_rate"].notna().any())


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes the table atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_csv(temporary, index=False, float_format="%.6g")
    os.replace(temporary, path)


def read_curves(folder: Path) -> pd.DataFrame:
    """The curves of a finished study: its curves.csv, or runs/*.csv. Raises ValueError if it has neither."""
    files = [file] if os.path.lexists(file := folder / "curves.csv") else sorted((folder / "runs").glob("*.csv"))
    if not files:
        raise ValueError(f"{folder} holds neither curves.csv nor runs/*.csv: give folders of finished studies.")
    return pd.concat(map(_table, files), ignore_index=True)


def read_text(file: Path) -> str:
    """The text of a result file. Raises ValueError if it is not a regular file, is too large or cannot be read."""
    try:
        return contents_of(file, LIMIT, "too large to hold results").decode(errors="replace")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}.") from error


def _table(file: Path) -> pd.DataFrame:
    """The curves in a CSV file. Raises ValueError, naming the file, if it is not a valid table of curves."""
    try:
        found = pd.read_csv(io.StringIO(read_text(file)), low_memory=False)
    except PolicyFileError:
        raise
    except (ValueError, OverflowError, RuntimeError, csv.Error) as error:
        raise ValueError(f"{file} is not a table: {str(error).splitlines()[0] if str(error) else error!r}.") from error
    if missing := [name for name in NEEDED if name not in found]:
        raise ValueError(f"{file} is not a table of curves: the column {missing[0]} is missing.")
    for name in NEEDED[len(NEEDED) - NUMBERS :]:
        try:
            found[name] = pd.to_numeric(found[name])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged: the column {name} holds {str(error)[:100]}.") from error
    if not np.isfinite(found["env_steps"].to_numpy(float)).all():
        raise ValueError(f"{file} is damaged: env_steps must be numbers.")
    return found
