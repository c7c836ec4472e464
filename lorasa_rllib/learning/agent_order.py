"""In which order agents (or groups, or roles) are updated. Pure functions of scores; indices in, indices out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Pick = Callable[[int], int]
"""n -> a number below n, drawn at random and equally on all learners."""


def ranking(scores: Sequence[float]) -> list[int]:
    """Indices by descending score; ties keep their order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def semi_greedy(scores: Sequence[float], pick: Pick) -> list[int]:
    """In turns the best that is left, and anyone that is left (A2PO, section 4.3)."""
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
    """As they are numbered."""
    return list(range(len(scores)))


def at_random(scores: Sequence[float], pick: Pick) -> list[int]:
    """Uniformly among all orders."""
    left = list(range(len(scores)))
    return [left.pop(pick(len(left))) for _ in scores]


def _reversed(order: Callable[[Sequence[float], Pick], list[int]]) -> Callable[[Sequence[float], Pick], list[int]]:
    return lambda scores, pick: order(scores, pick)[::-1]


_FORWARD = {"semi_greedy": semi_greedy, "greedy": greedy, "random": at_random, "cyclic": cyclic}
ORDERS = _FORWARD | {f"reverse_{name}": _reversed(order) for name, order in _FORWARD.items()}
"""Names of the orders in settings."""
