"""The A2PO update (Wang et al. 2023, arXiv 2302.06205)."""

from lorasa_rllib.learning.a2po.sequential import A2POSettings, SequentialUpdate, update

__all__ = ["A2POSettings", "SequentialUpdate", "update"]
