"""The A2PO update (Wang et al. 2023, arXiv 2302.06205)."""

from lorasa_rllib.learning.a2po.sequential import SequentialUpdate, update
from lorasa_rllib.learning.a2po.settings import A2POSettings

__all__ = ["A2POSettings", "SequentialUpdate", "update"]
