"""Figures of a study: learning curves, and final returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasa_rllib.analysis.canvas import save
from lorasa_rllib.analysis.palette import styles
from lorasa_rllib.studies.curves import has_wins
from lorasa_rllib.studies.methods import colours_of, label_of
from lorasa_rllib.studies.table import final_returns

ALGORITHMS = {"mappo": ("MAPPO", "-"), "a2po": ("A2PO", "--"), "ppo": ("", "-")}
"""Display name and line style of each algorithm."""


def draw_curves(curves: pd.DataFrame, path: Path, title: str) -> None:
    """Draws one panel per scenario: the mean over seeds as a line, the phase switch dotted, and next to the line's end
    a bar from the lowest to the highest seed, each averaged over the last tenth of the steps.

    Colours and markers distinguish methods, line styles algorithms. Battles show the win rate of greedy evaluations,
    other tasks the training return.
    """
    wins, colours = has_wins(curves), colours_of(list(dict.fromkeys(curves["method"])))
    looks, finals = styles(colours, colours), final_returns(curves)
    scenarios = list(dict.fromkeys(curves["scenario"]))
    unit, units = (1e6, "millions") if curves["env_steps"].max() >= 5e5 else (1e3, "thousands")
    figure, panels = _panels(len(scenarios), 3.9)
    handles: dict[str, Any] = {}
    for panel, scenario in zip(panels, scenarios, strict=True):
        here, reached = curves[curves["scenario"] == scenario], finals[finals["scenario"] == scenario]
        algorithms, end = set(here["algorithm"]) - {"ppo"}, here["env_steps"].max() / unit
        for place, ((algorithm, method), runs) in enumerate(here.groupby(["algorithm", "method"], sort=False)):
            name, style = ALGORITHMS.get(algorithm, (algorithm, "-"))
            label = label_of(method)
            label = f"{name}, {label}" if len(algorithms) > 1 and name else label
            measure = "evaluation_win_rate" if wins else "episode_return"
            line = _draw_method(panel, runs, unit, measure, looks[method] | {"linestyle": style})
            if line is not None:
                handles.setdefault(label, line)
            of_method = (reached["algorithm"] == algorithm) & (reached["method"] == method)
            seeds = reached.loc[of_method, "greedy_win_rate" if wins else "final_return"].dropna()
            _draw_spread(panel, seeds, end * (1.025 + 0.022 * place), looks[method]["color"], style)
        panel.set_xticks([tick for tick in panel.get_xticks() if 0 <= tick <= 1.001 * end])
        if (here["phase"] == "adapters").any():
            handles[SWITCHED] = _switch_handle()
        panel.set_title(scenario)
        panel.set_xlabel(f"environment steps ({units})")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if wins:
            panel.set_ylim(-0.02, 1.02)
            panel.yaxis.set_major_formatter("{x:.0%}")
    for panel in panels[::ACROSS]:
        panel.set_ylabel("greedy battles won" if wins else "team return of an episode")
    if SWITCHED in handles:  # named last
        handles[SWITCHED] = handles.pop(SWITCHED)
    wide = figure.get_figwidth() / (0.9 + 0.085 * max(map(len, handles), default=1))
    across = min(len(handles), max(1, int(wide)))
    figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=across or 1)
    seeds = curves.groupby(["scenario", "algorithm", "method"])["seed"].nunique()
    many = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    band = "; bars: lowest to highest seed at the end" if seeds.max() > 1 else ""
    figure.suptitle(f"{title}; mean of {many} seed{'s' if seeds.max() > 1 else ''}{band}", fontsize=10)
    save(figure, path)


def draw_finals(curves: pd.DataFrame, path: Path, title: str) -> None:
    """Draws one panel per scenario with one line per method: a point per seed, a bar at their mean. For many methods.

    Battles show the win rate of greedy evaluations, other tasks the return over the last tenth of training.
    """
    finals, wins = final_returns(curves), has_wins(curves)
    measure = "greedy_win_rate" if wins else "final_return"
    methods = list(dict.fromkeys(finals["method"]))
    scenarios, colours = list(dict.fromkeys(finals["scenario"])), colours_of(methods)
    figure, panels = _panels(len(scenarios), 1.2 + 0.27 * len(methods))
    for panel, scenario in zip(panels, scenarios, strict=True):
        here = finals[finals["scenario"] == scenario]
        for place, method in enumerate(methods):
            values = here.loc[here["method"] == method, measure]
            panel.plot(values, [place] * len(values), "o", color=colours[method], markersize=5, alpha=0.7)
            panel.plot(values.mean(), place, "|", color=colours[method], markersize=16, markeredgewidth=3)
        panel.set_yticks(range(len(methods)), [label_of(method) for method in methods])
        panel.set_ylim(len(methods) - 0.4, -0.6)
        panel.set_title(scenario)
        panel.set_xlabel("greedy battles won" if wins else "team return, last tenth of training")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if wins:
            panel.xaxis.set_major_formatter("{x:.0%}")
    figure.suptitle(f"{title}; points: seeds, bars: their means", fontsize=10)
    save(figure, path)


ACROSS = 2
"""Panels per row."""
SWITCHED = "phase switch"
"""Legend text of the dotted line."""


def _panels(number: int, height: float) -> tuple[Any, list[Any]]:
    """A figure with `number` panels, `ACROSS` per row, each `height` inches high."""
    from matplotlib.figure import Figure

    across = min(ACROSS, number)
    down = -(-number // across)
    figure = Figure(figsize=(1.5 + 5.5 * across, height * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[number:]:
        panel.set_visible(False)
    return figure, panels[:number]


def _draw_method(panel: Any, runs: pd.DataFrame, unit: float, measure: str, look: dict[str, Any]) -> Any:
    """Draws the curve of one method. Returns its line, None without values. unit: environment steps per axis unit."""
    by_seed = [run.dropna(subset=measure).sort_values("env_steps") for _, run in runs.groupby("seed")]
    by_seed = [run for run in by_seed if len(run)]
    if not by_seed:
        return None
    grid = np.linspace(max(r["env_steps"].min() for r in by_seed), min(r["env_steps"].max() for r in by_seed), 200)
    values = np.stack([np.interp(grid, r["env_steps"], r[measure]) for r in by_seed])
    (line,) = panel.plot(grid / unit, values.mean(0), linewidth=1.6, markersize=5, markevery=25, **look)
    adapted = runs[runs["phase"] == "adapters"]
    if len(adapted) and (runs["phase"] == "backbone").any():
        panel.axvline(adapted["env_steps"].min() / unit, color=look["color"], linestyle=":", linewidth=1)
    return line


def _draw_spread(panel: Any, seeds: pd.Series, at: float, colour: str, style: str) -> None:
    """Draws a bar from the lowest to the highest seed with a dot at their mean; nothing for a single seed."""
    if len(seeds) > 1:
        panel.vlines(at, seeds.min(), seeds.max(), color=colour, linewidth=2.4, linestyle=style, alpha=0.8)
        panel.scatter([at], [seeds.mean()], color=colour, s=14, zorder=3)


def _switch_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#666666", linestyle=":", linewidth=1)
