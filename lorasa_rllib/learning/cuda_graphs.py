"""Functions of tensors replayed as CUDA graphs: on a GPU, hundreds of small operations cost more to launch than to run.

A graph repeats the recorded operations on the recorded addresses. So what a function reads and changes besides its
arguments (weights, moments) must stay where it is, and its key must say where that is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
Tensors = Mapping[str, Tensor]
Numbers = Mapping[str, float | Tensor]
"""Arguments of a function, by name. Numbers may change from call to call; a graph reads them from tensors []."""
Function = Callable[[Tensors, Numbers], list[Tensor]]
WARM_UPS = 2
"""Calls that run as they are before a function is recorded: they create what it keeps, such as moments."""


class Graphs:
    """Functions, each recorded at its third call and replayed from then on.

    Off a GPU, and once a recording has failed, functions run as they are. strict: a failed recording raises
    RuntimeError instead of one line in the log.
    """

    def __init__(self, strict: bool = False):
        self._strict = strict
        self._works = True
        self._calls: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, _Recorded] = {}
        self._inputs: dict[Hashable, Tensor] = {}  # graphs share them, as each copies its arguments just before it runs

    def __len__(self) -> int:
        """Number of recorded graphs."""
        return len(self._recorded)

    def call(
        self, key: Hashable, function: Function, tensors: Tensors, numbers: Mapping[str, float] = MappingProxyType({})
    ) -> list[Tensor]:
        """`function(tensors, numbers)`. Returns new tensors.

        key: everything else that decides what the function does, and the addresses of what it changes.
        """
        if not self._works or not any(x.is_cuda for x in tensors.values()):
            return function(tensors, numbers)
        key = key, tuple(_shape(name, x) for name, x in tensors.items()), tuple(numbers)
        if key not in self._recorded:
            self._calls[key] += 1
            if self._calls[key] <= WARM_UPS or not self._record(key, function, tensors, numbers):
                return function(tensors, numbers)
        return self._recorded[key].replay(tensors, numbers)

    def _record(self, key: Hashable, function: Function, tensors: Tensors, numbers: Mapping[str, float]) -> bool:
        device = next(x.device for x in tensors.values() if x.is_cuda)
        copies = {name: self._input(_shape(name, x), x) for name, x in tensors.items()}
        scalars = {name: self._input(name, torch.empty((), dtype=torch.double, device=device)) for name in numbers}
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        pool = next((other.graph.pool() for other in self._recorded.values()), None)
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = function(copies, scalars)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a failed recording leaves its own stream behind
            self._works = False
            line = f"Optimiser steps are not replayed as CUDA graphs: {str(error).splitlines()[0]}"
            if self._strict:
                raise RuntimeError(f"{line} Leave compile at 'auto'.") from error
            logger.info("%s", line)
            return False
        if not self._recorded:
            logger.info("Optimiser steps are replayed as CUDA graphs.")
        self._recorded[key] = _Recorded(graph, copies, scalars, outputs)
        return True

    def _input(self, key: Hashable, like: Tensor) -> Tensor:
        if key not in self._inputs:
            self._inputs[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._inputs[key]


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    tensors: dict[str, Tensor]
    numbers: dict[str, Tensor]
    outputs: list[Tensor]

    def replay(self, tensors: Tensors, numbers: Mapping[str, float]) -> list[Tensor]:
        for name, x in tensors.items():
            self.tensors[name].copy_(x)
        for name, number in numbers.items():
            self.numbers[name].fill_(number)
        self.graph.replay()
        return [output.clone() for output in self.outputs]


def _shape(name: str, x: Tensor) -> Hashable:
    return name, tuple(x.shape), x.dtype
