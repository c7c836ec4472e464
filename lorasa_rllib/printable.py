"""Untrusted text (from files, from other programs) made safe to print. Imports nothing from this package."""

from __future__ import annotations

LINE, CELL = 2000, 200
"""Maximum characters of a message, and of a table cell."""


def printable(text: str, most: int = LINE) -> str:
    """Makes untrusted text safe to print: replaces control characters and shortens it to `most` characters."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in shortened(text, most))


def shortened(text: str, most: int) -> str:
    """Shortens text to `most` characters by cutting its middle, since trial names differ at their ends."""
    if len(text) <= most:
        return text
    kept = max(0, most - 1)
    return f"{text[: kept // 3]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (kept - kept // 3) :]}"
