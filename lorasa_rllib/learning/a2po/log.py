"""Events of an A2PO iteration, and the statistics computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.unit_step import OF_BOTH, OF_CRITIC
from lorasa_rllib.learning.a2po.units import Unit
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.step import Norms


@dataclass(frozen=True)
class Corrected:
    """Event: the advantages of a unit (None: of all) were corrected. log_ratios: log c [T, E], see `corrections`."""

    unit: Unit | None
    log_ratios: Tensor


@dataclass(frozen=True)
class Stepped:
    """Event: an optimiser step. sums: as `Step` returns them; norms: gradient norms before clipping, per optimiser."""

    unit: Unit
    position: int
    clip: float
    sums: Tensor
    norms: Norms

    @property
    def critic_only(self) -> bool:
        return len(self.sums) == len(OF_CRITIC)

    @property
    def stats(self) -> dict[str, Tensor]:
        """The sums by name."""
        return dict(zip(OF_CRITIC if self.critic_only else OF_BOTH, self.sums, strict=True))


PER_POSITION_UP_TO = 32
"""Statistics per position are logged only for sequences up to this length; more would bury the other metrics."""


def summary(events: list[Stepped], settings: MAPPOSettings, positions: int) -> dict[str, Tensor]:
    """Means over rows of the statistics of an iteration, in total and per position.

    The keys always cover the same `positions`, as many as for one unit per agent, since keys that come and go would be
    NaN in between. Unused positions have unit -1 and zeros.
    """
    acted = [event for event in events if not event.critic_only]
    names = ("policy_loss", "entropy", "mean_kl_loss", "clip_fraction", "others_ratio")
    device = acted[0].sums.device

    def means(some: list[Stepped]) -> dict[str, Tensor]:
        """Means over live rows."""
        if not some:
            return dict.fromkeys(names, torch.zeros((), device=device))
        total = dict(zip(OF_BOTH, torch.stack([event.sums for event in some]).sum(0), strict=True))
        return {name: total[name] / total["live"].clamp(min=1) for name in names}

    log = means(acted)
    value_loss, counted = torch.stack([event.sums[: len(OF_CRITIC)] for event in events]).sum(0)
    log["vf_loss"] = value_loss / counted.clamp(min=1)
    log["total_loss"] = (
        log["policy_loss"] + settings.value_coeff * log["vf_loss"] - settings.entropy_coeff * log["entropy"]
    )
    for group in acted[-1].norms:
        norms = torch.cat([event.norms[group] for event in acted])
        log[f"{group}_grad_norm"] = norms.nanmean().nan_to_num() if len(norms) else log["total_loss"].new_zeros(())
    for k in range(1, positions + 1 if positions <= PER_POSITION_UP_TO else 1):
        here = [event for event in acted if event.position == k]
        unit, clip = (here[-1].unit.name, here[-1].clip) if here else (-1, 0.0)
        found = means(here)
        log |= {f"position_{k}/{name}": found[name] for name in names[2:]}
        log |= {
            f"position_{k}/{name}": torch.tensor(float(x), device=device)
            for name, x in (("unit", unit), ("clip", clip))
        }
    return log
