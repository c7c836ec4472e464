"""The final table of a study: returns per scenario and method over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lorasa_rllib.studies.curves import has_wins
from lorasa_rllib.studies.methods import label_of
from lorasa_rllib.studies.terminal import three_figures

LAST_SHARE = 0.1
"""Share of the steps, at the end, over which a seed's final return is averaged."""

FEW = 3
"""Below this many seeds t-intervals are omitted: for two seeds the half width is six times their distance."""

LESS = ("minutes", "lowest to highest", "env steps", "seeds")
"""Columns dropped in narrow terminals, in this order; table.csv has them."""

COMPARED = ["scenario", "obs", "algorithm", "method"]
"""Columns of curves that identify a row of the summary."""

NO_EPISODE = "no episode ended in this study; raise --total-env-steps until every environment has played one."

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def final_returns(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per task (scenario and observations), algorithm, method and seed: final results, steps and minutes.

    final_*: mean of training episodes over the last tenth of the steps. greedy_return: the latest evaluation.
    greedy_win_rate: mean of the evaluations in that last tenth, or the latest one if there are none.
    """
    rows, wins = [], has_wins(curves)
    for (*which, seed), run in curves.groupby([*COMPARED, "seed"], sort=False):
        last = run[run["env_steps"] > (1 - LAST_SHARE) * run["env_steps"].max()]
        row = {
            **dict(zip(COMPARED, which, strict=True)),
            "seed": seed,
            "final_return": last["episode_return"].mean(),
            "greedy_return": _latest(run["evaluation_return"]),
        }
        if wins:
            greedy = last["evaluation_win_rate"].mean()
            row["final_win_rate"] = last["win_rate"].mean()
            row["greedy_win_rate"] = _latest(run["evaluation_win_rate"]) if math.isnan(greedy) else greedy
        rows.append(row | {"env_steps": int(run["env_steps"].max()), "minutes": run["seconds"].max() / 60})
    return pd.DataFrame(rows)


def _latest(evaluations: pd.Series) -> float:
    known = evaluations.dropna()
    return known.iloc[-1] if len(known) else math.nan


def summary(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per task, algorithm and method: mean over seeds and half width of its 95 % t-interval.

    Interval, lowest and highest refer to the measure: the greedy win rate of battles, otherwise the final return. The
    greedy return, from the latest evaluation, has its own interval. Intervals are NaN below `FEW` seeds.
    """
    if curves.empty:
        raise ValueError(NO_EPISODE)
    rows, wins = [], has_wins(curves)
    measure = "greedy_win_rate" if wins else "final_return"
    for which, seeds in final_returns(curves).groupby(COMPARED, sort=False):
        rates = {name: seeds[name].mean() for name in ("greedy_win_rate", "final_win_rate") if wins}
        rows.append(
            {
                **dict(zip(COMPARED, which, strict=True)),
                **rates,
                "final_return": seeds["final_return"].mean(),
                "interval": _interval(seeds[measure]),
                "lowest": seeds[measure].min(),
                "highest": seeds[measure].max(),
                "greedy_return": seeds["greedy_return"].mean(),
                "greedy_interval": _interval(seeds["greedy_return"].dropna()),
                "seeds": len(seeds),
                "env_steps": int(seeds["env_steps"].min()),
                "minutes": seeds["minutes"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _interval(values: pd.Series) -> float:
    return half_width(values.to_numpy()) if len(values) >= FEW else math.nan


def half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t-interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    free = len(values) - 1
    if free <= len(_T95):
        quantile = _T95[free - 1]
    else:
        from scipy.stats import t  # takes a second to import, and few tables have so many values

        quantile = t.ppf(0.975, free)
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))


def rich_table(rows: pd.DataFrame, width: int | None = None) -> Table:
    """The summary as a table for the terminal.

    If it is too wide, columns whose values do not differ move to the title, and columns of `LESS` are dropped as
    needed.
    """
    few = rows["seeds"].min() < FEW
    caution = f"With fewer than {FEW} seeds, such differences may be chance: --seeds 5 tells more." if few else None
    title = "Win rate of greedy battles" if "greedy_win_rate" in rows else "Team return"
    head, *cells = cells_of(rows)
    kept, wide = list(range(len(head))), width or math.inf
    if wide < sum(3 + max(len(row[k]) for row in (head, *cells)) for k in kept) + 1:
        kept = _differing(head, cells)
        for name in LESS:
            if wide < sum(1 + size for size in _sizes(head, cells, kept)) + 2 and head.index(name) in kept:
                kept.remove(head.index(name))
    once = [cells[0][k] + (" env steps" if head[k] == "env steps" else "") for k in range(len(head))
            if k not in kept and head[k] not in LESS[:2] and len({row[k] for row in cells}) == 1]  # fmt: skip
    about = f"{title}, mean over seeds (last tenth of the steps)"
    style: dict[str, Any] = {} if len(kept) == len(head) else {"box": SIMPLE_HEAD, "padding": (0, 0), "pad_edge": False}
    table = Table(title="; ".join(filter(None, [about, ", ".join(filter(None, once))])), caption=caution, **style)
    for k, size in zip(kept, _sizes(head, cells, kept), strict=True):
        named = head[k] in COMPARED
        fits = {"no_wrap": True} if named else {"min_width": size if wide < math.inf else None}
        table.add_column(head[k], justify="left" if named else "right", overflow="fold", **fits)
    for row in cells:
        table.add_row(*(row[k] for k in kept))
    return table


def _sizes(head: list[str], cells: list[list[str]], kept: list[int]) -> list[int]:
    """Width of each kept column; headers wrap at spaces."""
    return [max(*(len(row[k]) for row in cells), *map(len, head[k].split())) for k in kept]


def _differing(head: list[str], cells: list[list[str]]) -> list[int]:
    """Indices of the columns, without those of `COMPARED` and "env steps" that are the same in every row."""
    told = [*COMPARED, "env steps"]
    found = [k for k, name in enumerate(head) if name not in told or len({row[k] for row in cells}) > 1]
    return found if len(cells) > 1 else sorted({*found, head.index("method")})


def markdown(rows: pd.DataFrame) -> str:
    """The summary as a Markdown table, with display names of methods and only the columns of `_differing`."""
    head, *cells = cells_of(rows.assign(method=rows["method"].map(label_of)))
    kept = _differing(head, cells)
    lines = [[row[k] for k in kept] for row in (head, ["---"] * len(head), *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells_of(rows: pd.DataFrame) -> list[list[str]]:
    """The summary as text cells, header first."""
    wins = "greedy_win_rate" in rows
    first = ("win rate", "95 % interval", "lowest to highest", "while training", "return")
    measured = first if wins else ("final return", "95 % interval", "lowest to highest", "greedy")

    cells = [[*COMPARED, *measured, "seeds", "env steps", "minutes"]]
    for row in rows.itertuples():
        shown = _number("{:.0%}" if wins else f"{{:,.{_decimals(row.final_return, row.greedy_return)}f}}")
        half, some = shown(row.interval), row.seeds > 1
        greedy = " ± ".join(filter(None, (shown(row.greedy_return), shown(row.greedy_interval))))
        more = [f"{row.final_win_rate:.0%}", three_figures(row.final_return)] if wins else [greedy]
        cells.append(
            [
                *(getattr(row, column) for column in COMPARED),
                shown(row.greedy_win_rate if wins else row.final_return),
                half and f"± {half}",
                f"{shown(row.lowest)} to {shown(row.highest)}" if some else "",
                *more,
                str(row.seeds),
                f"{row.env_steps:,}",
                f"{row.minutes:.1f}",
            ]
        )
    return cells


def _number(form: str) -> Callable[[float], str]:
    return lambda value: "" if math.isnan(value) else form.format(value)


def _decimals(*returns: float) -> int:
    """Decimals for three significant figures of the largest return; at most two, or three if it is below 0.1."""
    largest = max((abs(value) for value in returns if not math.isnan(value)), default=0.0)
    return 0 if not 0 < largest < 100 else min(2 if largest >= 0.1 else 3, 2 - math.floor(math.log10(largest)))
