"""Pictures of worlds of VMAS with Matplotlib: the package's own need a display or a GPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from vmas.simulator.core import Shape, World
    from vmas.simulator.scenario import BaseScenario

SIDE = 480
"""Pixels of the longer side of a picture."""


def picture(world: World, scenario: BaseScenario, index: int = 0) -> np.ndarray:
    """The shapes in one world, uint8 [height, width, 3]; every agent is in view."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2D

    width, height = scenario.viewer_size
    scale = SIDE / max(width, height)
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    for body in world.entities:
        if not bool(body.is_rendering[index]):
            continue
        x, y = body.state.pos[index].tolist()
        color = np.asarray(body.color if not hasattr(body.color, "tolist") else body.color.tolist(), float)
        color = np.clip(color[index] if color.ndim > 1 else color, 0, 1)
        place = Affine2D().rotate(float(body.state.rot[index])).translate(x, y)
        red, green, blue = color[:3].tolist()
        shape = _shape(body.shape, (red, green, blue), float(getattr(body, "_alpha", 1.0)))
        shape.set_transform(place + axes.transData)
        axes.add_artist(shape)
    reach = np.abs([agent.state.pos[index].tolist() for agent in world.agents]).max(0)
    room = max(scenario.viewer_zoom * 1.2, *(reach + 0.2))
    short = min(width, height)
    axes.set(xlim=(-room * width / short, room * width / short), ylim=(-room * height / short, room * height / short))
    axes.set_axis_off()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _shape(shape: Shape, color: tuple[float, float, float], alpha: float) -> Artist:
    """A shape of the package around the origin."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Rectangle

    if hasattr(shape, "radius"):
        return Circle((0, 0), shape.radius, facecolor=color, edgecolor="black", linewidth=0.5, alpha=alpha)
    if hasattr(shape, "hollow"):
        corner = -shape.length / 2, -shape.width / 2
        filled = "none" if shape.hollow else color
        return Rectangle(corner, shape.length, shape.width, facecolor=filled, edgecolor=color, alpha=alpha)
    assert math.isfinite(shape.length), "a line has a length"
    return Line2D([-shape.length / 2, shape.length / 2], [0, 0], color=color, linewidth=2, alpha=alpha)
