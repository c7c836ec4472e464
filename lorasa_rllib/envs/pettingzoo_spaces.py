"""Observation and action spaces of one PettingZoo agent as rows of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from lorasa_rllib.envs.base import TeamEnvError

MASK, OBSERVATION = "action_mask", "observation"


@dataclass(frozen=True)
class AgentView:
    """How one agent sees and acts.

    sees, acts:  its spaces; `sees` is that of the observation proper.
    in_dict:     observations are dictionaries with the observation proper under "observation".
    mask_in:     where its action mask is: in the observation, in the infos, or nowhere.
    """

    agent: str
    sees: spaces.Box | spaces.Discrete
    acts: spaces.Box | spaces.Discrete
    in_dict: bool
    mask_in: Literal["observation", "infos"] | None

    @classmethod
    def of(cls, agent: str, observation: Any, action: Any, infos: Mapping[str, Any]) -> AgentView:
        """From the spaces of `agent` and its infos after a reset. Raises ValueError for what we cannot represent."""
        in_dict = isinstance(observation, spaces.Dict)
        sees = observation
        mask_in: Any = "infos" if MASK in infos else None
        if in_dict:
            if not {OBSERVATION} <= set(observation) <= {OBSERVATION, MASK}:
                raise ValueError(
                    f"the observation space of agent {agent!r} has the keys {sorted(observation)}; it must have "
                    f'"{OBSERVATION}" and may have "{MASK}". Flatten the rest into one Box.'
                )
            sees = observation[OBSERVATION]
            mask_in = "observation" if MASK in set(observation) else mask_in
        if not isinstance(sees, spaces.Box | spaces.Discrete):
            raise ValueError(f"the observation space of agent {agent!r} is {sees}; it must be a Box or Discrete.")
        if not isinstance(action, spaces.Box | spaces.Discrete):
            raise ValueError(f"the action space of agent {agent!r} is {action}; it must be a Box or Discrete.")
        if isinstance(action, spaces.Box) and not (
            np.issubdtype(action.dtype, np.floating) and action.is_bounded("both")
        ):
            raise ValueError(
                f"the action space of agent {agent!r} is {action}; a Box of actions needs floating numbers and finite "
                "bounds. pettingzoo's or your own wrapper can set them."
            )
        if mask_in and isinstance(action, spaces.Box):
            raise ValueError(f"agent {agent!r} has an action mask, but continuous actions; masks are for Discrete.")
        return cls(agent, sees, action, in_dict, mask_in)

    @property
    def kind(self) -> str:
        return "discrete" if isinstance(self.acts, spaces.Discrete) else "continuous"

    @property
    def obs_size(self) -> int:
        return _size(self.sees)

    @property
    def action_size(self) -> int:
        return _size(self.acts)

    @property
    def low(self) -> tuple[float, ...]:
        return tuple(np.ravel(self.acts.low).tolist())  # type: ignore[union-attr]

    @property
    def high(self) -> tuple[float, ...]:
        return tuple(np.ravel(self.acts.high).tolist())  # type: ignore[union-attr]

    def observe(self, observation: Any, row: np.ndarray) -> None:
        """Writes an observation into the first entries of `row`."""
        seen = observation[OBSERVATION] if self.in_dict else observation
        if isinstance(self.sees, spaces.Discrete):
            row[int(seen) - int(self.sees.start)] = 1.0
        else:
            row[: self.obs_size] = np.ravel(seen)

    def mask(self, observation: Any, infos: Mapping[str, Any], width: int) -> np.ndarray:
        """bool [width]: the choices it has now."""
        mask = np.zeros(width, bool)
        if self.mask_in is None:
            mask[: self.action_size] = True
            return mask
        given = (observation if self.mask_in == "observation" else infos).get(MASK)
        if given is None or np.size(given) != self.action_size:
            raise TeamEnvError(
                f"agent {self.agent!r} came with {'no' if given is None else f'a {np.shape(given)}'} action mask; it "
                f"needs one of {self.action_size} entries at every step, as after reset()."
            )
        mask[: self.action_size] = np.ravel(given)
        return mask

    def action(self, row: np.ndarray) -> Any:
        """The action that a row of the team's actions means: a choice, or an array of its space's shape."""
        if isinstance(self.acts, spaces.Discrete):
            return int(row) + int(self.acts.start)
        return row[: self.action_size].reshape(self.acts.shape).astype(self.acts.dtype)


def _size(space: spaces.Box | spaces.Discrete) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))
