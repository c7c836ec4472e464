"""Quirks of the published implementation: off by default, on with `reference=True` to compare like with like."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Quirks:
    """One switch per quirk. Letters and numbers are those of our notes on the published code (arXiv 2502.05573).

    one_sided_huber:       value errors below -huber_delta cost nothing (Q5). Off: Huber's loss is symmetric.
    zero_time_limits:      a step that is cut by a time limit gets advantage 0, its return is its value (Q7).
                           Off: it is bootstrapped with the value of the true last state.
    narrow_fresh_norm:     a value normaliser that has seen nothing has standard deviation 0.1 (Q9). Off: 1.
    norm_every_step:       the normaliser takes in the returns at every optimiser step, just before they are normalised
                           (Q10). Off: once per rollout.

    Of A2PO only:

    lambda_twice:          `capped_factors` applies lambda twice (Q6). Off: once.
    first_position:        in the epoch loop every agent has the clip range of position 1 (Q8). Off: its own.
    score_over_value:      the score behind the order is |A / V| over all rows, V a normalised value (Q13). Off: |A|
                           over live rows.
    dead_ratios:           ratios of dead agents count in corrections and in the others' product (Q11). Off: as 1.
    fresh_bootstrap:       corrections value the state after the last step with the current critic. Off: all values are
                           those of the rollout.
    single_step_ratios:    corrections of recurrent policies read single steps from stored states (Q16). Off: the chunks
                           that losses read, too.
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
"""The published implementation. Dead agents count in its value loss (Q11): `vf_active_only=False`, also the default."""


def quirks_of(setting: bool | Quirks) -> Quirks:
    """`.training(reference=True | False | Quirks(...))` as quirks."""
    if isinstance(setting, Quirks):
        return setting
    return REFERENCE if setting else Quirks()
