"""Quirks of the published implementation: off by default, on with `reference=True` to compare like with like."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Quirks:
    """One switch per quirk of the published code (arXiv 2502.05573).

    one_sided_huber:       value errors below -huber_delta cost nothing. Off: the Huber loss is symmetric.
    zero_time_limits:      a step truncated by a time limit gets advantage 0, so its return is its value.
                           Off: it is bootstrapped with the value of the true last state.
    narrow_fresh_norm:     the value normaliser starts with standard deviation 0.1. Off: 1.
    norm_every_step:       the value normaliser is updated with the returns at every optimiser step, just before they
                           are normalised. Off: once per rollout.

    A2PO only:

    lambda_twice:          `capped_factors` applies lambda twice. Off: once.
    first_position:        in the epoch loop every agent has the clip range of position 1. Off: that of its own.
    score_over_value:      the score that orders agents is the mean |A / V| over all rows, with standardised A and
                           normalised values V. Off: |A| over live rows.
    dead_ratios:           ratios of dead agents count in corrections and in the others' product. Off: they are 1.
    fresh_bootstrap:       corrections value the state after the last step with the current critic. Off: all values are
                           those of the rollout.
    single_step_ratios:    corrections of recurrent policies evaluate single steps from the hidden states at sampling
                           time. Off: the same chunks as the losses.
    """

    one_sided_huber: bool = False
    zero_time_limits: bool = False
    narrow_fresh_norm: bool = False
    norm_every_step: bool = False
    lambda_twice: bool = False
    first_position: bool = False
    score_over_value: bool = False
    dead_ratios: bool = False
    fresh_bootstrap: bool = False
    single_step_ratios: bool = False


REFERENCE = Quirks(**dict.fromkeys((field.name for field in fields(Quirks)), True))
"""The published implementation. Dead agents count in its value loss: `vf_active_only=False`, also our default."""


def quirks_of(setting: bool | Quirks) -> Quirks:
    """The quirks that `.training(reference=True | False | Quirks(...))` selects."""
    if isinstance(setting, Quirks):
        return setting
    if not isinstance(setting, bool):
        raise ValueError(f"reference={setting!r} must be True, False or learning.quirks.Quirks(...).")
    return REFERENCE if setting else Quirks()
