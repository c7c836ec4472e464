"""Comparison of methods over tasks and seeds: aggregate scores with intervals, after Agarwal et al. 2021.

"Deep RL at the Edge of the Statistical Precipice", arXiv 2108.13264: interquartile mean, median, mean, optimality gap,
probability of improvement and performance profiles, with 95 % percentile intervals of a stratified bootstrap (seeds are
resampled within each task). If all tasks have equally many seeds, results equal those of the authors' package rliable.
We do not use it because it requires equally many seeds on every task, release 1.2.0 requires arch < 8, which cannot be
imported with pandas 3, and fails with arch 8, and it adds statsmodels as a dependency for these few functions.

Scores are tables with one row per run: task, method, seed, score. Tasks have equal weight, however many seeds they
have. Intervals cover variation over seeds of the same tasks, not over tasks. If a task has only one seed, intervals are
NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

WIN_RATE = "win_rate"
"""Value of the column `measure` for battles, scored by win rate."""

Samples = list[np.ndarray]
"""Scores of one method: an array [..., seeds] per task, in the order of task names."""


def tidy(returns: pd.DataFrame) -> pd.DataFrame:
    """Converts final returns of studies (one row per scenario, obs, algorithm, method and seed) to rows of task,
    method, seed, score, measure.

    Battles are scored by `greedy_win_rate`, other tasks by `final_return`. A task is named after its scenario, plus the
    kind of observations if a scenario has several; methods are prefixed with the algorithm if there are several.
    """
    obs = returns.groupby("scenario")["obs"].transform("nunique") > 1
    algorithms = returns["algorithm"].nunique() > 1
    scores = pd.DataFrame(
        {
            "task": returns["scenario"].where(~obs, returns["scenario"] + ", " + returns["obs"]),
            "method": returns["algorithm"] + " " + returns["method"] if algorithms else returns["method"],
            "seed": returns["seed"],
            "score": returns["final_return"],
            "measure": "return",
        }
    )
    if "greedy_win_rate" in returns:
        battles = returns.groupby("scenario")["greedy_win_rate"].transform("count") > 0
        scores["score"] = scores["score"].where(~battles, returns["greedy_win_rate"])
        scores["measure"] = scores["measure"].where(~battles, WIN_RATE)
    return scores.reset_index(drop=True)


def normalised(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Scores in units of the baseline method, so that tasks of different scales can be averaged. Our definition:

        1 + (score - m) / |m|,     m: mean of the baseline over its seeds on that task

    1: equal to the baseline; 2: better than it by |m|. For positive m this is score / m, and for negative m better
    scores still rank higher. Unlike min-max scaling it depends on the baseline only, not on the other methods in the
    table. m is treated as exact: intervals of normalised scores ignore its uncertainty.

    Raises ValueError if the baseline has no runs on a task, or if |m| is at most its standard error or a thousandth of
    the largest absolute score on that task.
    """
    _check(scores)
    result = scores.astype({"score": float})
    for task, runs in scores.groupby("task"):
        base = runs.loc[runs["method"] == baseline, "score"].to_numpy(float)
        if not len(base):
            raise ValueError(
                f"baseline {baseline!r} has no runs on task {task!r}, only {sorted(set(runs['method']))} have: run it "
                "there, leave the task out, or choose another baseline."
            )
        mean = base.mean()
        error = base.std(ddof=1) / np.sqrt(len(base)) if len(base) > 1 else 0.0
        if abs(mean) <= max(error, 1e-3 * runs["score"].abs().max()):
            raise ValueError(
                f"baseline {baseline!r} has a mean near zero on task {task!r} ({mean:.3g}, standard error "
                f"{error:.3g}): scores in units of it mean nothing. Choose another baseline or leave the task out."
            )
        result.loc[runs.index, "score"] = 1 + (runs["score"] - mean) / abs(mean)
    return result


