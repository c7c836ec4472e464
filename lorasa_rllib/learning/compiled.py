"""Optimiser steps as machine code: compiled in the background, cached on disk, used as soon as they are ready.

A step on few rows is dominated by the overhead of hundreds of small operations; compiled as one graph it takes a
quarter of the time or less. Compiling takes half a minute or more, so a low-priority process does it while the first
iterations run eagerly. All trials and later runs share the resulting file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.cuda_graphs import Graphs
from lorasa_rllib.learning.normalisers import AllSum, alone, sum_over_learners
from lorasa_rllib.learning.passes import Minibatch
from lorasa_rllib.learning.plans import (
    blocks_in_plan,
    blocks_of,
    dtype_of,
    inputs_of,
    read_by_steps,
    samples_noise,
    shapes_of,
)
from lorasa_rllib.learning.replayed import ReplayedStep, why_not_recorded
from lorasa_rllib.learning.step import EagerStep, Norms, Step
from lorasa_rllib.learning.step_graph import StepPlan
from lorasa_rllib.nn.encoder_classes import OURS
from lorasa_rllib.nn.policy import Group, TeamPolicy

logger = logging.getLogger(__name__)
Compile = Literal["auto"] | bool
Graph = Callable[[list[Tensor]], list[Tensor]]
"""A compiled function of tensors. It may empty the list."""
COLUMNS = (
    "obs", "state", "actions", "log_probs", "active", "advantages", "values", "targets", "masks",
    "actor_state", "critic_state", "keep", "actor_keep",
)  # fmt: skip
"""Columns of a `Batch` that a compiled step reads, if present."""
COMPILERS = ("g++", "clang++", "c++")
LONGEST = 20
"""Longest `chunk_length` of recurrent networks that is compiled: the graph repeats every step of a sequence, and ten of
them already take a minute of compilation."""
LIMIT = 1800
"""Seconds after which a compiler ends, whatever it waits for."""
PATIENCE = 20.0
"""Seconds that eager optimiser steps must have taken in total before "auto" starts to compile: a run that has lasted
about half a compilation will probably last long enough to benefit."""


class StepCompiler:
    """Compiled steps of one learner, one graph per phase and shape of minibatches.

    compile: "auto": steps are compiled in the background and run eagerly until ready, or throughout if compilation is
    impossible; True: waits for compilation, and raises RuntimeError if it is impossible.
    patience: see `PATIENCE`; not used if compile is True.
    """

    def __init__(self, compile: Compile, folder: Path | None = None, patience: float = PATIENCE):
        self._wait = compile is True
        self._left = 0.0 if self._wait else patience
        self._folder = cache_folder() if folder is None else folder
        self._jobs: dict[str, _Job] = {}
        self.graphs = Graphs(strict=compile is True)
        self._reported: set[str] = set()

    def step(self, eager: EagerStep, part: Minibatch) -> Step:
        """The step for minibatches shaped like `part`: replayed on a GPU, compiled if ready on a CPU, or `eager`."""
        all_sum = eager.all_sum
        if self.replays(eager.policy, eager.settings, all_sum):
            return ReplayedStep(self.graphs, eager)
        plan = plan_of(eager, part)
        graphs = self.graphs_of(plan, why_not(eager.policy, eager.settings))
        if all_sum is not alone:  # all learners switch together, so their parameters stay bit-identical
            mine = torch.tensor([1.0, float(graphs is not None)], device=part.rows.obs.device)
            learners, ready = all_sum(mine).tolist()
            graphs = graphs if learners == ready else None
        return _Timed(eager, self) if graphs is None else CompiledStep(plan, graphs, eager)

    def replays(self, policy: TeamPolicy, settings: MAPPOSettings, all_sum: AllSum) -> bool:
        """Whether steps are replayed as CUDA graphs."""
        on_gpu = next(policy.parameters()).is_cuda
        return on_gpu and all_sum is alone and why_not_recorded(policy, settings) is None

    def graphs_of(self, plan: StepPlan, reason: str | None) -> list[Graph] | None:
        """The graphs of a plan if they are ready. reason: why it cannot be compiled; None: it can."""
        try:
            return self._graphs(plan, reason)
        except RuntimeError as error:
            if self._wait:
                raise
            if str(error) not in self._reported:
                self._reported.add(str(error))
                logger.info("%s", error)
            return None

    def took(self, seconds: float) -> None:
        """Records the time spent on eager steps."""
        self._left -= seconds

    def _graphs(self, plan: StepPlan, reason: str | None) -> list[Graph] | None:
        if reason is not None:
            raise RuntimeError(f"Optimiser steps are not compiled: {reason}.")
        key = key_of(plan)
        if key not in self._jobs:
            self._jobs[key] = _Job(plan, self._folder / key, quiet=not self._wait)
        may_start = self._left <= 0 and not any(job.running for job in self._jobs.values())
        return self._jobs[key].graphs(may_start, self._wait)


@dataclass(frozen=True)
class _Timed:
    """Eager steps, whose time counts towards the compiler's patience."""

    eager: EagerStep
    compiler: StepCompiler

    def __call__(self, part: Minibatch, noise: torch.Generator | None) -> tuple[Tensor, Norms]:
        began = time.perf_counter()
        taken = self.eager(part, noise)
        self.compiler.took(time.perf_counter() - began)
        return taken

    def finish(self) -> None:
        self.eager.finish()


