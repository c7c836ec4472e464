"""Which discrete choices an agent has now, as environments of PettingZoo and RLlib say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.spaces import MASK, AgentView, OutsideSpace, available, described


def given_masks(observation: Any, info: Any) -> list[Any]:
    """The masks of one agent: the entry "action_mask" of its observation, of its infos, of both or of neither."""
    return [part[MASK] for part in (observation, info) if isinstance(part, Mapping) and part.get(MASK) is not None]


def write_mask(view: AgentView, agent: Any, observation: Any, info: Any, row: np.ndarray | None) -> None:
    """Writes the choices that an agent has now into `row`, bool [A], None for agents with continuous actions.

    An agent without a mask has all its choices; one with two has those that both allow. Raises TeamEnvError for a mask
    that its observation space declares but that is missing, for one beside continuous actions, and for one that is not
    as long as its choices or has other entries than True and False, 1 and 0.
    """
    given = given_masks(observation, info)
    if row is None:
        if given:
            raise TeamEnvError(
                f"agent {agent!r} was given an {MASK}, but its actions are continuous: {view.acts}. Masks are for "
                "discrete actions; leave it out."
            )
        return
    choices = view.action_size
    row[:choices] = True
    row[choices:] = False
    if view.masked and MASK not in observation:
        raise TeamEnvError(
            f"agent {agent!r} came with no {MASK} in its observation, which its space declares; give it one of "
            f"{choices} entries at every step."
        )
    for mask in given:
        if (flags := _flags(mask, choices)) is None:
            raise TeamEnvError(
                f"agent {agent!r} was given the {MASK} {described(mask)}. It must have {choices} entries, one for "
                "each choice: True or 1 where it may be chosen, False or 0 where not. (A mask of 0 and -inf, to be "
                f'added to logits, becomes one by "mask == 0".)'
            )
        row[:choices] &= flags


def _flags(mask: Any, choices: int) -> np.ndarray | None:
    """A mask as bool [choices], None if it is no such thing."""
    try:
        flags = available(mask).reshape(-1)
    except OutsideSpace:
        return None
    return flags if len(flags) == choices else None
