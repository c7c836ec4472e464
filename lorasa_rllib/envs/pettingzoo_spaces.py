"""Converts a PettingZoo agent's spaces to plain data and its observations to array rows."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.spaces import (
    MASK,
    ActionSpace,
    AgentView,
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    OutsideSpace,
    Space,
    Tuple,
    described,
)
from lorasa_rllib.spec import WIDEST


def view_from(agent: object, observation: spaces.Space, action: spaces.Space) -> AgentView:
    """The view of `agent` with these spaces. Raises ValueError for unsupported spaces."""
    acts = _actions(agent, action)
    masked = False
    if isinstance(observation, spaces.Dict) and MASK in set(observation):
        masked = True
        mask = observation[MASK]
        observation = spaces.Dict([(key, space) for key, space in observation.items() if key != MASK])
        if acts.kind == "continuous":
            raise ValueError(f"agent {agent!r} has an action mask, but continuous actions; masks are for Discrete.")
        if spaces.flatdim(mask) != acts.action_size:
            raise ValueError(
                f'the "{MASK}" in the observation space of agent {agent!r} is {mask}; it must have {acts.action_size} '
                f"entries, one for each choice of {action}."
            )
    return AgentView(_plain(agent, observation, observation), acts, masked)


def observe(view: AgentView, agent: object, observation: object, row: np.ndarray) -> None:
    """Calls `AgentView.observe` for `agent`. Raises TeamEnvError if the observation is not in its space."""
    try:
        view.observe(observation, row)
    except OutsideSpace as problem:
        raise TeamEnvError(
            f"agent {agent!r} was given the observation {described(problem.value)}, but its space is {problem.space}. "
            f"Let reset() and step() give it {problem.expected}, or declare the observation space that it has."
        ) from None


def _actions(agent: object, space: object) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) and np.prod(space.shape):
        plain = _plain(agent, space, space)
        assert isinstance(plain, MultiDiscrete | MultiBinary)
        return plain
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"the action space of agent {agent!r} is {space}; it must be a Box, Discrete, MultiDiscrete or MultiBinary."
        )
    low, high = (tuple(np.ravel(bound).tolist()) for bound in (space.low, space.high))
    bounded = all(abs(bound) <= WIDEST for bound in (*low, *high))
    if not (np.issubdtype(space.dtype, np.floating) and bounded and space.shape != (0,)):
        raise ValueError(
            f"the action space of agent {agent!r} is {space}; a Box of actions needs floating numbers, at least one, "
            f"and bounds from -{WIDEST:g} to {WIDEST:g}. A wrapper of pettingzoo or of your own can set them."
        )
    return Box(space.shape, str(space.dtype), low, high)


def _plain(agent: object, space: object, whole: object) -> Space:
    """An observation space as plain data. whole: the space that contains it, for messages."""
    if isinstance(space, spaces.Box):
        return Box(space.shape, str(space.dtype))
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = (tuple(np.ravel(numbers).tolist()) for numbers in (space.nvec, space.start))
        return MultiDiscrete(nvec, start, space.shape, str(space.dtype))
    if isinstance(space, spaces.MultiBinary):
        return MultiBinary(tuple(space.shape))
    if isinstance(space, spaces.Dict):
        return Dict(tuple(space), tuple(_plain(agent, part, whole) for part in space.values()))
    if isinstance(space, spaces.Tuple):
        return Tuple(tuple(_plain(agent, part, whole) for part in space))
    what = "" if space is whole else f", and {space} in it cannot be flattened"
    raise ValueError(
        f"the observation space of agent {agent!r} is {whole}{what}; it must be a Box, Discrete, MultiDiscrete or "
        "MultiBinary, or a Dict or Tuple of these."
    )
