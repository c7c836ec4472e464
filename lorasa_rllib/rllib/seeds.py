"""Seeds of environments, from those of env runners."""

from __future__ import annotations

SEEDS = 2**31 - 2**20
"""Number of distinct first seeds: they fit a signed 32-bit integer, with room for the offsets of the copies."""


def first_seed(seed: int | None) -> int | None:
    """Seed of the first reset of the environments of an env runner with this seed; None if it has none.

    Env runners have consecutive seeds and copy e uses `seed + e`, so the seeds are spread to keep copies distinct.
    """
    return None if seed is None else seed * 10_007 % SEEDS
