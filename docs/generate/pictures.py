"""Draws the pictures of docs/concepts.md as SVG: python docs/generate/pictures.py"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "pictures"
PS, LORA, GREY, NPS = "#4477aa", "#ee6677", "#888888", "#222222"


def box(x: float, y: float, w: float, h: float, text: str, colour: str, filled: bool = True, size: int = 13) -> str:
    """A box with lines of text in its middle."""
    fill, ink = (colour, "#ffffff") if filled else ("#ffffff", "#222222")
    lines = text.split("\n")
    top = y + h / 2 - (len(lines) - 1) * size * 0.62
    words = "".join(label(x + w / 2, top + k * size * 1.24, line, ink, size) for k, line in enumerate(lines))
    shape = (
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{colour}" stroke-width="1.6"/>'
    )
    return shape + words


def label(x: float, y: float, text: str, ink: str = "#222222", size: int = 13, anchor: str = "middle") -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{ink}" font-size="{size}" text-anchor="{anchor}" '
        f'dominant-baseline="central">{escape(text)}</text>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#555555" stroke-width="1.6" marker-end="url(#head)"/>'
    )


def picture(name: str, width: int, height: int, parts: list[str], about: str) -> None:
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555555"/></marker>'
    )
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
    shape = f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, sans-serif"'
    text = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>',
            f"<title>{escape(about)}</title><defs>{head}</defs>{ground}",
            *parts,
            "</svg>\n",
        ]
    )
    (FOLDER / name).write_text(text)


def owners() -> None:
    """Who owns what, for four agents: one column per agent, one row per method."""
    rows = [
        ("PS", [(0, 4, "one policy")], []),
        ("SePS", [(0, 2, "group 0"), (2, 2, "group 1")], []),
        ("NPS", [(n, 1, f"policy {n}") for n in range(4)], []),
        ("LoRASA", [(0, 4, "one backbone")], range(4)),
        ("SePS+LoRA", [(0, 2, "backbone 0"), (2, 2, "backbone 1")], range(4)),
    ]
    parts = [label(190 + 120 * n, 22, f"agent {n}", GREY) for n in range(4)]
    y = 42
    for name, backbones, adapters in rows:
        parts.append(label(112, y + (32 if adapters else 15), name, size=14, anchor="end"))
        for first, many, text in backbones:
            parts.append(box(134 + 120 * first, y, 120 * many - 8, 30, text, PS))
        for n in adapters:
            parts.append(box(134 + 120 * n, y + 36, 112, 26, f"adapter {n}", LORA))
        y += 86 if adapters else 48
    picture("owners.svg", 620, y + 4, parts, "Which weights each of four agents uses under five sharing methods")


def phases() -> None:
    """Two phases and joint training along the environment steps."""
    parts = [
        label(96, 45, "backbone", anchor="end"),
        box(110, 28, 150, 34, "trains", PS),
        box(264, 28, 346, 34, "frozen, bit for bit", PS, filled=False),
        label(96, 87, "adapters", anchor="end"),
        box(110, 70, 150, 34, "zero effect", LORA, filled=False),
        box(264, 70, 346, 34, "train", LORA),
        label(96, 129, "critic", anchor="end"),
        box(110, 112, 500, 34, "trains on, with its optimiser and normaliser", GREY),
        '<line x1="262" y1="14" x2="262" y2="108" stroke="#555555" stroke-dasharray="4 4"/>',
        arrow(262, 180, 262, 150),
        label(262, 190, "phase switch", "#555555"),
        arrow(110, 208, 610, 208),
        label(360, 224, "environment steps", "#555555", 12),
        label(185, 14, "phase 1: backbone", "#555555", 12),
        label(437, 14, "phase 2: adapters", "#555555", 12),
    ]
    picture("phases.svg", 630, 238, parts, "Two phases: the backbone trains, then it is frozen and the adapters train")


def iteration() -> None:
    """One iteration, from environments to learner and back."""
    parts = [
        box(10, 40, 270, 150, "", GREY, filled=False),
        label(145, 24, "env runner (one Ray actor, one core)"),
        box(28, 56, 234, 34, "E environments step together", PS),
        arrow(145, 90, 145, 104),
        box(28, 106, 234, 34, "one forward for all E x N rows", PS),
        arrow(145, 140, 145, 152),
        box(28, 154, 234, 28, "arrays [T, E, N, ...]", PS, filled=False),
        box(430, 40, 300, 150, "", GREY, filled=False),
        label(580, 24, "learner (CPU or GPU)"),
        box(448, 56, 264, 34, "critic, GAE, advantages of live agents", LORA, size=12),
        arrow(580, 90, 580, 104),
        box(448, 106, 264, 34, "minibatches: forward, backward, one sum", LORA, size=12),
        arrow(580, 140, 580, 152),
        box(448, 154, 264, 28, "clip and Adam for each owner", LORA, filled=False, size=12),
        arrow(282, 82, 426, 82),
        label(354, 66, "references to arrays", "#555555", 12),
        arrow(426, 148, 284, 148),
        label(354, 132, "weights and phase", "#555555", 12),
    ]
    picture("iteration.svg", 742, 204, parts, "One iteration: env runners sample, the learner updates, weights go back")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    owners()
    phases()
    iteration()
