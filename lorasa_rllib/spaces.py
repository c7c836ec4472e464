"""Observation and action spaces of one agent as plain data, without gymnasium.

Stored with the team spec, so a policy's files suffice to turn the environment's observations into rows of numbers, and
rows of numbers into actions that the environment's spaces contain. Observations are flattened as by
`gymnasium.spaces.utils.flatten`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

MASK = "action_mask"
SHOWN = 80
"""Characters of a value shown in an error."""


class OutsideSpace(ValueError):
    """A value is not in its space.

    value: the value given.  space: the space it should be in.  expected: a description of valid values.
    """

    def __init__(self, value: Any, space: Any, expected: str):
        super().__init__(f"{described(value)} is not in {space}; it must be {expected}.")
        self.value, self.space, self.expected = value, space, expected


@dataclass(frozen=True)
class Box:
    """An array of numbers. low, high: bounds of each entry, flattened; empty where they do not matter."""

    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    type: Literal["Box"] = "Box"

    @cached_property
    def size(self) -> int:
        """Number of entries of a flattened value."""
        return math.prod(self.shape)

    @property
    def kind(self) -> Literal["continuous"]:
        return "continuous"

    @property
    def action_size(self) -> int:
        """Number of action dimensions."""
        return self.size

    def write(self, value: Any, row: np.ndarray) -> None:
        """Flattens a value into `row` [size], initially zero. Raises OutsideSpace for a different shape.

        Bounds are not checked.
        """
        try:
            numbers = np.asarray(value)
            if numbers.shape == self.shape:
                row[:] = numbers.reshape(-1)
                return
        except (TypeError, ValueError):  # ragged lists, or not numbers
            pass
        raise OutsideSpace(value, self, f"numbers of shape {self.shape}")

    def action(self, row: np.ndarray) -> np.ndarray:
        """Rows [..., d] in the environment's units -> actions [..., *shape] within the bounds, in the space's dtype."""
        actions = row[..., : self.size].reshape((*row.shape[:-1], *self.shape)).astype(self.dtype)
        low, high = self._bounds
        return np.asarray(np.minimum(np.maximum(actions, low), high))

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = (np.array(bound, self.dtype).reshape(self.shape) for bound in (self.low, self.high))
        return low, high

    def __str__(self) -> str:
        return f"Box(shape={self.shape}, {self.dtype})"


@dataclass(frozen=True)
class Discrete:
    """One of the whole numbers start .. start + n - 1."""

    n: int
    start: int = 0
    type: Literal["Discrete"] = "Discrete"

    @cached_property
    def size(self) -> int:
        return self.n

    @property
    def kind(self) -> Literal["discrete"]:
        return "discrete"

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of choices of each component of an action; here there is one component."""
        return (self.n,)

    @property
    def action_size(self) -> int:
        return self.n

    def write(self, value: Any, row: np.ndarray) -> None:
        """Writes the value one-hot into `row`, initially zero. Raises OutsideSpace."""
        try:
            choice = operator.index(value) - self.start
        except TypeError:
            choice = -1
        if not 0 <= choice < self.n:
            raise OutsideSpace(value, self, f"a whole number from {self.start} to {self.start + self.n - 1}")
        row[choice] = 1.0

    def action(self, row: Any) -> Any:
        """Choices [...], counted from 0 -> actions; a scalar becomes an int."""
        return int(row) + self.start if np.ndim(row) == 0 else row + self.start

    def __str__(self) -> str:
        return f"Discrete({self.n}{f', start={self.start}' if self.start else ''})"


@dataclass(frozen=True)
class MultiDiscrete:
    """An array of whole numbers, entry i in start[i] .. start[i] + nvec[i] - 1; `nvec` and `start` are flattened."""

    nvec: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    type: Literal["MultiDiscrete"] = "MultiDiscrete"

    @cached_property
    def size(self) -> int:
        return sum(self.nvec)

    def write(self, value: Any, row: np.ndarray) -> None:
        """Writes every entry one-hot, concatenated, into `row`, initially zero. Raises OutsideSpace."""
        first, nvec, offsets = self._tables
        try:
            numbers = np.asarray(value)
            if numbers.shape == self.shape and numbers.dtype.kind in "biu":
                choices = numbers.reshape(-1).astype(np.int64) - first
                if ((choices >= 0) & (choices < nvec)).all():
                    row[offsets + choices] = 1.0
                    return
        except (TypeError, ValueError):
            pass
        raise OutsideSpace(value, self, f"whole numbers of shape {self.shape}, each within its range")

    @property
    def kind(self) -> Literal["discrete"]:
        return "discrete"

    @property
    def choices(self) -> tuple[int, ...]:
        return self.nvec

    @property
    def action_size(self) -> int:
        """Number of choices over all components."""
        return self.size

    def action(self, row: np.ndarray) -> np.ndarray:
        """Choices [..., components], counted from 0 -> actions [..., *shape] in the space's dtype."""
        return (row + self._tables[0]).reshape((*row.shape[:-1], *self.shape)).astype(self.dtype)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nvec = np.array(self.nvec, np.int64)
        return np.array(self.start, np.int64), nvec, nvec.cumsum() - nvec

    def __str__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"


