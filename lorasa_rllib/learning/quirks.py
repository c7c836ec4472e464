"""Where checkpoints of older releases look for `Quirks`."""

from lorasa_rllib.learning.reference import Quirks

__all__ = ["Quirks"]
