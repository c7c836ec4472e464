"""Colours and markers of methods, consistent across figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BRIGHT = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
"""Paul Tol's bright palette, safe for colour-blind readers."""
MARKERS = "osD^vPX*phd<>8H"
MARKER_OF = {
    "#4477aa": "o",
    "#222222": "s",
    "#66ccee": "D",
    "#ee7733": "^",
    "#ee6677": "v",
    "#997700": "P",
    "#228833": "X",
    "#aa3377": "p",
    "#ccbb44": "*",
    "#888888": "h",
}
"""Marker of each colour, so that a method with a fixed colour looks the same in every figure."""


def styles(methods: Iterable[str], colours: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Arguments of matplotlib's `plot` per method. colours: fixed colours by method; others get unused ones.

    When the seven colours are used up they repeat with different markers.
    """
    names, given = list(dict.fromkeys(methods)), dict(colours or {})
    free = [colour for colour in BRIGHT if colour not in [given.get(name) for name in names]] or list(BRIGHT)
    unnamed = iter(free[k % len(free)] for k in range(len(names)))
    looks: dict[str, dict[str, Any]] = {}
    for name in names:
        colour = given.get(name) or next(unnamed)
        looks[name] = {"color": colour, "marker": _marker(colour, [(x["color"], x["marker"]) for x in looks.values()])}
    return looks


def _marker(colour: str, taken: list[tuple[str, str]]) -> str:
    """The colour's own marker, else an unused one, else one not yet used with this colour."""
    own = [MARKER_OF[colour]] if colour in MARKER_OF else []
    candidates = [*own, *(marker for marker in MARKERS if marker not in MARKER_OF.values()), *MARKERS]
    unused = [marker for marker in candidates if marker not in [used for _, used in taken]]
    return (unused or [marker for marker in candidates if (colour, marker) not in taken] or candidates)[0]
