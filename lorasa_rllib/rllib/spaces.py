"""Spaces of the rows that the shared module reads and writes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from lorasa_rllib.rllib.module import AGENT, MASK, OBS, ROLE, STATE
from lorasa_rllib.spec import TeamSpec


def row_spaces(spec: TeamSpec) -> tuple[gym.Space, gym.Space]:
    """Observation and action space of a row, padded to the largest agent. Continuous actions lie in [-1, 1]."""
    entries: dict[str, gym.Space] = {
        OBS: gym.spaces.Box(-np.inf, np.inf, (spec.obs_size,), np.float32),
        AGENT: gym.spaces.Discrete(spec.num_agents),
        STATE: gym.spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float32),
    }
    if spec.has_masks:
        entries[MASK] = gym.spaces.MultiBinary(spec.action_size)
    if spec.num_roles:
        entries[ROLE] = gym.spaces.Discrete(spec.num_roles)
    if spec.continuous:
        return gym.spaces.Dict(entries), gym.spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
    if spec.choices:
        return gym.spaces.Dict(entries), gym.spaces.MultiDiscrete([spec.component_size] * spec.action_dims)
    return gym.spaces.Dict(entries), gym.spaces.Discrete(spec.action_size)
