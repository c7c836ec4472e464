"""Shared parts of the figures: panels that need no display, heat maps, atomic writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

BLUE, RED = "#4477aa", "#ee6677"  # of Paul Tol's bright palette, safe for colour-blind readers
VALUES_UP_TO = 12
"""Heat maps show values in their cells up to this many rows and columns."""


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure with one panel, size in inches. Uses neither a display nor pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Any, path: Path) -> None:
    """Writes the figure atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary, dpi=150)
    os.replace(temporary, path)


def draw_cells(
    panel: Any, values: np.ndarray, rows: list[str], columns: list[str], label: str, number: str = "{:.2f}"
) -> None:
    """Draws non-negative values [rows, columns] as a heat map with a colour bar; NaN is grey."""
    panel.set_facecolor("#bbbbbb")
    top = np.nanmax(values, initial=0.0)
    image = panel.imshow(values, cmap="viridis", vmin=0.0, vmax=top if np.isfinite(top) and top > 0 else 1.0)
    panel.figure.colorbar(image, ax=panel, label=label)
    for axis, names in ((panel.yaxis, rows), (panel.xaxis, columns)):
        every = -(-len(names) // 40)  # more than 40 names would overlap
        axis.set_ticks(range(0, len(names), every), names[::every])
    if max(map(len, columns)) > 3:
        panel.tick_params(axis="x", rotation=45)
        for tick in panel.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    if max(values.shape) <= VALUES_UP_TO:
        for (r, c), value in np.ndenumerate(values):
            words = number.format(value) if np.isfinite(value) else "n/a"
            panel.text(c, r, words, ha="center", va="center", color="white" if image.norm(value) < 0.6 else "black")
