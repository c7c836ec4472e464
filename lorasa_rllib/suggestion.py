"""Messages for names that do not exist: the nearest one that does, and the list if it is short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

A_PAGE = 60
"""Names that are listed in a message at most."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Message for an unknown setting: the nearest known one, and all of them if there are at most `A_PAGE`."""
    known = sorted(known)
    listed = f" Known: {', '.join(known)}." if len(known) <= A_PAGE else ""
    return f"the setting {name!r} is unknown{did_you_mean(name, known)}{listed}"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """End of a sentence about an unknown name: "; did you mean 'nearest'?", or "." if none resembles it.

    cutoff: similarity from 0 to 1, see `difflib.get_close_matches`.
    """
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."
