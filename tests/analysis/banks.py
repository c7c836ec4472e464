"""Random banks of observations for the tests of this folder."""

from __future__ import annotations

import numpy as np

from lorasa_rllib.analysis.observations import ObservationBank, bank_of
from tests.helpers import random_masks, random_obs


def random_bank(policy, steps: int = 4, envs: int = 3, seed: int = 0, limit: int = 8) -> ObservationBank:
    """A bank of the policy's team with episode starts, dead rows and (discrete teams) masks at random."""
    spec, rng = policy.config.spec, np.random.default_rng(seed)
    masks = random_masks(spec, steps, envs, seed=seed)
    active = rng.random((steps, envs, spec.num_agents)) < 0.8
    active[0] = True
    return bank_of(
        random_obs(spec, steps, envs, seed=seed).numpy(),
        keep=rng.random((steps, envs)) < 0.7,
        masks=None if masks is None else masks.numpy() & spec.action_mask(),
        active=active,
        limit=limit,
    )


def with_zero_adapters(policy):
    for parameter in policy.parameters_of("adapters").values():
        parameter.data.zero_()
    return policy
