"""What a sharing method costs as teams grow: numbers to store and to train, counted on the networks themselves.

What has to be measured (memory of a learning step, steps per second) comes from `benchmarks/resources.py`, which adds
its columns to the same table; `draw_resources` draws those it finds.
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
"""Columns of a table of resources: how a figure names them, and the unit it divides them by."""
DRAWN = ("parameters", "optimiser_bytes", "memory_bytes", "acting_steps_per_second", "learning_steps_per_second")
"""Columns of a figure: bytes of weights and what is trained only repeat the shapes of the first two."""


@dataclass(frozen=True)
class Counts:
    """Sizes of one policy. Exact: summed over its modules.

    backbone, adapters, critic: numbers in their parameters, over all owners. A published count is that of one of them.
    parameters:      all of these.
    trained:         those that `phase` trains: critic and backbone, or critic and adapters, or everything.
    weight_bytes:    of the policy in a checkpoint: parameters, value normaliser and phase.
    optimiser_bytes: Adam's two moments of every trained number. Not counted are step counters (one number per owner and
                     tensor), and the moments that an earlier phase leaves behind: a run of two phases keeps those of
                     the backbone, twice its size, at rest until it ends.
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
    """The phase in which a run of two phases ends: "adapters" where the method has any, else "backbone"."""
    return "adapters" if config.owners.num_adapters else "backbone"


def counts(config: PolicyConfig, phase: Phase | None = None) -> Counts:
    """Sizes of the policy of `config` in a phase; None: the last one. Raises ValueError for phases it does not have.

    Builds the policy, and so needs its memory; random numbers elsewhere are not disturbed.
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
    """One row per method and number of agents: method, agents, and the fields of `Counts` with `parameters`.

    methods: by name, the policy of a team of so many agents. phase: as in `counts`.
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
    """A panel per column over the number of agents, both axes logarithmic; methods are named where their lines end.

    frame: rows of method, agents and any of `columns`; columns it lacks (or holds only NaN of) have no panel. labels,
    colours: of methods, as in `score_figures`. Raises ValueError where none of the columns is there.
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
    """Heights moved about as little as it takes to lie `gap` apart between 0 and 1 (less if so many do not fit)."""
    names = sorted(places, key=lambda name: places[name])
    at = np.array([places[name] for name in names])
    gap = min(gap, 1 / max(1, len(at) - 1))
    for _ in range(50):  # crowds spread to both sides
        close = np.maximum(0, gap - np.diff(at)) / 2
        at[:-1] -= close
        at[1:] += close
    steps = gap * np.arange(len(at))
    at = np.maximum.accumulate(np.maximum(at, 0) - steps) + steps
    at = np.minimum.accumulate((np.minimum(at, 1) - steps + steps[-1])[::-1])[::-1] + steps - steps[-1]
    return dict(zip(names, at.tolist(), strict=True))
