"""`lorasa compare`: a page of aggregate scores of methods over the tasks and seeds of several experiments."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lorasa_rllib.analysis.report import Part, write_report
from lorasa_rllib.analysis.score_figures import PANELS, draw_aggregates, draw_improvement, draw_profile
from lorasa_rllib.analysis.scores import (
    WIN_RATE,
    aggregate,
    every_pair,
    normalised,
    pair_table,
    performance_profile,
    tidy,
)
from lorasa_rllib.studies.analyze import commands_of
from lorasa_rllib.studies.curves import read_curves
from lorasa_rllib.studies.experiments import read_experiment
from lorasa_rllib.studies.methods import colours_of, label_of
from lorasa_rllib.studies.table import COMPARED, NO_EPISODE, cells_of, final_returns, summary

LEAST_SHARE = 0.95
"""Minimum length of a run as a share of the task's longest, since budgets are rounded up to whole iterations."""

DRAWN_PAIRS = 10
"""With more pairs the figure shows only comparisons with the baseline; the table has all."""

SOURCE = "Agarwal et al. 2021 (arXiv 2108.13264): 95 % intervals by resampling seeds within every task."


def compare(folders: Sequence[Path], out: Path, baseline: str | None = None, command: str | None = None) -> Path:
    """Writes the report of the experiments in `folders` to `out`: studies, or any other Ray Tune experiments.

    baseline: the method in whose units scores are expressed, prefixed with the algorithm if there are several ("mappo
    ps"). None: win rates are used directly if all tasks are battles; otherwise PS if it was run on every task, else raw
    scores, which requires a single task. command: shown in the report next to those of the studies. Raises ValueError
    for folders without curves, duplicate runs, and runs of unequal length.
    """
    curves = _curves(folders)
    finals = final_returns(curves)
    _check_budgets(finals)
    scores = tidy(finals)
    methods = list(dict.fromkeys(scores["method"]))
    battles = bool((scores["measure"] == WIN_RATE).all())
    if baseline is None and not battles:
        everywhere = set.intersection(*(set(here) for _, here in scores.groupby("task")["method"]))
        baseline = next((name for name in methods if name.split()[-1] == "ps" and name in everywhere), None)
        if baseline is None and scores["task"].nunique() > 1:
            raise ValueError(
                f"returns of several tasks need a --baseline to be averaged in units of; one of {methods}."
            )
    scores = scores if baseline is None else normalised(scores, baseline)
    labels = {name: _label(name) for name in methods}
    measure = "greedy battles won" if battles else "return" if scores["measure"].nunique() == 1 else "score"
    unit = measure if baseline is None else f"{measure}, 1 = {labels.get(baseline, baseline)}"
    alone = {name: name.split(maxsplit=1)[-1] for name in methods}  # without the algorithm's prefix
    own = colours_of(list(dict.fromkeys(alone.values())))
    colours = {name: own[method] for name, method in alone.items()}  # markers distinguish algorithms
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        means = aggregate(scores)
        draw_aggregates(means, here / "means.png", "Aggregate scores", labels, colours, unit)
        draw_profile(performance_profile(scores), here / "profile.png", "Performance profile", labels, colours, unit)
        parts = [
            Part(
                "Scores of methods",
                f"{SOURCE} Optimality gap: how far runs stay below 1.",
                here / "means.png",
                _table_of_means(means, labels),
                2,
            ),
            Part("Performance profile", "Share of runs that score above each value.", here / "profile.png", level=2),
        ]
        if len(methods) > 1:
            better = every_pair(scores)
            shown = better[[methods.index(y) < methods.index(x) for x, y in zip(better["x"], better["y"], strict=True)]]
            if len(shown) > DRAWN_PAIRS:
                shown = better[better["y"] == (baseline or methods[0])]
            draw_improvement(shown, here / "better.png", "Probability of improvement", labels, colours)
            text = (
                "How likely a run of one method beats a run of the other on a task drawn at random; 50 %: neither. In "
                "the table the row's method beats the column's, with 95 % intervals; one that holds 50 % tells nothing."
            )
            parts.append(Part("Probability of improvement", text, here / "better.png", pair_table(better, labels), 2))
        head, *cells = cells_of(summary(curves))
        tasks = pd.DataFrame(cells, columns=head).assign(method=[label_of(row[head.index("method")]) for row in cells])
        text = "Means over seeds of the last tenth of training, with 95 % t-intervals; greedy: the latest evaluation."
        parts.append(Part("Every task", text, table=tasks, level=2))
        facts = {
            "experiments": ", ".join(folder.name for folder in folders),
            "tasks": scores["task"].nunique(),
            "methods": len(methods),
            "runs": len(scores),
        }
        made = [line for folder in folders for line in commands_of(folder)]
        named = shlex.join(["lorasa", "compare", *map(str, folders)])
        write_report(out, "Comparison of methods", facts, parts, [*made, command or named])
    return out


def _check_budgets(finals: pd.DataFrame) -> None:
    for scenario, runs in finals.groupby("scenario"):
        shortest, longest = runs.loc[runs["env_steps"].idxmin()], runs["env_steps"].max()
        if shortest["env_steps"] < LEAST_SHARE * longest:
            raise ValueError(
                f"runs on {scenario} are not equally long: {shortest['method']}, seed {shortest['seed']}, ends after "
                f"{shortest['env_steps']:,} steps, others after {longest:,}. Finish it (--resume), or leave it out."
            )


def _table_of_means(means: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """One row per method, one column per measure: the value and its interval."""
    rows = means.set_index(["method", "measure"])
    table = pd.DataFrame({"method": list(labels.values())})
    for measure, name in PANELS.items():
        found = [rows.loc[(method, measure)] for method in labels]
        table[name] = [
            f"{x['value']:.3g}" + ("" if pd.isna(x["low"]) else f" ({x['low']:.3g} to {x['high']:.3g})") for x in found
        ]
    return table


def _label(name: str) -> str:
    """Display name of a method, which may be prefixed with its algorithm."""
    *algorithm, method = name.split(maxsplit=1)
    return ", ".join([*map(str.upper, algorithm), label_of(method)])


def _read(folder: Path) -> pd.DataFrame:
    """The curves of a study, or of any other Ray Tune experiment."""
    try:
        return read_curves(folder)
    except ValueError as error:
        found = read_experiment(folder)
        if found is None:
            raise ValueError(f"{error} Trials of Ray Tune (result.json, progress.csv) are not there either.") from error
        return found


def _curves(folders: Sequence[Path]) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    seen: dict[tuple[object, ...], Path] = {}
    for folder in folders:
        found.append(_read(folder))
        for run in found[-1][[*COMPARED, "seed"]].drop_duplicates().itertuples(index=False, name=None):
            if run in seen:
                raise ValueError(f"run {' '.join(map(str, run))} is in {seen[run].name} and in {folder.name}.")
            seen[run] = folder
    curves = pd.concat(found, ignore_index=True)
    if curves.empty:
        raise ValueError(NO_EPISODE)
    return curves
