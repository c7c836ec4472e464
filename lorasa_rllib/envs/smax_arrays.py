"""How a runner sees the battles of SMAX: as NumPy arrays, or as tensors on the device where JAX computes them.

Tensors share the memory of JAX's arrays (DLPack), so that nothing leaves the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from lorasa_rllib.envs.base import Array

if TYPE_CHECKING:
    import jax
    import torch


class BattleArrays(ABC, Generic[Array]):
    """Conversions between JAX's arrays and those of `TeamStep`.

    device: see `VectorTeamEnv.device`.
    """

    device: torch.device | None = None

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], kind: type) -> Array:
        """kind: float, int or bool, for float32, int64 and bool."""

    @abstractmethod
    def of_jax(self, array: jax.Array) -> Array:
        """The same memory where that is possible, not to be written to."""

    @abstractmethod
    def to_jax(self, actions: Array) -> np.ndarray | jax.Array:
        """Actions as int32."""

    @abstractmethod
    def seeds(self, seeds: np.ndarray) -> np.ndarray | jax.Array:
        """uint32 [E] where the battles are to be computed: what follows from them is computed there, too."""

    @abstractmethod
    def index(self, which: np.ndarray) -> Array:
        """Indices int64 for arrays of this kind."""

    @abstractmethod
    def host(self, array: Array) -> np.ndarray: ...


class OnHost(BattleArrays[np.ndarray]):
    """NumPy arrays; JAX computes on its default device."""

    def zeros(self, shape: tuple[int, ...], kind: type) -> np.ndarray:
        return np.zeros(shape, {float: np.float32, int: np.int64, bool: np.bool_}[kind])

    def of_jax(self, array: jax.Array) -> np.ndarray:
        return np.asarray(array)

    def to_jax(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int32)

    def seeds(self, seeds: np.ndarray) -> np.ndarray:
        return seeds

    def index(self, which: np.ndarray) -> np.ndarray:
        return which

    def host(self, array: np.ndarray) -> np.ndarray:
        return array


class OnDevice(BattleArrays["torch.Tensor"]):
    """Tensors on `device`, "cpu" or "cuda". Raises ValueError if PyTorch or JAX lacks it."""

    def __init__(self, device: str | torch.device):
        import jax
        import torch

        from lorasa_rllib.envs.devices import checked_device

        self._torch, self._jax = torch, jax
        self.device = checked_device(device)
        try:
            self._place = jax.devices(self.device.type)[self.device.index or 0]
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"device={str(device)!r}: JAX finds no such device in this process ({error}). Install JAX for GPUs, "
                'pip install "jax[cuda12]", and import it in the program only after the environment is made.'
            ) from error

    def zeros(self, shape: tuple[int, ...], kind: type) -> torch.Tensor:
        torch = self._torch
        dtype = {float: torch.float32, int: torch.int64, bool: torch.bool}[kind]
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def of_jax(self, array: jax.Array) -> torch.Tensor:
        tensor = self._torch.from_dlpack(array)
        return tensor.long() if tensor.dtype is self._torch.int32 else tensor

    def to_jax(self, actions: torch.Tensor) -> jax.Array:
        on_device = self._torch.as_tensor(actions, device=self.device)
        return self._jax.dlpack.from_dlpack(on_device.to(self._torch.int32).contiguous())

    def seeds(self, seeds: np.ndarray) -> jax.Array:
        return self._jax.device_put(seeds, self._place)

    def index(self, which: np.ndarray) -> torch.Tensor:
        return self._torch.from_numpy(which).to(self.device)

    def host(self, array: torch.Tensor) -> np.ndarray:
        return array.cpu().numpy()


def arrays_of_battles(device: str | torch.device | None) -> BattleArrays[Any]:
    """The arrays for `device` of `SMAXTeam`. Raises ValueError if PyTorch or JAX lacks it."""
    return OnHost() if device is None else OnDevice(device)
