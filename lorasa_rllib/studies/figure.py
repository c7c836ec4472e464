"""Learning curves of a study as a figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasa_rllib.studies.curves import has_wins
from lorasa_rllib.studies.methods import colours_of, label_of

ALGORITHMS = {"mappo": ("MAPPO", "-"), "a2po": ("A2PO", "--"), "ppo": ("", "-")}
"""Name and line style of each."""


def draw_curves(curves: pd.DataFrame, path: Path, title: str) -> None:
    """One panel per scenario: mean over seeds as a line, lowest to highest seed as a band, phase switch dotted.

    Colours tell methods, line styles algorithms. Battles: the win rate of greedy evaluations, else the return while
    training.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    wins, colours = has_wins(curves), colours_of(list(dict.fromkeys(curves["method"])))
    scenarios = list(dict.fromkeys(curves["scenario"]))
    figure, panels = pyplot.subplots(
        1, len(scenarios), figsize=(1.5 + 5.5 * len(scenarios), 4.2), squeeze=False, layout="constrained"
    )
    for panel, scenario in zip(panels[0], scenarios, strict=True):
        here = curves[curves["scenario"] == scenario]
        algorithms = set(here["algorithm"]) - {"ppo"}
        for (algorithm, method), runs in here.groupby(["algorithm", "method"], sort=False):
            name, style = ALGORITHMS.get(algorithm, (algorithm, "-"))
            label = label_of(method)
            label = f"{name}, {label}" if len(algorithms) > 1 and name else label
            _draw_method(
                panel, runs, "evaluation_win_rate" if wins else "episode_return", label, colours[method], style
            )
        panel.set_title(scenario)
        panel.set_xlabel("environment steps (millions)")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if wins:
            panel.set_ylim(-0.02, 1.02)
            panel.yaxis.set_major_formatter("{x:.0%}")
    panels[0][0].set_ylabel("greedy battles won" if wins else "team return of an episode")
    panels[0][0].legend(frameon=False, loc="upper left")
    seeds = curves.groupby(["scenario", "algorithm", "method"])["seed"].nunique()
    many = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    band = "; band: lowest to highest seed" if seeds.max() > 1 else ""
    figure.suptitle(f"{title}; mean of {many} seed{'s' if seeds.max() > 1 else ''}{band}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary, dpi=150)
    os.replace(temporary, path)
    pyplot.close(figure)


def _draw_method(panel: Any, runs: pd.DataFrame, measure: str, label: str, colour: str | None, style: str) -> None:
    by_seed = [run.dropna(subset=measure).sort_values("env_steps") for _, run in runs.groupby("seed")]
    by_seed = [run for run in by_seed if len(run)]
    if not by_seed:
        return
    grid = np.linspace(max(r["env_steps"].min() for r in by_seed), min(r["env_steps"].max() for r in by_seed), 200)
    values = np.stack([np.interp(grid, r["env_steps"], r[measure]) for r in by_seed])
    (line,) = panel.plot(grid / 1e6, values.mean(0), style, label=label, color=colour, linewidth=1.8)
    if len(by_seed) > 1:
        panel.fill_between(grid / 1e6, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    adapted = runs[runs["phase"] == "adapters"]
    if len(adapted) and (runs["phase"] == "backbone").any():
        switch = adapted["env_steps"].min() / 1e6
        panel.axvline(switch, color=line.get_color(), linestyle=":", linewidth=1)
        panel.annotate(
            "phase switch", (switch, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=8,
            ha="right", va="bottom", color=line.get_color(),
        )  # fmt: skip
