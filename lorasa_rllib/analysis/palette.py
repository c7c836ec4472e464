"""One colour and one marker per method, the same in every figure that is given the same methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BRIGHT = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
"""Paul Tol's bright palette, safe for colour-blind readers."""
MARKERS = "osD^vPX*"


def styles(methods: Iterable[str], colours: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Arguments of matplotlib's `plot` for every method. colours: of those named; the others get what is left.

    Markers repeat after eight methods and colours after seven.
    """
    names, given = list(dict.fromkeys(methods)), dict(colours or {})
    free = [colour for colour in BRIGHT if colour not in [given.get(name) for name in names]] or list(BRIGHT)
    unnamed = iter(free[k % len(free)] for k in range(len(names)))
    return {
        name: {"color": given.get(name) or next(unnamed), "marker": MARKERS[k % len(MARKERS)]}
        for k, name in enumerate(names)
    }
