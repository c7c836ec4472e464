"""Observation and action spaces of one PettingZoo agent as rows of arrays."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from lorasa_rllib.envs.base import TeamEnvError

MASK, OBSERVATION = "action_mask", "observation"
RLLIBS_OBSERVATION = "observations"  # as RLlib's own modules with action masks have it
SHOWN = 80  # characters of a value in an error


@dataclass(frozen=True)
class AgentView:
    """How one agent sees and acts.

    sees, acts:  its spaces; `sees` is that of the observation proper.
    under:       key of the observation proper where observations are dictionaries, else None.
    masked:      whether observations are declared to hold an action mask.
    """

    agent: Any
    sees: spaces.Box | spaces.Discrete
    acts: spaces.Box | spaces.Discrete
    under: str | None
    masked: bool

    @classmethod
    def of(cls, agent: Any, observation: Any, action: Any) -> AgentView:
        """From the spaces of `agent`. Raises ValueError for what we cannot represent."""
        sees, under, masked = observation, None, False
        if isinstance(observation, spaces.Dict):
            under = RLLIBS_OBSERVATION if RLLIBS_OBSERVATION in set(observation) else OBSERVATION
            if not {under} <= set(observation) <= {under, MASK}:
                raise ValueError(
                    f"the observation space of agent {agent!r} has the keys {sorted(observation)}; it must have "
                    f'"{OBSERVATION}" and may have "{MASK}". Flatten the rest into one Box.'
                )
            sees = observation[under]
            masked = MASK in set(observation)
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
        if masked and isinstance(action, spaces.Box):
            raise ValueError(f"agent {agent!r} has an action mask, but continuous actions; masks are for Discrete.")
        return cls(agent, sees, action, under, masked)

    @property
    def kind(self) -> str:
        return "discrete" if isinstance(self.acts, spaces.Discrete) else "continuous"

    @cached_property
    def obs_size(self) -> int:
        return _size(self.sees)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of its observations, () where they are choices."""
        return tuple(self.sees.shape or ())

    @cached_property
    def action_size(self) -> int:
        return _size(self.acts)

    @property
    def low(self) -> tuple[float, ...]:
        return tuple(np.ravel(self.acts.low).tolist())  # type: ignore[union-attr]

    @property
    def high(self) -> tuple[float, ...]:
        return tuple(np.ravel(self.acts.high).tolist())  # type: ignore[union-attr]

    def observe(self, observation: Any, row: np.ndarray) -> None:
        """Writes an observation into the first entries of `row`, which are zero.

        Raises TeamEnvError unless it has its space's shape, or is one of its choices. Bounds are not looked at.
        """
        seen = observation
        if self.under is not None:
            if not isinstance(observation, Mapping) or self.under not in observation:
                raise self._refused(observation, f'a dictionary with "{self.under}"')
            seen = observation[self.under]
        if isinstance(self.sees, spaces.Discrete):
            row[self._choice(seen)] = 1.0
            return
        try:
            numbers = np.asarray(seen)
            if numbers.shape == self.shape:
                row[: self.obs_size] = numbers.reshape(-1)
                return
        except (TypeError, ValueError):  # ragged lists, or no numbers
            pass
        raise self._refused(seen, f"numbers of shape {self.shape}")

    def _choice(self, seen: Any) -> int:
        """Position of a Discrete observation among its choices."""
        first, count = int(self.sees.start), self.obs_size  # type: ignore[union-attr]
        try:
            choice = operator.index(seen) - first
        except TypeError:
            choice = -1
        if not 0 <= choice < count:
            raise self._refused(seen, f"a whole number from {first} to {first + count - 1}")
        return choice

    def _refused(self, seen: Any, expected: str) -> TeamEnvError:
        return TeamEnvError(
            f"agent {self.agent!r} was given the observation {described(seen)}, but its space is {self.sees}. Let "
            f"reset() and step() give it {expected}, or declare the observation space that it has."
        )

    def action(self, row: np.ndarray) -> Any:
        """The action that a row of the team's actions means: a choice, or an array of its space's shape."""
        if isinstance(self.acts, spaces.Discrete):
            return int(row) + int(self.acts.start)
        return row[: self.action_size].reshape(self.acts.shape).astype(self.acts.dtype)


def described(value: Any) -> str:
    """A value in an error: its beginning, and its shape if it is an array."""
    text = " ".join(repr(value).split())
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    return (text if len(text) <= SHOWN else f"{text[:SHOWN]}...") + shape


def _size(space: spaces.Box | spaces.Discrete) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))
