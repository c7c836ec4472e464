"""The phase schedule: when training switches from the backbone to the adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorasa_rllib.learning.auto_switch import AutoSwitch
from lorasa_rllib.nn.policy import PHASES, Phase

Schedule = Literal["two_phase", "joint"]
PhaseSwitch = int | float | Literal["auto"] | None

DEFAULT_SHARE = 0.3
"""Default share of the budget after which the adapter phase begins."""


def usual_schedule(total_env_steps: int | None, phase_switch: PhaseSwitch) -> Schedule:
    """The default schedule: "two_phase" if the time of the switch is known, otherwise "joint".

    A run of unknown length thus never ends before its adapters have trained.
    """
    return "joint" if total_env_steps is None and phase_switch is None else "two_phase"


@dataclass(frozen=True)
class PhaseSchedule:
    """The phase at each point of a run.

    schedule:        "two_phase": backbone first, then adapters; "joint": both from the start.
    total_env_steps: budget of the run, summed over all environments. Needed for two phases unless `phase_switch` is an
                     int.
    phase_switch:    steps (int) or fraction of the budget (float in [0, 1)) after which the adapter phase begins, or
                     "auto", see `learning.auto_switch`. None: after `DEFAULT_SHARE` of the budget.
    has_adapters:    whether the sharing method has adapters; without them the backbone trains throughout.
    """

    schedule: Schedule
    total_env_steps: int | None
    phase_switch: PhaseSwitch
    has_adapters: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in ("two_phase", "joint"):
            raise ValueError(f"schedule={self.schedule!r} must be 'two_phase' or 'joint'.")
        self._check_switch()
        total = self.total_env_steps
        if total is not None and total < 1:
            raise ValueError(f"total_env_steps={total} must be at least 1.")
        if self.switch_step is not None and total is not None and self.switch_step >= total:
            raise ValueError(
                f"phase_switch={self.phase_switch} is at or beyond the budget total_env_steps={total}: the adapters "
                "would never train. Lower phase_switch, raise total_env_steps, or use .sharing('ps')."
            )

    def _check_switch(self) -> None:
        """Raises ValueError unless `phase_switch` is in range, whether it has an effect or not."""
        switch = self.phase_switch
        if switch is None or switch == "auto":
            return
        if isinstance(switch, bool) or not isinstance(switch, int | float) or not switch >= 0:
            raise ValueError(
                f"phase_switch={switch!r} must be a number of environment steps (int) or a fraction of "
                "total_env_steps (float in [0, 1)), or 'auto'. Set .sharing(phase_switch=...), or schedule='joint' for "
                "no switch."
            )
        if isinstance(switch, float) and switch >= 1:
            raise ValueError(
                f"phase_switch={switch} is a float, so a fraction of total_env_steps, and must lie in [0, 1). "
                "Give a number of steps as an int."
            )

    @property
    def switch_step(self) -> int | None:
        """Environment steps after which the adapter phase begins; None if there is no switch or it is automatic."""
        if not self.has_adapters or self.schedule == "joint":
            return None
        switch = self.phase_switch
        if switch == "auto":
            if self.total_env_steps is None:
                raise ValueError("phase_switch='auto' needs the budget: set .sharing(total_env_steps=...).")
            return None
        if switch is None:
            if self.total_env_steps is not None:
                return round(DEFAULT_SHARE * self.total_env_steps)
            raise ValueError(
                "schedule='two_phase' has to know when the adapters begin: phase_switch=None takes "
                f"{DEFAULT_SHARE:.0%} of total_env_steps, which is not set. Set .sharing(total_env_steps=...) or "
                ".sharing(phase_switch=...), or schedule='joint' for no switch."
            )
        if isinstance(switch, int):
            return switch
        if self.total_env_steps is None:
            raise ValueError(
                f"phase_switch={switch} is a fraction of the budget, but total_env_steps is not set. "
                "Set .sharing(total_env_steps=...), or give phase_switch in steps."
            )
        return round(switch * self.total_env_steps)

    @property
    def begins_plain(self) -> bool:
        """True if there are adapters and training starts without them, in the backbone phase."""
        return self.has_adapters and self.schedule == "two_phase" and self.switch_step != 0

    def watcher(self) -> AutoSwitch | None:
        """Tracks returns for `phase_switch="auto"`; None otherwise. The caller adds the return of every iteration."""
        automatic = self.has_adapters and self.schedule == "two_phase" and self.phase_switch == "auto"
        return AutoSwitch(self.total_env_steps or 1) if automatic else None

    def phase_at(self, env_steps: int, current: Phase = "backbone", watcher: AutoSwitch | None = None) -> Phase:
        """Phase of the update on a rollout that began after `env_steps`, never earlier than `current`."""
        if self.has_adapters and self.schedule == "joint":
            return "joint"
        switch = self.switch_step
        now = watcher.due(env_steps) if watcher is not None else switch is not None and env_steps >= switch
        due: Phase = "adapters" if now else "backbone"
        return max(due, current, key=PHASES.index)
