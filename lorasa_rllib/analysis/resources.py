"""Cost of sharing methods as teams grow: parameters to store and to train, counted on the actual networks.

Measured quantities (memory of a learning step, steps per second) come from `benchmarks/resources.py`, which adds them
as columns of the same table; `draw_resources` draws the columns that are present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from lorasa_rllib.analysis.canvas import save
from lorasa_rllib.analysis.palette import styles
from lorasa_rllib.nn.policy import Phase, PolicyConfig, TeamPolicy

GROUPS: tuple[Literal["backbone", "adapters", "critic"], ...] = ("backbone", "adapters", "critic")
ADAM_MOMENTS = 2
PANELS = {
    "parameters": ("Parameters, actor and critic", 1.0),
    "trained": ("Parameters trained in the last phase", 1.0),
    "weight_bytes": ("Weights of a checkpoint, MiB", 2.0**20),
    "optimiser_bytes": ("Adam's moments, last phase, MiB", 2.0**20),
    "memory_bytes": ("Peak memory of learning, MiB", 2.0**20),
    "acting_steps_per_second": ("Acting, environment steps / s", 1.0),
    "learning_steps_per_second": ("Learning, environment steps / s", 1.0),
}
"""Column of a resource table -> its title in figures, and the unit by which figures divide it."""
DRAWN = ("parameters", "optimiser_bytes", "memory_bytes", "acting_steps_per_second", "learning_steps_per_second")
"""Columns drawn by default: `weight_bytes` and `trained` would repeat the shapes of the first two."""


@dataclass(frozen=True)
class Counts:
    """Exact sizes of one policy, summed over its modules.

    backbone, adapters, critic: parameter counts over all owners; published counts refer to a single owner.
    parameters:      their sum.
    trained:         parameters trained in `phase`: critic and backbone, critic and adapters, or all.
    weight_bytes:    size of the policy's state dict: parameters and buffers such as normalisers and phase.
    optimiser_bytes: Adam's two moments of every trained parameter. Excludes step counters (one per owner and tensor)
                     and moments from an earlier phase: two-phase runs keep the backbone's, twice its size, to the end.
    """

    backbone: int
    adapters: int
    critic: int
    trained: int
    weight_bytes: int
    optimiser_bytes: int

    @property
    def parameters(self) -> int:
        return self.backbone + self.adapters + self.critic


def last_phase(config: PolicyConfig) -> Phase:
    """The last phase of a two-phase run: "adapters" if the method has adapters, otherwise "backbone"."""
    return "adapters" if config.owners.num_adapters else "backbone"


def counts(config: PolicyConfig, phase: Phase | None = None) -> Counts:
    """Sizes of the policy of `config` in a phase; None: the last one. Raises ValueError for phases it does not have.

    Builds the policy, which needs its memory; preserves the state of torch's CPU random generator.
    """
    with torch.random.fork_rng(devices=[]):
        policy = TeamPolicy(config)
    policy.set_phase(last_phase(config) if phase is None else phase)
    sizes = {group: _numbers(policy.parameters_of(group).values()) for group in GROUPS}
    trained = [p for p in policy.parameters() if p.requires_grad]
    return Counts(
        **sizes,
        trained=_numbers(trained),
        weight_bytes=sum(t.nbytes for t in policy.state_dict().values()),
        optimiser_bytes=ADAM_MOMENTS * sum(p.nbytes for p in trained),
    )


def _numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def count_methods(
    methods: Mapping[str, Callable[[int], PolicyConfig]], agents: Sequence[int], phase: Phase | None = None
) -> pd.DataFrame:
    """One row per method and number of agents: method, agents, `parameters` and the fields of `Counts`.

    methods: name -> function from the number of agents to a policy config. phase: see `counts`.
    """
    return pd.DataFrame(
        [
            {"method": name, "agents": n, "parameters": sizes.parameters, **asdict(sizes)}
            for name, config_of in methods.items()
            for n in agents
            for sizes in [counts(config_of(n), phase)]
        ]
    )


def draw_resources(
    frame: pd.DataFrame,
    path: Path,
    title: str = "What sharing methods cost",
    labels: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    columns: Iterable[str] = DRAWN,
) -> None:
    """Draws one panel per column against the number of agents, on log-log axes; lines are labelled at their ends.

    frame: rows of method, agents and any of `columns`; missing or all-NaN columns are omitted. labels, colours: by
    method, as in `score_figures`. Raises ValueError if none of the columns is present.
    """
    from matplotlib.figure import Figure

    shown = [column for column in columns if column in frame and frame[column].notna().any()]
    if not shown:
        raise ValueError(f"the table has none of the columns {list(columns)}; there are {list(frame)}.")
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(4.6 * across, 0.6 + 2.9 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    style = styles(frame["method"], colours)
    for column, panel in zip(shown, panels, strict=False):
        _draw_panel(panel, frame.dropna(subset=column), column, style, labels or {})
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _draw_panel(
    panel: Any, frame: pd.DataFrame, column: str, style: Mapping[str, dict[str, Any]], labels: Mapping[str, str]
) -> None:
    from matplotlib.ticker import LogLocator

    name, unit = PANELS.get(column, (column, 1.0))
    ends = {}
    for method, runs in frame.groupby("method", sort=False):
        line = runs.sort_values("agents")
        panel.plot(line["agents"], line[column] / unit, linewidth=1.5, markersize=4, **style[str(method)])
        ends[str(method)] = (line["agents"].iloc[-1], line[column].iloc[-1] / unit)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(sorted(set(frame["agents"])))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    panel.minorticks_off()
    panel.set_xlabel("agents")
    panel.set_title(name, fontsize=10)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    low, high = np.log(panel.get_ylim())
    places = _apart({method: (np.log(y) - low) / (high - low) for method, (_, y) in ends.items()}, gap=0.085)
    for method, place in places.items():
        panel.annotate(
            labels.get(method, method),
            ends[method],
            xytext=(1.05, place),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": style[method]["color"], "linewidth": 0.6, "shrinkA": 0},
        )


def _apart(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Shifts heights slightly so that they lie at least `gap` apart within 0 .. 1 (less if they would not fit)."""
    names = sorted(places, key=lambda name: places[name])
    at = np.array([places[name] for name in names])
    gap = min(gap, 1 / max(1, len(at) - 1))
    for _ in range(50):  # push close neighbours apart on both sides
        close = np.maximum(0, gap - np.diff(at)) / 2
        at[:-1] -= close
        at[1:] += close
    steps = gap * np.arange(len(at))
    at = np.maximum.accumulate(np.maximum(at, 0) - steps) + steps
    at = np.minimum.accumulate((np.minimum(at, 1) - steps + steps[-1])[::-1])[::-1] + steps - steps[-1]
    return dict(zip(names, at.tolist(), strict=True))
