"""Figures of aggregate scores: points with intervals, profiles with bands, probabilities of improvement.

labels: display names; colours: see `palette.styles`; both by method and optional. If a task has only one seed there is
no interval, and the figure says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lorasa_rllib.analysis.canvas import save
from lorasa_rllib.analysis.palette import styles

Names = Mapping[str, str] | None
PANELS = {
    "iqm": "Interquartile mean",
    "median": "Median over tasks",
    "mean": "Mean",
    "optimality_gap": "Optimality gap (lower is better)",
}
ONE_SEED = "one seed"


def draw_aggregates(
    frame: pd.DataFrame,
    path: Path,
    title: str,
    labels: Names = None,
    colours: Names = None,
    unit: str = "normalised score",
) -> None:
    """Draws one panel per measure of `scores.aggregate`, with a point and interval per method. unit: of the scores."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(frame["method"]))
    figure = Figure(figsize=(8.0, 2.0 + 0.64 * len(methods)), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for panel, (measure, name) in zip(panels.flat, PANELS.items(), strict=True):
        here = frame[frame["measure"] == measure].set_index("method").loc[methods]
        _draw_points(panel, here, styles(methods, colours))
        panel.set_yticks(range(len(methods)), [(labels or {}).get(method, method) for method in methods])
        panel.set_title(name, fontsize=10)
    figure.supxlabel(f"{unit}{_bars(frame)}", fontsize=9)
    figure.suptitle(f"{title}; {_tasks_and_seeds(frame)}", fontsize=10)
    save(figure, path)


def draw_improvement(frame: pd.DataFrame, path: Path, title: str, labels: Names = None, colours: Names = None) -> None:
    """Draws one line per pair of `scores.improvement` in the colour of x; marks 50 %, where neither is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.6 + 0.4 * len(frame)), layout="constrained")
    panel = figure.subplots()
    style = styles([*frame["x"], *frame["y"]], colours)
    _draw_points(panel, frame.set_index("x"), style)
    names = [
        f"{(labels or {}).get(x, x)}  over  {(labels or {}).get(y, y)}"
        for x, y in zip(frame["x"], frame["y"], strict=True)
    ]
    panel.set_yticks(range(len(frame)), names)
    panel.axvline(0.5, color="#555555", linestyle=":", linewidth=1)
    panel.set_xlim(-0.03, 1.03)
    panel.xaxis.set_major_formatter("{x:.0%}")
    figure.supxlabel(
        f"probability that a run of the first scores higher (50 %: no difference){_bars(frame, True)}", fontsize=10
    )
    figure.suptitle(f"{title}; {_tasks_and_seeds(frame)}", fontsize=10)
    save(figure, path)


def draw_profile(
    frame: pd.DataFrame,
    path: Path,
    title: str,
    labels: Names = None,
    colours: Names = None,
    unit: str = "normalised score",
) -> None:
    """Draws `scores.performance_profile` as one step curve per method with its band; higher is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    panel = figure.subplots()
    for method, style in styles(frame["method"], colours).items():
        here = frame[frame["method"] == method].sort_values("threshold")
        label = (labels or {}).get(method, method) + (f" ({ONE_SEED})" if here["seeds"].min() < 2 else "")
        x, few = here["threshold"], max(1, len(here) // 12)
        panel.plot(x, here["share"], drawstyle="steps-post", label=label, markevery=few, markersize=4, **style)
        panel.fill_between(x, here["low"], here["high"], step="post", color=style["color"], alpha=0.15, linewidth=0)
    panel.set_ylim(-0.02, 1.02)
    panel.yaxis.set_major_formatter("{x:.0%}")
    panel.set_ylabel("runs that score above")
    panel.set_xlabel(f"{unit}{_bars(frame).replace('bars', 'bands')}")
    panel.legend(frameon=False)
    _plain(panel)
    figure.suptitle(f"{title}; {_tasks_and_seeds(frame)}", fontsize=10)
    save(figure, path)


def _draw_points(panel: Any, rows: pd.DataFrame, style: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws one line per row, from top to bottom; the index holds the method."""
    for place, (method, row) in enumerate(rows.iterrows()):
        look = style[str(method)]
        interval = [row["low"], row["high"]]
        panel.plot(interval, [place] * 2, color=look["color"], linewidth=5, alpha=0.4, solid_capstyle="butt")
        panel.plot(row["value"], place, markersize=6, **look)
        if row["seeds"] < 2:
            panel.annotate(
                ONE_SEED, (row["value"], place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.margins(x=0.12)
    _plain(panel)


def _plain(panel: Any) -> None:
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _bars(frame: pd.DataFrame, below: bool = False) -> str:
    if frame["low"].isna().all():
        return ""
    return ("\n" if below else "; ") + "bars: 95 % bootstrap intervals over seeds"


def _tasks_and_seeds(frame: pd.DataFrame) -> str:
    tasks, low, high = frame["tasks"].max(), frame["seeds"].min(), frame["seeds"].max()
    seeds = f"{low}" if low == high else f"{low} to {high}"
    return f"{tasks} task{'s' if tasks > 1 else ''}, {seeds} seed{'s' if high > 1 else ''} or more each"
