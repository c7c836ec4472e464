"""Agent-specific global states: the critic's input for each agent."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lorasa_rllib.envs.settings import flag

StateKind = Literal["global", "agent", "pruned"]
"""One global state for all agents; one per agent, with its observation appended; one per agent, relative to it."""


def check_state_kind(state: str) -> None:
    if state not in get_args(StateKind):
        raise ValueError(f"state={state!r} must be one of {list(get_args(StateKind))}.")


def is_death_masked(state: str, death_mask: bool | None) -> bool:
    """Whether dead agents are masked. None: yes if the global state is agent-specific, otherwise no."""
    if death_mask is not None:
        death_mask = flag("death_mask", death_mask)
    if state == "global" and death_mask is not None:
        raise ValueError(
            f'death_mask={death_mask} would be ignored with state="global", which all agents share; leave it out, or '
            'use state="agent" or "pruned".'
        )
    return state != "global" and death_mask is not False


def masked_with_id(features: np.ndarray, active: np.ndarray, death_mask: bool) -> np.ndarray:
    """Appends the one-hot id of each agent: features [E, N, F], active bool [E, N] -> [E, N, F + N].

    death_mask: features of dead agents are zero, their id remains (Yu et al. 2022, MAPPO, "death masking").
    """
    if death_mask:
        features = np.where(active[..., None], features, 0.0)
    agents = features.shape[1]
    ids = np.broadcast_to(np.eye(agents, dtype=np.float32), (*features.shape[:2], agents))
    return np.concatenate([features, ids], axis=-1, dtype=np.float32)


def with_own_view(state: np.ndarray, obs: np.ndarray, active: np.ndarray, death_mask: bool) -> np.ndarray:
    """MAPPO's agent-specific global state: state [E, S], obs [E, N, o] -> [E, N, S + o + N]."""
    everywhere = np.broadcast_to(state[:, None], (*obs.shape[:2], state.shape[-1]))
    return masked_with_id(np.concatenate([everywhere, obs], axis=-1), active, death_mask)
