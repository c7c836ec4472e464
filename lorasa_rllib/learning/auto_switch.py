"""Automatic phase switch: triggers when the slope of the return falls below half its maximum."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

WINDOW = 0.1
"""Slopes are computed over this last share of the budget."""

SLOWED = 0.5
"""The switch is due when the slope is below this share of the steepest one so far."""

EARLIEST, LATEST = 0.15, 0.5
"""Shares of the budget: no switch before the first, a switch at the second in any case."""

POINTS = 5
"""Minimum number of returns to compute a slope."""


class SwitchState(TypedDict):
    """seen: (env steps, return) within the window. fastest: steepest slope so far. slope: the last one, if known."""

    seen: list[tuple[int, float]]
    fastest: float
    slope: float | None


class AutoSwitch:
    """Tracks the return of a run with a budget of `total_env_steps` and decides when to switch.

    The rule is ours. The paper advises switching while the shared policy is competent and still improving: at a plateau
    it is too late, since the adapters need the rest of the budget. So the switch is `due` when the least-squares slope
    of the return over the last tenth of the budget falls below half of the steepest such slope so far. A run of fewer
    than about fifty iterations has too few returns in a tenth of its budget and switches at `LATEST`.
    """

    def __init__(self, total_env_steps: int):
        self._total = total_env_steps
        self._seen: list[tuple[int, float]] = []  # (env steps, return) within the window
        self._fastest = 0.0
        self._slope: float | None = None

    def add(self, env_steps: int, episode_return: float) -> None:
        """Records a return (mean over recent episodes) after `env_steps`."""
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
        """Whether to switch before the update on the rollout that begins after `env_steps`."""
        share = env_steps / self._total
        slowed = self._slope is not None and self._fastest > 0 and self._slope < SLOWED * self._fastest
        return share >= LATEST or (share >= EARLIEST and slowed)

    def get_state(self) -> SwitchState:
        return {"seen": list(self._seen), "fastest": self._fastest, "slope": self._slope}

    def set_state(self, state: SwitchState) -> None:
        self._seen = [(steps, episode_return) for steps, episode_return in state["seen"]]
        self._fastest, self._slope = state["fastest"], state["slope"]