def interquartile_mean(samples: Samples) -> np.ndarray:
    """Mean of the middle half of all runs, [...]; arXiv 2108.13264, section 4.3.

    Tasks have equal weight. Runs that lie entirely in the lowest or highest quarter of the weight are excluded. With
    equally many seeds per task this is `scipy.stats.trim_mean(scores, 0.25)`; otherwise the definition is ours.
    """
    values = np.concatenate(samples, axis=-1)
    weights = np.concatenate([np.full(task.shape[-1], 1 / (len(samples) * task.shape[-1])) for task in samples])
    weights = np.broadcast_to(weights, values.shape)
    order = np.lexsort((weights, values), axis=-1)  # ties sorted by weight: the result is independent of row order
    values, weights = (np.take_along_axis(x, order, axis=-1) for x in (values, weights))
    up_to = weights.cumsum(-1)
    kept = (up_to > 0.25 + ROUNDING) & (up_to - weights < 0.75 - ROUNDING)
    return (values * weights * kept).sum(-1) / (weights * kept).sum(-1)


ROUNDING = 1e-9
"""Tolerance when comparing sums of weights."""


def mean(samples: Samples) -> np.ndarray:
    """Mean over tasks of the mean over seeds, [...]."""
    return np.mean([task.mean(-1) for task in samples], axis=0)


def median(samples: Samples) -> np.ndarray:
    """Median over tasks of the mean over seeds, [...]; equals `mean` for one or two tasks."""
    return np.median([task.mean(-1) for task in samples], axis=0)


def optimality_gap(samples: Samples) -> np.ndarray:
    """Mean shortfall of runs from a score of 1, scores above 1 counting as 1, [...]; lower is better.

    A score of 1 means always winning for win rates, and the baseline's mean for `normalised` scores.
    """
    return 1 - mean([np.minimum(task, 1.0) for task in samples])


MEASURES: dict[str, Callable[[Samples], np.ndarray]] = {
    "iqm": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}