@dataclass(frozen=True)
class MultiBinary:
    """An array of zeros and ones."""

    shape: tuple[int, ...]
    type: Literal["MultiBinary"] = "MultiBinary"

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape)

    def write(self, value: Any, row: np.ndarray) -> None:
        """Flattens a value into `row`. Raises OutsideSpace."""
        try:
            numbers = np.asarray(value)
            if numbers.shape == self.shape and ((numbers == 0) | (numbers == 1)).all():
                row[:] = numbers.reshape(-1)
                return
        except (TypeError, ValueError):
            pass
        raise OutsideSpace(value, self, f"zeros and ones of shape {self.shape}")

    @property
    def kind(self) -> Literal["discrete"]:
        return "discrete"

    @property
    def choices(self) -> tuple[int, ...]:
        return (2,) * self.size

    @property
    def action_size(self) -> int:
        return 2 * self.size

    def action(self, row: np.ndarray) -> np.ndarray:
        """Zeros and ones [..., entries] -> int8 actions [..., *shape]."""
        return row.reshape((*row.shape[:-1], *self.shape)).astype(np.int8)

    def __str__(self) -> str:
        return f"MultiBinary({self.shape})"


@dataclass(frozen=True)
class Dict:
    """Values by key, in order."""

    keys: tuple[str | int, ...]
    spaces: tuple[Space, ...]
    type: Literal["Dict"] = "Dict"

    @cached_property
    def size(self) -> int:
        return sum(space.size for space in self.spaces)

    def write(self, value: Any, row: np.ndarray) -> None:
        """Writes the flattened values, concatenated. Additional keys are ignored. Raises OutsideSpace."""
        if not isinstance(value, Mapping) or not all(key in value for key in self.keys):
            names = ", ".join(f'"{key}"' for key in self.keys)
            raise OutsideSpace(value, self, f"a dictionary with {names}")
        _write_parts(self.spaces, [value[key] for key in self.keys], row, self.keys)

    def __str__(self) -> str:
        return f"Dict({', '.join(f'{key}: {space}' for key, space in zip(self.keys, self.spaces, strict=True))})"


@dataclass(frozen=True)
class Tuple:
    """Values in order."""

    spaces: tuple[Space, ...]
    type: Literal["Tuple"] = "Tuple"

    @cached_property
    def size(self) -> int:
        return sum(space.size for space in self.spaces)

    def write(self, value: Any, row: np.ndarray) -> None:
        """Writes the flattened values, concatenated. Raises OutsideSpace."""
        if not isinstance(value, Sequence | np.ndarray) or len(value) != len(self.spaces):
            raise OutsideSpace(value, self, f"a tuple of {len(self.spaces)}")
        _write_parts(self.spaces, value, row, range(len(self.spaces)))

    def __str__(self) -> str:
        return f"Tuple({', '.join(map(str, self.spaces))})"


Space = Box | Discrete | MultiDiscrete | MultiBinary | Dict | Tuple
ActionSpace = Box | Discrete | MultiDiscrete | MultiBinary


@dataclass(frozen=True)
class AgentView:
    """Spaces of one agent's observations and actions in its environment.

    sees, acts:  observation and action space; `sees` excludes the action mask, if any.
    masked:      True if its observations are dictionaries that hold an action mask.
    """

    sees: Space
    acts: ActionSpace
    masked: bool = False

    @cached_property
    def obs_size(self) -> int:
        """Width of its flattened observations; an agent with an empty space has one entry, always 0."""
        return max(1, self.sees.size)

    @cached_property
    def action_size(self) -> int:
        return self.acts.action_size

    def observe(self, observation: Any, row: np.ndarray) -> None:
        """Writes an observation into the first entries of `row`, initially zero. Raises OutsideSpace."""
        self.sees.write(observation, row if len(row) == self.sees.size else row[: self.sees.size])


def space_of(data: Mapping[str, Any]) -> Space:
    """A space from its fields as plain data (sequences as lists or tuples). Raises ValueError for unknown types."""
    kinds: dict[Any, Any] = {kind.__name__: kind for kind in (Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple)}
    if data.get("type") not in kinds:
        raise ValueError(f"{data.get('type')!r} must be a type of space, one of {sorted(kinds)}.")
    parts = {"spaces": tuple(map(space_of, data["spaces"]))} if "spaces" in data else {}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return kinds[data["type"]](**plain | parts)


def view_of(data: Mapping[str, Any]) -> AgentView:
    """An `AgentView` from its fields as plain data."""
    acts = space_of(data["acts"])
    if not isinstance(acts, ActionSpace):
        raise ValueError(f"{acts} is not a space of actions.")
    return AgentView(space_of(data["sees"]), acts, data["masked"])


def available(mask: Any) -> np.ndarray:
    """A mask of available choices as bool [..., choices]; a tuple of arrays, one per component, is concatenated.

    Raises OutsideSpace unless all entries are 0 or 1: in masks meant to be added to logits (0 and -inf), 0 means the
    opposite.
    """
    try:
        parts = isinstance(mask, tuple) and any(np.ndim(part) for part in mask)
        numbers = np.concatenate([np.ravel(part) for part in mask]) if parts else np.asarray(mask)
        if numbers.dtype.kind == "b":
            return numbers
        if numbers.dtype.kind in "iuf" and ((numbers == 0) | (numbers == 1)).all():
            return numbers.astype(bool)
    except (TypeError, ValueError, RuntimeError):  # ragged, not numbers, a tensor on another device
        pass
    raise OutsideSpace(mask, "a mask of available choices", "1 for each choice that is available and 0 otherwise")


def described(value: Any) -> str:
    """A value for an error message: the start of its repr, and its shape if it is an array."""
    text = " ".join(repr(value).split())
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    return (text if len(text) <= SHOWN else f"{text[:SHOWN]}...") + shape


def _write_parts(spaces: Sequence[Space], values: Any, row: np.ndarray, keys: Sequence[Any]) -> None:
    start = 0
    for space, value, key in zip(spaces, values, keys, strict=True):
        try:
            space.write(value, row[start : start + space.size])
        except OutsideSpace as problem:
            raise OutsideSpace(problem.value, problem.space, f"{problem.expected} under {key!r}") from None
        start += space.size
