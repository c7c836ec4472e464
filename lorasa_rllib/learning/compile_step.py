"""Compiles a step: `python -m lorasa_rllib.learning.compile_step PLAN FOLDER [--nice]`, see `learning.compiled`.

Concurrent processes for the same folder wait for the first one and then find its files.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lorasa_rllib.learning.a2po.unit_graph import UnitLoss
from lorasa_rllib.learning.compiled import LIMIT, files
from lorasa_rllib.learning.step_graph import StepGraph, StepPlan, TeamLoss

LOSSES = {"team": TeamLoss, "unit": UnitLoss}
"""Kind of a plan -> its loss."""


def main(plan_file: Path, folder: Path) -> None:
    plan = StepPlan.from_dict(json.loads(plan_file.read_text()))
    plan_file.unlink()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all((folder / name).exists() for name in files(plan)):
            return
        torch.set_num_threads(plan.threads)
        graph = StepGraph(plan, LOSSES[plan.kind](plan))
        example = graph.example()
        names = list(example)
        values = tuple(example.values())

        def named(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
            return dict(zip(names, tensors[: len(names)], strict=True))

        if not plan.split:
            _compile(lambda *tensors: graph(named(tensors)), values, folder / files(plan)[0])
            return
        grads = tuple(torch.zeros_like(example[f"values.{n}"]) for n in plan.training)
        before, after = (folder / name for name in files(plan))
        _compile(lambda *tensors: graph.gradients(named(tensors)), values, before)
        _compile(lambda *tensors: graph.advance(named(tensors), tensors[len(names) :]), values + grads, after)


def _compile(function: Callable[..., tuple[Tensor, ...]], example: tuple[Tensor, ...], file: Path) -> None:
    """Traces a function of tensors, including gradient computation, and writes it as machine code."""
    traced = make_fx(function)(*example)
    program = torch.export.export(traced, example)
    unfinished = file.with_name(f"unfinished_{file.name}")
    torch._inductor.aoti_compile_and_package(program, package_path=str(unfinished))
    os.replace(unfinished, file)


if __name__ == "__main__":
    signal.alarm(LIMIT)
    if "--nice" in sys.argv:
        os.nice(19)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
