"""Observations of MuJoCo tasks by indexing into raw MuJoCo arrays; the indices come from probing the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mujoco import MjData

RAW_ARRAYS = ("qpos", "qvel", "cfrc_ext", "cvel", "cinert", "qfrc_actuator", "xpos")
"""Arrays of MjData whose entries may appear in observations."""

DERIVED = "derived"
"""Name of the numbers that `derive` adds behind the raw arrays."""

FAR = 1e6
"""A value outside every clip range."""

Derive = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Raw arrays [E, ...] by name -> numbers float64 [E, D] that observations contain although they are not raw entries."""


@dataclass(frozen=True)
class Origins:
    """Where the M entries of a group of observations come from, one observation after another.

    sizes:      entries of each observation; they add up to M.
    raw_sizes:  entries of every raw array, in the order in which they are laid end to end.
    index       int64 [M]: position in the raw arrays laid end to end; -1: the library has to compute the entry
    low, high   float64 [M]: range to which the entry is clipped
    """

    sizes: tuple[int, ...]
    raw_sizes: Mapping[str, int]
    index: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def computed(self) -> np.ndarray:
        """Positions int64 of the entries that the library has to compute."""
        return np.flatnonzero(self.index < 0)

    def reads(self) -> set[str]:
        """Names of the raw arrays that occur."""
        names, ends = list(self.raw_sizes), np.cumsum(list(self.raw_sizes.values()))
        return {names[n] for n in np.unique(np.searchsorted(ends, self.index[self.index >= 0], side="right"))}


def find_origins(build: Callable[[], Sequence[np.ndarray]], data: MjData, derive: Derive | None = None) -> Origins:
    """Determines which raw entry each entry of some observations copies, and how it is clipped.

    Fills the raw arrays with distinct numbers, lets the library build the observations, and looks up where each number
    came from. Entries that are neither copies nor derived (the sine of an angle) are left to the library.

    build:  the library's function: from the present content of `data` to the observations (float64).
    data:   MjData; its content is lost.
    """
    rng = np.random.default_rng(0)
    arrays = {name: getattr(data, name) for name in RAW_ARRAYS}
    sizes = {name: array.size for name, array in arrays.items()}
    total = sum(sizes.values())

    def derived() -> np.ndarray:
        return np.zeros(0) if derive is None else derive({name: array[None] for name, array in arrays.items()})[0]

    def built_from(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All observations, and the raw entries followed by those derived from them."""
        position = 0
        for array in arrays.values():
            array.flat[:] = raw[position : position + array.size]
            position += array.size
        return np.concatenate(build()), np.concatenate([raw, derived()])

    near, source = built_from(rng.uniform(-1e-3, 1e-3, total))  # distinct and within every clip range
    where = {value: position for position, value in enumerate(source)}
    index = np.array([where.get(value, -1) for value in near])
    above, below = built_from(np.full(total, FAR))[0], built_from(np.full(total, -FAR))[0]
    raw_entry = (index >= 0) & (index < total)
    high = np.where(raw_entry & (above < FAR), above, np.inf)
    low = np.where(raw_entry & (below > -FAR), below, -np.inf)
    for scale in (0.5, 3.0, 50.0):
        built, source = built_from(rng.standard_normal(total) * scale)
        index[(index >= 0) & (np.clip(source[index], low, high) != built)] = -1
    low[index < 0], high[index < 0] = -np.inf, np.inf
    return Origins(tuple(map(len, build())), {**sizes, DERIVED: len(derived())}, index, low, high)


class RawEntries:
    """The raw entries that observations contain, float32 [E, K + 1] in `values`; the last column is always 0.

    columns: the place of every array that is read, by name. Whoever steps the simulations keeps them up to date.
    """

    def __init__(self, origins: Sequence[Origins], num_envs: int):
        read = set().union(*(one.reads() for one in origins))
        sizes = origins[0].raw_sizes
        self.columns: dict[str, slice] = {}
        self._column_of = np.zeros(sum(sizes.values()), np.int64)
        position = kept = 0
        for name, size in sizes.items():
            if name in read:
                self.columns[name] = slice(kept, kept + size)
                self._column_of[position : position + size] = kept + np.arange(size)
                kept += size
            position += size
        self.values = np.zeros((num_envs, kept + 1), np.float32)

    def gather(self, origins: Origins, width: int) -> Gather:
        """A gather of these observations, each padded with zeros to `width`."""
        columns = np.where(origins.index >= 0, self._column_of[origins.index], self.values.shape[1] - 1)
        return Gather(self.values, origins, columns, width)


class Gather:
    """Writes observations float32 [E, N, width] with a single indexing operation.

    Entries are rounded to float32 before they are clipped. As rounding keeps order, the result is that of the library
    rounded to float32.
    """

    def __init__(self, values: np.ndarray, origins: Origins, columns: np.ndarray, width: int):
        slots = np.concatenate([n * width + np.arange(size) for n, size in enumerate(origins.sizes)])
        self.computed = slots[origins.computed]  # places in [N * width] that the library has to compute
        self._values = values
        self._index = np.full(len(origins.sizes) * width, values.shape[1] - 1)
        self._index[slots] = columns
        self._low = np.full(len(self._index), -np.inf, np.float32)
        self._high = -self._low
        self._low[slots], self._high[slots] = origins.low, origins.high
        self._clips = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def write(self, out: np.ndarray, only: np.ndarray | None = None) -> None:
        """Writes observations `out` [E, N, width], C-contiguous. only: simulations to write, int64; None: all."""
        flat = out.reshape(len(out), -1)
        if only is None:
            # "clip" only spares NumPy a copy: no index is out of range
            self._values.take(self._index, axis=1, out=flat, mode="clip")
            self._clip(flat)
        else:
            flat[only] = self._clip(self._values[only].take(self._index, axis=1))

    def _clip(self, flat: np.ndarray) -> np.ndarray:
        if self._clips:
            np.maximum(flat, self._low, out=flat)
            np.minimum(flat, self._high, out=flat)
        return flat
