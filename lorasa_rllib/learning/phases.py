"""When training changes from the backbone to the adapters: a pure function of environment steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorasa_rllib.nn.policy import PHASES, Phase

Schedule = Literal["two_phase", "joint"]


@dataclass(frozen=True)
class PhaseSchedule:
    """The phase of every moment of a run.

    schedule:        "two_phase": backbone first, then adapters; "joint": both from the start.
    total_env_steps: budget of the run, summed over all environments; needed if `phase_switch` is a fraction.
    phase_switch:    steps (int) or fraction of the budget (float in [0, 1)) after which the adapter phase begins.
    has_adapters:    whether the sharing method has adapters; without them the backbone trains throughout.
    """

    schedule: Schedule
    total_env_steps: int | None
    phase_switch: int | float | None
    has_adapters: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in ("two_phase", "joint"):
            raise ValueError(f"schedule={self.schedule!r} must be 'two_phase' or 'joint'.")
        total = self.total_env_steps
        if total is not None and total < 1:
            raise ValueError(f"total_env_steps={total} must be at least 1.")
        if self.switch_step is not None and total is not None and self.switch_step >= total:
            raise ValueError(
                f"phase_switch={self.phase_switch} is at or beyond the budget total_env_steps={total}: the adapters "
                "would never train. Lower phase_switch, raise total_env_steps, or use .sharing('ps')."
            )

    @property
    def switch_step(self) -> int | None:
        """Environment steps after which the adapter phase begins; None if there is no switch."""
        if not self.has_adapters or self.schedule == "joint":
            return None
        switch = self.phase_switch
        if isinstance(switch, bool) or not isinstance(switch, int | float) or not switch >= 0:
            raise ValueError(
                f"phase_switch={switch!r} must be a number of environment steps (int) or a fraction of "
                "total_env_steps (float in [0, 1)). Set .sharing(phase_switch=...), or schedule='joint' for no switch."
            )
        if isinstance(switch, int):
            return switch
        if switch >= 1:
            raise ValueError(
                f"phase_switch={switch} is a float, so a fraction of total_env_steps, and must lie in [0, 1). "
                "Give a number of steps as an int."
            )
        if self.total_env_steps is None:
            raise ValueError(
                f"phase_switch={switch} is a fraction of the budget, but total_env_steps is not set. "
                "Set .sharing(total_env_steps=...), or give phase_switch in steps."
            )
        return round(switch * self.total_env_steps)

    def phase_at(self, env_steps: int, current: Phase = "backbone") -> Phase:
        """Phase of an update on a rollout that began after `env_steps`; a run never returns to an earlier phase."""
        if self.has_adapters and self.schedule == "joint":
            return "joint"
        switch = self.switch_step
        due: Phase = "adapters" if switch is not None and env_steps >= switch else "backbone"
        return max(due, current, key=PHASES.index)
