"""Quirks of the published implementation: off by default, on with `reference=True` to compare like with like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirks:
    """One switch per quirk. Letters and numbers are those of our notes on the published code (arXiv 2502.05573).

    one_sided_huber:       value errors below -huber_delta cost nothing (Q5). Off: Huber's loss is symmetric.
    zero_time_limits:      a step that is cut by a time limit gets advantage 0, its return is its value (Q7).
                           Off: it is bootstrapped with the value of the true last state.
    narrow_fresh_norm:     a value normaliser that has seen nothing has standard deviation 0.1 (Q9). Off: 1.
    norm_every_step:       the normaliser takes in the returns at every optimiser step, just before they are normalised
                           (Q10). Off: once per rollout.
    """

    one_sided_huber: bool = False
    zero_time_limits: bool = False
    narrow_fresh_norm: bool = False
    norm_every_step: bool = False


REFERENCE = Quirks(one_sided_huber=True, zero_time_limits=True, narrow_fresh_norm=True, norm_every_step=True)
"""The published implementation. Dead agents count in its value loss (Q11): `vf_active_only=False`, also the default."""


def quirks_of(setting: bool | Quirks) -> Quirks:
    """`.training(reference=True | False | Quirks(...))` as quirks."""
    if isinstance(setting, Quirks):
        return setting
    return REFERENCE if setting else Quirks()
