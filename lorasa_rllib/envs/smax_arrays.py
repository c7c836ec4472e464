"""How a runner sees the battles of SMAX: as NumPy arrays, or as tensors on the device where JAX computes them.

Tensors share the memory of JAX's arrays (DLPack), so that nothing leaves the device.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.arrays import Arrays, NumpyArrays, Tensors
from lorasa_rllib.envs.base import Array
from lorasa_rllib.envs.devices import checked_device

if TYPE_CHECKING:
    import jax


class BattleArrays(Arrays[Array]):
    """Arrays of `TeamStep` that are made from JAX's."""

    @abstractmethod
    def of_jax(self, array: jax.Array) -> Array:
        """The same memory where that is possible, not to be written to."""

    @abstractmethod
    def to_jax(self, actions: Array) -> np.ndarray | jax.Array:
        """Actions as int32."""

    @abstractmethod
    def seeds(self, seeds: np.ndarray) -> np.ndarray | jax.Array:
        """uint32 [E] where the battles are to be computed: what follows from them is computed there, too."""


class OnHost(NumpyArrays, BattleArrays[np.ndarray]):
    """NumPy arrays; JAX computes on its default device."""

    def of_jax(self, array: jax.Array) -> np.ndarray:
        return np.asarray(array)

    def to_jax(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int32)

    def seeds(self, seeds: np.ndarray) -> np.ndarray:
        return seeds


class OnDevice(Tensors, BattleArrays[Tensor]):
    """Tensors on `device`, "cpu" or "cuda". Raises ValueError if PyTorch or JAX lacks it."""

    def __init__(self, device: str | torch.device):
        import jax

        super().__init__(checked_device(device))
        self._jax = jax
        try:
            self._place = jax.devices(self.device.type)[self.device.index or 0]
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"device={str(device)!r}: JAX finds no such device in this process ({error}). Install JAX for GPUs, "
                'pip install "jax[cuda12]", and import it in the program only after the environment is made.'
            ) from error

    def of_jax(self, array: jax.Array) -> Tensor:
        tensor = torch.from_dlpack(array)
        return tensor.long() if tensor.dtype is torch.int32 else tensor

    def to_jax(self, actions: Tensor) -> jax.Array:
        on_device = torch.as_tensor(actions, device=self.device)
        return self._jax.dlpack.from_dlpack(on_device.to(torch.int32).contiguous())

    def seeds(self, seeds: np.ndarray) -> jax.Array:
        return self._jax.device_put(seeds, self._place)


def arrays_of_battles(device: str | torch.device | None) -> BattleArrays[Any]:
    """The arrays for `device` of `SMAXTeam`. Raises ValueError if PyTorch or JAX lacks it."""
    return OnHost() if device is None else OnDevice(device)
