"""Escapes metric names in checkpoints: RLlib joins their parts with "--" and splits there when it restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

JOINT = "--"
Stats = dict[str, Any]
"""Metrics by name, nested."""


def with_safe_names(state: Stats, stats: Stats) -> Stats:
    """The state of a `MetricsLogger` with names escaped. stats: may have parts, such as agents, that contain "--"."""
    safe = {JOINT.join(path): JOINT.join(map(_safe, path)) for path in _paths(stats)}
    return {**state, "stats": {safe.get(name, name): value for name, value in state["stats"].items()}}


def with_own_names(stats: Stats) -> Stats:
    """The `stats` of a logger restored from such a state, with the original names."""
    return _renamed(stats, lambda part: part.replace("-\0", "-"))


def _safe(part: str) -> str:
    return part.replace("-", "-\0") if JOINT in part or part.endswith("-") else part


def _paths(stats: Stats, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in stats.items():
        path = (*above, str(name))
        yield from _paths(value, path) if isinstance(value, dict) else (path,)


def _renamed(stats: Stats, rename: Callable[[str], str]) -> Stats:
    return {
        rename(name) if isinstance(name, str) else name: _renamed(value, rename) if isinstance(value, dict) else value
        for name, value in stats.items()
    }