def aggregate(scores: pd.DataFrame, repetitions: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row per method and measure (`MEASURES`): value, 95 % interval (low, high), tasks, fewest seeds of a task.

    Results of a method do not depend on other methods or the order of rows. repetitions: bootstrap samples. Raises
    ValueError for missing scores, duplicate runs, and methods that lack a task that others have.
    """
    rows = []
    for method, runs in _by_method(scores).items():
        drawn = _resampled(runs, repetitions, np.random.default_rng(seed))
        for name, measure in MEASURES.items():
            low, high = _interval(measure(drawn), [runs])
            facts = {"value": float(measure(runs)), "low": float(low), "high": float(high), **_sizes([runs])}
            rows.append({"method": method, "measure": name, **facts})
    return pd.DataFrame(rows)


def improvement(
    scores: pd.DataFrame, pairs: Iterable[tuple[str, str]], repetitions: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Probability that a run of method x beats one of y on a random task; arXiv 2108.13264, section 4.3.

    Mean over tasks of P(x > y) + P(x = y) / 2 (Mann and Whitney's U over all pairs of runs). One row per pair (x, y):
    value, 95 % interval (low, high), tasks, fewest seeds of a task. Raises ValueError like `aggregate`, for each pair.
    """
    _check(scores)
    rows = []
    for pair in pairs:
        if unknown := sorted(set(pair) - set(scores["method"])):
            raise ValueError(f"pair {pair}: no runs of {unknown}; there are {sorted(set(scores['method']))}.")
        both = _by_method(scores[scores["method"].isin(pair)])
        x, y = (both[method] for method in pair)
        streams = np.random.default_rng(seed).spawn(2)
        drawn = [_resampled(runs, repetitions, stream) for runs, stream in zip((x, y), streams, strict=True)]
        low, high = _interval(_wins(*drawn), [x, y])
        facts = {"value": float(_wins(x, y)), "low": float(low), "high": float(high), **_sizes([x, y])}
        rows.append({"x": pair[0], "y": pair[1], **facts})
    return pd.DataFrame(rows)


def every_pair(scores: pd.DataFrame, repetitions: int = 2000, seed: int = 0) -> pd.DataFrame:
    """`improvement` of every method over every other one: the pair (y, x) is one minus (x, y), interval included."""
    once = improvement(scores, itertools.combinations(dict.fromkeys(scores["method"]), 2), repetitions, seed)
    turned = once.rename(columns={"x": "y", "y": "x"})
    turned = turned.assign(value=1 - once["value"], low=1 - once["high"], high=1 - once["low"])
    return pd.concat([once, turned[once.columns]], ignore_index=True)


def pair_table(better: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """`every_pair` as a readable table: probability that the row's method beats the column's, with its interval."""
    methods, cells = list(labels), better.set_index(["x", "y"])
    table = pd.DataFrame({"beats": [labels[x] for x in methods]})
    for y in methods:
        table[labels[y]] = [_chance(cells.loc[(x, y)]) if x != y else "" for x in methods]
    return table


def _chance(pair: pd.Series) -> str:
    interval = "" if pd.isna(pair["low"]) else f" ({100 * pair['low']:.0f} to {100 * pair['high']:.0f})"
    return f"{pair['value']:.0%}{interval}"


def performance_profile(
    scores: pd.DataFrame, thresholds: Sequence[float] | None = None, repetitions: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Share of runs that score above each threshold; arXiv 2108.13264, section 4.2 (score distributions).

    One row per method and threshold: share, pointwise 95 % band (low, high), tasks, fewest seeds of a task. thresholds:
    None for 101 evenly spaced ones from the lowest to the highest score. Raises ValueError like `aggregate`.
    """
    methods = _by_method(scores)
    values = scores["score"]
    tau = np.linspace(values.min(), values.max(), 101) if thresholds is None else np.sort(np.asarray(thresholds, float))
    tables = []
    for method, runs in methods.items():
        drawn = _resampled(runs, repetitions, np.random.default_rng(seed))
        low, high = _interval(_above(drawn, tau), [runs])
        columns = {"threshold": tau, "share": _above(runs, tau), "low": low, "high": high}
        tables.append(pd.DataFrame({"method": method, **columns, **_sizes([runs])}))
    return pd.concat(tables, ignore_index=True)


def _wins(x: Samples, y: Samples) -> np.ndarray:
    """Mean over tasks of the share of pairs that x wins, [...]; ties count half."""
    signs = [np.sign(a[..., :, None] - b[..., None, :]).mean((-1, -2)) for a, b in zip(x, y, strict=True)]
    return (1 + np.mean(signs, axis=0)) / 2


def _above(samples: Samples, tau: np.ndarray) -> np.ndarray:
    """Mean over tasks of the share of runs above each threshold, [..., thresholds]."""
    return np.mean([(task[..., None] > tau).mean(-2) for task in samples], axis=0)


def _resampled(runs: Samples, repetitions: int, random: np.random.Generator) -> Samples:
    """Scores of each task resampled with replacement, [repetitions, seeds]."""
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} must be at least 1.")
    return [task[random.integers(len(task), size=(repetitions, len(task)))] for task in runs]


def _interval(drawn: np.ndarray, of: list[Samples]) -> np.ndarray:
    """95 % interval [2, ...] of samples `drawn` [repetitions, ...]; NaN if any task has a single seed."""
    if _sizes(of)["seeds"] < 2:
        return np.full((2, *drawn.shape[1:]), np.nan)
    return np.percentile(drawn, [2.5, 97.5], axis=0)


def _sizes(of: list[Samples]) -> dict[str, int]:
    return {"tasks": len(of[0]), "seeds": min(len(task) for runs in of for task in runs)}


def _by_method(scores: pd.DataFrame) -> dict[str, Samples]:
    """Validated scores by method, in order of appearance; scores of each task in ascending order."""
    _check(scores)
    tasks = sorted(scores["task"].unique())
    methods = {}
    for method, runs in scores.groupby("method", sort=False):
        by_task = {task: np.sort(some["score"].to_numpy(float)) for task, some in runs.groupby("task")}
        if missing := [task for task in tasks if task not in by_task]:
            raise ValueError(
                f"method {method!r} has no runs on {missing}: averages over different tasks do not compare. Run it "
                "there, or leave out the method or the tasks."
            )
        methods[method] = [by_task[task] for task in tasks]
    return methods


def _check(scores: pd.DataFrame) -> None:
    if missing := [column for column in ("task", "method", "seed", "score") if column not in scores]:
        raise ValueError(f"scores lack the columns {missing}; there are {list(scores)}.")
    if scores.empty:
        raise ValueError("scores hold no runs.")
    wrong = ~np.isfinite(scores["score"].to_numpy(float))
    if wrong.any():
        runs = scores.loc[wrong, ["task", "method", "seed"]].to_records(index=False).tolist()
        raise ValueError(f"these runs have no finite score: {runs}. Leave them out, or score by something else.")
    twice = scores.duplicated(["task", "method", "seed"])
    if twice.any():
        runs = scores.loc[twice, ["task", "method", "seed"]].to_records(index=False).tolist()
        raise ValueError(f"these runs (task, method, seed) appear more than once: {runs}.")