class CompiledStep:
    """`EagerStep` as machine code, in place on the optimisers' buffers."""

    def __init__(self, plan: StepPlan, graphs: list[Graph], eager: EagerStep):
        self._plan, self._graphs, self._all_sum = plan, graphs, eager.all_sum
        self._given = inputs_of(plan, eager.policy, eager.optimisers, eager.settings)
        self._blocks = [block for _, block in blocks_of(eager.optimisers)]
        self._frozen = {name: torch.zeros(0) for name in eager.optimisers if name not in plan.groups}

    def __call__(self, part: Minibatch, noise: torch.Generator | None) -> tuple[Tensor, Norms]:
        given = self._given
        for name, shape, _ in self._plan.columns:
            if name == "noise":
                given[name] = part.rows.actions.new_empty(shape).normal_(generator=noise)
            else:
                given[name] = getattr(part.rows, name).contiguous()
        for group in self._plan.groups:
            given[f"counts.{group}"] = part.counts[group]
        if not self._plan.split:
            sums, *norms = self._graphs[0](list(given.values()))
        else:
            sums, *grads = self._graphs[0](list(given.values()))
            sum_over_learners([*grads, sums], self._all_sum)
            norms = self._graphs[1]([*given.values(), *grads])
        return sums, self._frozen | dict(zip(self._plan.groups, norms, strict=True))

    def finish(self) -> None:
        """Marks the optimisers' blocks as changed."""
        for block in self._blocks:
            block.changed()


