"""Action masks of PettingZoo and RLlib environments: which discrete actions are available to an agent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.spaces import MASK, AgentView, OutsideSpace, available, described


def given_masks(observation: object, info: object) -> list[object]:
    """The masks of one agent: the "action_mask" entries of its observation and its infos; either may be absent."""
    return [part[MASK] for part in (observation, info) if isinstance(part, Mapping) and part.get(MASK) is not None]


def write_mask(view: AgentView, agent: object, observation: object, info: object, row: np.ndarray | None) -> None:
    """Writes the available actions of an agent to `row`, bool [A]; `row` is None for continuous actions.

    Without a mask every choice of the agent is available; with two masks, those that both allow. Raises TeamEnvError if
    a mask declared in the observation space is missing, if the actions are continuous, if the length differs from the
    number of choices, or if an entry is not True, False, 1 or 0.
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
    if view.masked and not (isinstance(observation, Mapping) and MASK in observation):
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


def _flags(mask: object, choices: int) -> np.ndarray | None:
    """The mask as bool [choices], or None if it is not a valid mask."""
    try:
        flags = available(mask).reshape(-1)
    except OutsideSpace:
        return None
    return flags if len(flags) == choices else None
