"""Learning curves of a study: reads what trials wrote into one tidy table."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

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


def row_of(run: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """One iteration's result as a row of `COLUMNS`; `run` gives the first five. Evaluations are None in iterations
    without one, win rates where episodes cannot be won.

    Results of other algorithms and of older versions of RLlib have fewer entries, or others that mean the same.
    """
    evaluation = result.get("evaluation", {}).get("env_runners", {})
    runners = result.get("env_runners", {})
    value = runners.get("episode_return_mean", result.get("episode_reward_mean"))
    steps = [place[name] for place, name in ((result, STEPS), (runners, STEPS), (result, "timesteps_total"),
                                             (result, "training_iteration")) if place.get(name)]  # fmt: skip
    return {
        **run,
        "env_steps": int(steps[0]) if steps else 0,
        "episode_return": value,
        "evaluation_return": evaluation.get("episode_return_mean"),
        "win_rate": runners.get("win_rate"),
        "evaluation_win_rate": evaluation.get("win_rate"),
        "phase": result.get("phase", ""),
        "episodes": int(runners.get("num_episodes_lifetime", value is not None and value == value)),
        "seconds": result.get("time_total_s", math.nan),
        "versions": result.get("versions"),
        "commit": result.get("commit"),
    }


def read_trial(results: Iterable[str], run: Mapping[str, Any]) -> pd.DataFrame:
    """The curve of one trial, `run`, from the lines of its `result.json`, from the first finished episode on.

    A run that was resumed has written some iterations twice: the later one counts.
    """
    rows = {}
    for line in results:
        result = json.loads(line)
        rows[result["training_iteration"]] = row_of(run, result)
    frame = pd.DataFrame([rows[iteration] for iteration in sorted(rows)], columns=COLUMNS)
    # RLlib repeats the last evaluation in iterations without one.
    repeated = frame["evaluation_return"].eq(frame["evaluation_return"].shift())
    frame.loc[repeated, ["evaluation_return", "evaluation_win_rate"]] = None
    return frame[frame["episodes"] > 0].reset_index(drop=True)


def has_wins(curves: pd.DataFrame) -> bool:
    """Whether the study is one of battles: its measure is the rate of those won."""
    return "evaluation_win_rate" in curves and bool(curves["evaluation_win_rate"].notna().any())


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_csv(temporary, index=False, float_format="%.6g")
    os.replace(temporary, path)


def read_curves(folder: Path) -> pd.DataFrame:
    """The curves of a finished study: its curves.csv, or runs/*.csv. Raises ValueError if it has neither."""
    files = [file] if (file := folder / "curves.csv").is_file() else sorted((folder / "runs").glob("*.csv"))
    if not files:
        raise ValueError(f"{folder} holds neither curves.csv nor runs/*.csv: give folders of finished studies.")
    return pd.concat(map(pd.read_csv, files), ignore_index=True)
