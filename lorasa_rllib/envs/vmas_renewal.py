"""New episodes in some worlds of a batch: copied from a second batch, which is reset as a whole.

The package resets one world at a time, or all. One of navigation with 600 worlds costs it 17 ms, as much as all of them
and as much as a step. Here worlds lie ready in store, and an episode that begins takes the next one: all tensors of
a world are copied, whatever object holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasa_rllib.envs.vmas_worlds import Worlds

if TYPE_CHECKING:
    from vmas.simulator.scenario import BaseScenario

Place = tuple[Any, Any]
"""Where a tensor is: a dictionary (of attributes, too) or list, and the key or index in it."""


class Renewal:
    """Begins episodes in `worlds`, taking them from `store`, worlds of the same scenario but of another number.

    The axis along which two tensors at the same place differ is that of the worlds. What has none, such as a mass that
    a scenario draws for all worlds, stays until all are reset.
    """

    def __init__(self, worlds: Worlds, store: Worlds):
        self._worlds, self._store = worlds, store
        self._size = store.world.batch_dim
        self._next = self._size
        self._obs: Tensor | None = None
        self._places: list[tuple[Place, Place, int]] | None = None

    def discard(self) -> None:
        """Leaves the worlds in store unused: the next ones follow from the random stream as it is now."""
        self._next = self._size

    def renew(self, which: Tensor) -> Tensor:
        """Begins episodes in the worlds `which`, int64 [F], in this order. Returns their observations [F, N, o]."""
        obs, first = [], 0
        while first < len(which):
            if self._next == self._size:
                self._obs, self._next = self._store.reset(), 0
            number = min(len(which) - first, self._size - self._next)
            self._copy(which[first : first + number], self._next)
            assert self._obs is not None
            obs.append(self._obs[self._next : self._next + number])
            first, self._next = first + number, self._next + number
        return obs[0] if len(obs) == 1 else torch.cat(obs)

    def _copy(self, which: Tensor, first: int) -> None:
        """Copies the state of worlds from the store, beginning with its world `first`."""
        if self._places is None:
            self._places = list(_pairs(self._worlds.scenario, self._store.scenario))
        written: dict[int, int] = {}
        for (mine, key), (theirs, same_key), axis in self._places:
            own, source = mine[key], theirs[same_key]
            if own is None or source is None:
                continue
            memory = own.data_ptr()
            if 0 in own.stride() or written.setdefault(memory, source.data_ptr()) != source.data_ptr():
                own = mine[key] = own.clone(memory_format=torch.contiguous_format)  # it was also another tensor
            own.index_copy_(axis, which, source.narrow(axis, first, len(which)))


def _pairs(mine: BaseScenario, theirs: BaseScenario) -> Iterator[tuple[Place, Place, int]]:
    """Tensors of worlds at the same places of two scenarios, and the axis of the worlds."""
    bodies = list(zip(mine.world.entities, theirs.world.entities, strict=True))
    seen = {id(one) for one, _ in bodies}  # by their order, as what refers to one may be drawn, such as a goal
    waiting = [(vars(one), vars(other)) for one, other in bodies] + [(mine, theirs)]
    while waiting:
        one, other = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for place, same in _entries(one, other):
            a, b = place[0][place[1]], same[0][same[1]]
            if isinstance(a, Tensor):
                if isinstance(b, Tensor) and (axis := _axis(a, b)) is not None:
                    yield place, same, axis
            elif not isinstance(a, LEAVES):
                waiting.append((a, b))


LEAVES = (
    str, bytes, int, float, bool, type(None), type, torch.device, torch.dtype,
    FunctionType, BuiltinFunctionType, MethodType, ModuleType,
)  # fmt: skip
"""Kinds of values that hold no state of worlds."""


def _entries(one: object, other: object) -> Iterator[tuple[Place, Place]]:
    """The same places in two objects: entries, or attributes."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [(key, key) for key in one if key in other]
        if not keys:  # keys may be agents, which come in the same order
            keys = list(zip(one, other, strict=False))
        yield from (((one, key), (other, same)) for key, same in keys)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        yield from (((one, n), (other, n)) for n in range(min(len(one), len(other))))
    elif hasattr(one, "__dict__") and hasattr(other, "__dict__"):
        yield from _entries(vars(one), vars(other))


def _axis(mine: Tensor, theirs: Tensor) -> int | None:
    """The only axis along which two tensors differ in size; None if there is none."""
    if mine.dim() != theirs.dim() or mine.dtype is not theirs.dtype:
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(mine.shape, theirs.shape, strict=True)) if a != b]
    return axes[0] if len(axes) == 1 else None
