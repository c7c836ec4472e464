"""Local observations of MuJoCo tasks by indexing into raw MuJoCo arrays; the indices come from probing the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RAW_ARRAYS = ("qpos", "qvel", "cfrc_ext", "cvel", "cinert", "qfrc_actuator", "xpos")
"""Arrays of MjData whose entries may appear in observations."""

FAR = 1e6
"""A value outside every clip range."""


class ObservationGather:
    """Computes the local observations of all agents in E simulations with a single gather.

    The constructor determines, on scratch data, which raw entry each observation entry copies and how it is clipped:
    it fills the raw arrays with distinct numbers, lets the library build the observations, and looks up each number's
    origin. Entries that are not copies (sine of an angle, distance between two bodies) are computed by the library's
    function, one simulation at a time.

    build:  the library's function from MjData to the list of N observations (float64).
    model:  MjModel of the scratch data.       datas: the E MjData to gather from.       width: padded observation size.
    """

    def __init__(self, build: Callable[[Any], list[np.ndarray]], model: Any, datas: Sequence[Any], width: int):
        import mujoco

        scratch = mujoco.MjData(model)
        rng = np.random.default_rng(0)
        size = sum(getattr(scratch, name).size for name in RAW_ARRAYS)

        def built_from(raw: np.ndarray) -> np.ndarray:
            position = 0
            for name in RAW_ARRAYS:
                array = getattr(scratch, name)
                array.flat[:] = raw[position : position + array.size]
                position += array.size
            return np.concatenate(build(scratch))

        near = rng.permutation(np.linspace(-0.9, 0.9, size))  # distinct and within every clip range
        where = {value: index for index, value in enumerate(near)}
        index = np.array([where.get(value, -1) for value in built_from(near)])
        high = np.where(built_from(np.full(size, FAR)) < FAR, built_from(np.full(size, FAR)), np.inf)
        low = np.where(built_from(np.full(size, -FAR)) > -FAR, built_from(np.full(size, -FAR)), -np.inf)
        for scale in (0.5, 3.0, 50.0):
            raw = rng.standard_normal(size) * scale
            copied = index >= 0
            same = np.clip(raw[index], low, high) == built_from(raw)
            index[copied & ~same] = -1

        sizes = [len(one) for one in build(scratch)]
        self._slots = np.concatenate([n * width + np.arange(s) for n, s in enumerate(sizes)])  # columns in [N * width]
        self.computed = self._slots[index < 0]  # columns computed by the library
        self._from_library = np.flatnonzero(index < 0)
        self._build, self._datas = build, datas
        self._views, used = [], np.zeros(size + 1, np.int64)
        position = kept = 0
        for name in RAW_ARRAYS:
            count = getattr(scratch, name).size
            if ((index >= position) & (index < position + count)).any():
                used[position : position + count] = kept + np.arange(count)
                self._views.append((slice(kept, kept + count), [getattr(d, name).reshape(-1) for d in datas]))
                kept += count
            position += count
        self._raw = np.zeros((len(datas), kept + 1))  # the last column stays 0: padding
        self._index = np.full(len(sizes) * width, kept)
        self._index[self._slots] = np.where(index >= 0, used[index], kept)
        bounds = np.full((2, len(sizes) * width), [[-np.inf], [np.inf]])
        bounds[0, self._slots], bounds[1, self._slots] = low, high
        bounds[:, self.computed] = [[-np.inf], [np.inf]]
        self._bounds = bounds if np.isfinite(bounds).any() else None
        self._shape = (len(datas), len(sizes), width)

    def read(self, e: int) -> None:
        """Copies the raw arrays of simulation e."""
        for columns, views in self._views:
            self._raw[e, columns] = views[e]

    def observations(self, out: np.ndarray, only: np.ndarray | slice = slice(None)) -> None:
        """Writes observations float32 [E, N, width] from the values last read; `only` selects simulations."""
        gathered = self._raw[only].take(self._index, axis=1)
        if self._bounds is not None:
            np.clip(gathered, self._bounds[0], self._bounds[1], out=gathered)
        if len(self.computed):
            simulations = range(len(self._datas))[only] if isinstance(only, slice) else only
            for row, e in enumerate(simulations):
                gathered[row, self.computed] = np.concatenate(self._build(self._datas[e]))[self._from_library]
        out[only] = gathered.reshape(-1, *self._shape[1:])
