"""Converts observations and masks from callers, given in the agents' spaces, to rows and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lorasa_rllib.spaces import MASK, Box, OutsideSpace, available, described
from lorasa_rllib.spec import TeamSpec


def row_of(spec: TeamSpec, agent: int, observation: Any) -> np.ndarray:
    """One observation, as the environment returns it or already flattened, as float32 [obs_sizes[agent]].

    Raises ValueError with the agent's name for anything else.
    """
    name, size = spec.agents[agent], spec.obs_sizes[agent]
    if not spec.views:
        row = _numbers(name, observation).reshape(-1)
        if len(row) != size:
            raise ValueError(f"observations of {name} must have {size} entries, not {len(row)}.")
        return row
    if _flattened(observation, size) and np.ndim(observation) == 1:
        return np.asarray(observation, np.float32)
    row = np.zeros(size, np.float32)
    try:
        spec.views[agent].observe(observation, row)
    except OutsideSpace as problem:
        raise ValueError(
            f"observation of {name}: {described(problem.value)} is not in {problem.space}. Give it "
            f"{problem.expected}, or a row of {size} numbers."
        ) from None
    return row


def rows_of(spec: TeamSpec, agent: int, observations: Any) -> np.ndarray:
    """One observation, or many (flattened, or arrays of a Box), as float32 [..., obs_sizes[agent]]."""
    name, size = spec.agents[agent], spec.obs_sizes[agent]
    sees = spec.views[agent].sees if spec.views else None
    if sees is None:
        rows = _numbers(name, observations)
        if rows.shape[-1:] != (size,):
            raise ValueError(f"observations of {name} must end in {size}, not {rows.shape}.")
        return rows
    if isinstance(sees, Box) and sees.shape and sees.size and isinstance(observations, np.ndarray | Tensor):
        lead = tuple(observations.shape[: -len(sees.shape)])
        if tuple(observations.shape[len(lead) :]) == sees.shape:
            return _numbers(name, observations).reshape(*lead, size)
    if _flattened(observations, size):
        return np.asarray(observations, np.float32)
    return row_of(spec, agent, observations)


def mask_of(spec: TeamSpec, agent: int, observation: Any, mask: Any) -> np.ndarray | None:
    """bool [..., choices of the agent]: `mask`, or else the one in the observation; None if missing or not needed.

    If other agents' observations contain masks and this agent's do not, all its choices are available. Raises
    ValueError for a wrong shape or entries other than 0 and 1.
    """
    view = spec.views[agent] if spec.views else None
    if mask is None and view is not None and view.masked:
        mask = observation.get(MASK) if isinstance(observation, Mapping) else None
    elif mask is None and any(view.masked for view in spec.views):
        return np.ones(spec.action_sizes[agent], bool)
    if mask is None or spec.continuous:
        return None
    name, choices = spec.agents[agent], spec.action_sizes[agent]
    try:
        found = available(mask)
    except OutsideSpace as problem:
        raise ValueError(f"mask of {name}: {problem}") from None
    if found.shape[-1:] != (choices,):
        raise ValueError(f"mask of {name} must end in {choices} choices, not {list(found.shape)}.")
    return found


def _numbers(name: str, observations: Any) -> np.ndarray:
    if isinstance(observations, Mapping):
        raise ValueError(f"observations of {name} must be numbers, not a dictionary with {list(observations)[:5]}.")
    return np.asarray(observations, np.float32)


def _flattened(observations: Any, size: int) -> bool:
    """Whether these are flattened observations: floating-point rows of this size."""
    if not isinstance(observations, np.ndarray | Tensor) or tuple(observations.shape[-1:]) != (size,):
        return False
    return observations.is_floating_point() if isinstance(observations, Tensor) else observations.dtype.kind == "f"
