"""Functions of tensors replayed as CUDA graphs: on a GPU, hundreds of small operations cost more to launch than to run.

A graph repeats the recorded operations on the recorded addresses. So what a function reads and changes besides its
arguments (weights, moments) must stay where it is, and its key must say where that is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
Given = Mapping[str, Tensor | float]
"""Arguments of a function, by name."""
Function = Callable[[Given], list[Tensor]]
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

    def call(self, key: Hashable, function: Function, given: Given) -> list[Tensor]:
        """`function(given)`, which must not depend on values on the CPU other than `given`. Returns new tensors.

        key: everything else that decides what the function does, and the addresses of what it changes.
        """
        if not self._works or not any(isinstance(x, Tensor) and x.is_cuda for x in given.values()):
            return function(given)
        key = key, tuple(_shape_of(name, x) for name, x in given.items())
        if key not in self._recorded:
            self._calls[key] += 1
            if self._calls[key] <= WARM_UPS or not self._record(key, function, given):
                return function(given)
        return self._recorded[key].replay(given)

    def _record(self, key: Hashable, function: Function, given: Given) -> bool:
        device = next(x.device for x in given.values() if isinstance(x, Tensor) and x.is_cuda)
        inputs = {name: self._input(name, x, device) for name, x in given.items()}
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        pool = next((other.graph.pool() for other in self._recorded.values()), None)
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = function(inputs)
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
        self._recorded[key] = _Recorded(graph, inputs, outputs)
        return True

    def _input(self, name: str, x: Tensor | float, device: torch.device) -> Tensor:
        shape = _shape_of(name, x)
        if shape not in self._inputs:
            self._inputs[shape] = (
                torch.empty_like(x, memory_format=torch.contiguous_format)
                if isinstance(x, Tensor)
                else torch.empty((), device=device)
            )
        return self._inputs[shape]


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: list[Tensor]

    def replay(self, given: Given) -> list[Tensor]:
        for name, x in given.items():
            if isinstance(x, Tensor):
                self.inputs[name].copy_(x)
            else:
                self.inputs[name].fill_(x)
        self.graph.replay()
        return [output.clone() for output in self.outputs]


def _shape_of(name: str, x: Tensor | float) -> Hashable:
    return (name, tuple(x.shape), x.dtype) if isinstance(x, Tensor) else name
