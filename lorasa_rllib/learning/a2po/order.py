"""Orders in which A2PO updates agents (or groups, or roles): functions from scores to indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Pick = Callable[[int], int]
"""n -> a random number in 0 .. n-1, the same on all learners."""


def ranking(scores: Sequence[float]) -> list[int]:
    """Indices by descending score; ties keep their order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def semi_greedy(scores: Sequence[float], pick: Pick) -> list[int]:
    """Alternates between the remaining index with the highest score and a random remaining one (A2PO, section 4.3)."""
    left, order = ranking(scores), []
    while left:
        order.append(left.pop(0))
        if left:
            order.append(left.pop(pick(len(left))))
    return order


def greedy(scores: Sequence[float], pick: Pick) -> list[int]:
    """By descending score."""
    return ranking(scores)


def cyclic(scores: Sequence[float], pick: Pick) -> list[int]:
    """By index."""
    return list(range(len(scores)))


def at_random(scores: Sequence[float], pick: Pick) -> list[int]:
    """Uniformly random."""
    left = list(range(len(scores)))
    return [left.pop(pick(len(left))) for _ in scores]


def _reversed(order: Callable[[Sequence[float], Pick], list[int]]) -> Callable[[Sequence[float], Pick], list[int]]:
    return lambda scores, pick: order(scores, pick)[::-1]


_FORWARD = {"semi_greedy": semi_greedy, "greedy": greedy, "random": at_random, "cyclic": cyclic}
ORDERS = _FORWARD | {f"reverse_{name}": _reversed(order) for name, order in _FORWARD.items()}
"""Orders by their name in settings."""
