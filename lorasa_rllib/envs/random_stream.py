"""Random numbers of simulators that draw from the global generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor

States: TypeAlias = tuple[tuple[Any, ...], np.random.BitGenerator, Tensor, Tensor | None]
"""Of the generators of Python, NumPy, and PyTorch on the CPU and on a GPU."""


class RandomStream:
    """A random stream of one environment's own: as a context, it takes the place of the global generators.

    with stream:
        simulator.step()            # draws from the stream, wherever it draws from

    device: whose generator of PyTorch is included beside the CPU's.
    """

    def __init__(self, device: torch.device):
        self._device = device if device.type == "cuda" else None
        self._outside: States | None = None
        self._own: States = random.Random().getstate(), np.random.MT19937(), torch.get_rng_state(), self._of_gpu()

    def seed(self, seed: int) -> None:
        """Restarts the stream, as if all generators had just been seeded."""
        with self:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - simulators draw from this one
            torch.manual_seed(seed)

    def __enter__(self) -> None:
        self._outside = self._states()
        self._restore(self._own)

    def __exit__(self, *error: object) -> None:
        self._own = self._states()
        assert self._outside is not None, "it was entered"
        self._restore(self._outside)

    def _states(self) -> States:
        return random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state(), self._of_gpu()

    def _of_gpu(self) -> Tensor | None:
        return None if self._device is None else torch.cuda.get_rng_state(self._device)

    def _restore(self, states: States) -> None:
        of_python, of_numpy, of_torch, of_gpu = states
        random.setstate(of_python)
        mtrand.set_bit_generator(of_numpy)  # copying its state would take longer than all the others
        torch.set_rng_state(of_torch)
        if of_gpu is not None and self._device is not None:
            torch.cuda.set_rng_state(of_gpu, self._device)
