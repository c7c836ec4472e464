"""The table at the end of a study: returns of every scenario and method over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from rich.table import Table

LAST_SHARE = 0.1
"""A seed's final return is the mean over this last share of its steps."""

COMPARED = ["scenario", "obs", "algorithm", "method"]
"""Columns of curves that tell one row of a summary from another."""

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def final_returns(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per task (scenario and observations), algorithm, method and seed: what it reached, steps and minutes."""
    rows = []
    for (*which, seed), run in curves.groupby([*COMPARED, "seed"], sort=False):
        last = run[run["env_steps"] > (1 - LAST_SHARE) * run["env_steps"].max()]
        evaluated = run["evaluation_return"].dropna()
        rows.append(
            {
                **dict(zip(COMPARED, which, strict=True)),
                "seed": seed,
                "final_return": last["episode_return"].mean(),
                "greedy_return": evaluated.iloc[-1] if len(evaluated) else math.nan,
                "env_steps": int(run["env_steps"].max()),
                "minutes": run["seconds"].max() / 60,
            }
        )
    return pd.DataFrame(rows)


def summary(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per task, algorithm and method: mean over seeds, half width of its 95 % t-interval (one seed: NaN)."""
    if curves.empty:
        raise ValueError("no episode ended in this study; raise --total-env-steps beyond the length of an episode.")
    rows = []
    for which, seeds in final_returns(curves).groupby(COMPARED, sort=False):
        rows.append(
            {
                **dict(zip(COMPARED, which, strict=True)),
                "final_return": seeds["final_return"].mean(),
                "interval": half_width(seeds["final_return"].to_numpy()),
                "lowest": seeds["final_return"].min(),
                "highest": seeds["final_return"].max(),
                "greedy_return": seeds["greedy_return"].mean(),
                "seeds": len(seeds),
                "env_steps": int(seeds["env_steps"].min()),
                "minutes": seeds["minutes"].mean(),
            }
        )
    return pd.DataFrame(rows)


def half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t-interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    quantile = _T95[min(len(values) - 2, len(_T95) - 1)]
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))


def rich_table(rows: pd.DataFrame) -> Table:
    """The summary for a terminal."""
    few = rows["seeds"].min() < 3
    caution = "With fewer than 3 seeds, such differences may be chance: --seeds 5 tells more." if few else None
    table = Table(title="Team return, mean over seeds (last tenth of the steps)", caption=caution)
    for column in COMPARED:
        table.add_column(column)
    for column in ("final return", "95 % interval", "lowest to highest", "greedy", "seeds", "env steps", "minutes"):
        table.add_column(column, justify="right")
    for row in rows.itertuples():
        table.add_row(
            *(getattr(row, column) for column in COMPARED),
            f"{row.final_return:,.0f}",
            "" if math.isnan(row.interval) else f"± {row.interval:,.0f}",
            f"{row.lowest:,.0f} to {row.highest:,.0f}" if row.seeds > 1 else "",
            "" if math.isnan(row.greedy_return) else f"{row.greedy_return:,.0f}",
            str(row.seeds),
            f"{row.env_steps:,}",
            f"{row.minutes:.1f}",
        )
    return table