@dataclass
class _Job:
    """The graphs of one plan: waiting, being compiled, ready or failed."""

    plan: StepPlan
    folder: Path
    quiet: bool
    process: subprocess.Popen[bytes] | None = None
    loaded: list[Graph] | None = None
    failed: str = ""

    @property
    def running(self) -> bool:
        """Whether its compiler runs."""
        return self.process is not None and self.process.poll() is None

    def graphs(self, start: bool, wait: bool) -> list[Graph] | None:
        """The graphs if ready, else None. May start compiling (`start`) and wait for it (`wait`).

        Raises RuntimeError if compilation failed.
        """
        if self.failed:
            raise RuntimeError(self.failed)
        if self.loaded is None and not self._ready():
            if self.process is None and not start:
                return None
            if self.process is None:
                try:
                    self.process = self._start()
                except OSError as error:
                    self.failed = f"Optimiser steps are not compiled: {error}."
                    raise RuntimeError(self.failed) from error
            if wait:
                self.process.wait(timeout=2 * LIMIT)
            if self.process.poll() is None:
                return None
            if not self._ready():
                self.failed = f"Optimiser steps are not compiled: the compiler failed, see {self.folder / 'log.txt'}."
                raise RuntimeError(self.failed)
        if self.loaded is None:
            from torch._inductor import aoti_load_package

            paths = [str(self.folder / name) for name in files(self.plan)]
            # called without the package's own wrapper, which maps nested arguments at every call
            self.loaded = [aoti_load_package(path, run_single_threaded=True).loader.boxed_run for path in paths]
            logger.info("Optimiser steps are compiled (phase %s).", self.plan.phase)
        return self.loaded

    def _ready(self) -> bool:
        return all((self.folder / name).exists() for name in files(self.plan))

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / f"plan_{os.getpid()}.json"
        plan.write_text(json.dumps(self.plan.to_dict()))
        command = [sys.executable, "-m", "lorasa_rllib.learning.compile_step", str(plan), str(self.folder)]
        command += ["--nice"] if self.quiet else []
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def files(plan: StepPlan) -> list[str]:
    """File names of a compiled plan."""
    return ["gradients.pt2", "advance.pt2"] if plan.split else ["step.pt2"]


def why_not(policy: TeamPolicy, settings: MAPPOSettings) -> str | None:
    """The reason why steps of this policy cannot be compiled; None if they can."""
    device = next(policy.parameters()).device
    if device.type != "cpu":
        return f"the policy is on {device.type}; only steps on a CPU are"
    network = policy.config.network
    if (network.recurrent or network.critic_recurrent) and settings.chunk_length > LONGEST:
        return f"recurrent networks are only with a chunk_length of at most {LONGEST}; it is {settings.chunk_length}"
    if network.encoder not in (None, *OURS):  # a change of its code would go unnoticed
        return "an encoder of your own is not"
    reason = why_not_recorded(policy, settings)
    if reason is not None:
        return reason
    if shutil.which(os.environ.get("CXX", "")) is None and not any(map(shutil.which, COMPILERS)):
        return f"there is no C++ compiler ({', '.join(COMPILERS)}, or that of CXX)"
    return None


def plan_of(eager: EagerStep, part: Minibatch) -> StepPlan:
    """Everything that determines a step on minibatches shaped like `part`."""
    policy, optimisers, settings = eager.policy, eager.optimisers, eager.settings
    owners = policy.config.owners
    of_group: dict[Group, int] = {"backbone": owners.num_backbones, "adapters": owners.num_adapters}
    of_group["critic"] = len(part.counts["critic"])
    columns = {name: getattr(part.rows, name) for name in COLUMNS}
    if part.everyone:
        columns.pop("active")
    if samples_noise(policy):
        columns["noise"] = part.rows.actions
    return StepPlan(
        policy.config,
        policy.phase,
        read_by_steps(settings),
        blocks_in_plan(policy, optimisers, of_group),
        shapes_of(columns),
        dtype_of(policy),
        split=eager.all_sum is not alone,
        threads=torch.get_num_threads(),
    )


def key_of(plan: StepPlan) -> str:
    """Cache key of a plan's machine code for this CPU model and these versions of torch and of our sources."""
    return hashlib.sha256(json.dumps([plan.to_dict(), *_platform()], sort_keys=True).encode()).hexdigest()[:32]


@cache
def _platform() -> tuple[str, ...]:
    sources = sorted(path for part in ("nn", "learning") for path in (Path(__file__).parents[1] / part).rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kind = sorted({line.split(":", 1)[1] for line in lines if line.startswith(("model name", "flags"))})
    return torch.__version__, digest, torch.backends.cpu.get_cpu_capability(), *kind


def cache_folder() -> Path:
    """The folder of the cache of compiled steps."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lorasa_rllib" / "steps"
