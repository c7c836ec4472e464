"""The two kinds of arrays that environments compute with: NumPy's, and tensors on a device.

Collectors and SMAX are written once for both; what differs between them stands here. NumPy arrays share their memory
with the tensors that networks read. Tensors stay on their device, except for what the host has to know: which episodes
ended, and with what return.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.base import Array
from lorasa_rllib.spec import TeamSpec, in_units


class Arrays(ABC, Generic[Array]):
    """Allocates arrays of one kind, and converts between them, the networks' tensors, and the host's arrays.

    device: of the networks' tensors.
    """

    device: torch.device

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: type) -> Array:
        """An uninitialised array; dtype: a NumPy type."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: type) -> Array: ...

    @abstractmethod
    def tensor(self, array: Array) -> Tensor:
        """The array as networks read it, sharing its memory."""

    @abstractmethod
    def of_tensor(self, tensor: Tensor) -> Array:
        """What a network gave, sharing its memory."""

    @abstractmethod
    def of_host(self, array: np.ndarray) -> Array: ...

    @abstractmethod
    def host(self, array: Array) -> np.ndarray:
        """The array on the host, sharing its memory where that is possible."""

    @abstractmethod
    def concatenate(self, parts: Sequence[Array]) -> Array:
        """Copies of arrays, joined along their first axis."""

    @abstractmethod
    def to_environment(self, spec: TeamSpec) -> Callable[[Array], Array]:
        """`TeamSpec.to_environment` for arrays of this kind."""


class NumpyArrays(Arrays[np.ndarray]):
    """Arrays of environments that compute with NumPy."""

    device = torch.device("cpu")

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def of_tensor(self, tensor: Tensor) -> np.ndarray:
        return tensor.numpy()

    def of_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def host(self, array: np.ndarray) -> np.ndarray:
        return array

    def concatenate(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def to_environment(self, spec: TeamSpec) -> Callable[[np.ndarray], np.ndarray]:
        return spec.to_environment


class Tensors(Arrays[Tensor]):
    """Arrays of environments that compute with tensors on `device`."""

    def __init__(self, device: torch.device):
        self.device = device

    def empty(self, shape: tuple[int, ...], dtype: type) -> Tensor:
        return torch.empty(shape, dtype=TORCH[dtype], device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Tensor:
        return torch.zeros(shape, dtype=TORCH[dtype], device=self.device)

    def tensor(self, array: Tensor) -> Tensor:
        return array

    def of_tensor(self, tensor: Tensor) -> Tensor:
        return tensor

    def of_host(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def host(self, array: Tensor) -> np.ndarray:
        return array.cpu().numpy()

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def to_environment(self, spec: TeamSpec) -> Callable[[Tensor], Tensor]:
        if not spec.continuous:
            return (lambda actions: actions) if spec.choices else lambda actions: actions[..., 0]
        if spec.unscaled:
            return lambda actions: actions.clip(-1.0, 1.0)
        scale = [torch.from_numpy(table).to(self.device) for table in spec.action_scale]
        return lambda actions: in_units(actions, *scale)


TORCH: dict[type, torch.dtype] = {
    np.float32: torch.float32,
    np.float64: torch.float64,
    np.int64: torch.int64,
    bool: torch.bool,
}
"""NumPy type -> torch type."""

NUMPY = NumpyArrays()


def arrays_of(device: torch.device | None) -> Arrays[Any]:
    """The arrays of an environment with this `VectorTeamEnv.device`."""
    return NUMPY if device is None else Tensors(device)
