"""When to switch by itself: the shared policy still gets better, but more slowly than it did."""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOW = 0.1
"""Slopes are taken over this last share of the budget."""

SLOWED = 0.5
"""The switch is due when the return rises at less than this share of its fastest rate."""

EARLIEST, LATEST = 0.15, 0.5
"""Shares of the budget before which and at which the switch comes in any case."""

POINTS = 5
"""Returns that a slope needs."""


class AutoSwitch:
    """Watches the return of a run with a budget of `total_env_steps`.

    The rule is ours. The paper's advice is to switch while the shared policy is competent and still rising: a plateau
    is too late, for the adapters need the rest of the budget. So `due` compares the least-squares slope of the return
    over the last tenth of the budget with the steepest such slope so far, and says yes below a half of it. A run
    of fewer than about fifty iterations has too few returns in a tenth of it: it switches at `LATEST`.
    """

    def __init__(self, total_env_steps: int):
        self._total = total_env_steps
        self._seen: list[tuple[int, float]] = []  # of the window
        self._fastest = 0.0
        self._slope: float | None = None

    def add(self, env_steps: int, episode_return: float) -> None:
        """A return (mean over recent episodes) that was reached after `env_steps`."""
        self._seen.append((env_steps, episode_return))
        first = env_steps - WINDOW * self._total
        while self._seen[0][0] < first:
            self._seen.pop(0)
        steps, returns = np.array(self._seen).T
        whole = steps[-1] - steps[0] >= 0.8 * WINDOW * self._total
        self._slope = float(np.polyfit(steps - steps[0], returns, 1)[0]) if whole and len(steps) >= POINTS else None
        if self._slope is not None:
            self._fastest = max(self._fastest, self._slope)

    def due(self, env_steps: int) -> bool:
        """Whether to switch before the update on what is sampled after `env_steps`."""
        share = env_steps / self._total
        slowed = self._slope is not None and self._fastest > 0 and self._slope < SLOWED * self._fastest
        return share >= LATEST or (share >= EARLIEST and slowed)

    def get_state(self) -> dict[str, Any]:
        return {"seen": list(self._seen), "fastest": self._fastest, "slope": self._slope}

    def set_state(self, state: dict[str, Any]) -> None:
        self._seen = [tuple(point) for point in state["seen"]]
        self._fastest, self._slope = state["fastest"], state["slope"]
