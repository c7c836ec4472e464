"""The training runs behind results/README.md: their definitions and a queue that runs them.

Compared   sharing methods within every study: equal budgets, presets of `lorasa_rllib/studies/presets.py`, one torch
           thread per run, one run per core
Run        python benchmarks/studies.py [STUDY ...] --slots 2 [--minutes 120]
           one process of tune_configs/compare_methods.py for each run that has no CSV yet; interrupted runs are
           resumed. `--list` shows finished and missing runs. Then `make results`
Recorded   results/<study>/runs/<task>_<method>_seed<k>.csv
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from lorasa_rllib.studies.options import in_files
from lorasa_rllib.studies.suites import SUITES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
MILLION = 1_000_000
USUAL = ("--phase-switch", "0.3", "--evaluation-interval", "75")
ENDS_WITHIN = 120
"""Seconds allowed for a run to save a checkpoint and end."""


@dataclass(frozen=True)
class Run:
    """One training run of a study. name: of its folder while running, and of its CSV."""

    study: Study
    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return in_files(f"{self.task}_{self.method}_seed{self.seed}")

    @property
    def csv(self) -> Path:
        return self.study.folder / "runs" / f"{self.name}.csv"

    @property
    def experiment(self) -> str:
        return f"{self.study.name}_{self.name}"

    def command(self) -> list[str]:
        study, task = self.study, self.task
        epochs = ["--num-epochs", str(study.epochs[task])] if task in study.epochs else []
        settings = study.recipes.get(self.method)
        method = self.method if settings is None else "ps"
        return [
            "tune_configs/compare_methods.py", "--suite", study.suite, f"--{SUITES[study.suite].option}", task,
            "--algorithm", study.algorithm, "--methods", method, "--seeds", f"{self.seed},", "--preset", study.preset,
            "--total-env-steps", str(study.shorter.get(task, study.total_env_steps)), *study.options, *epochs,
            *(["--set", *settings] if settings else []),
            "--storage-path", str(RESULTS / "runs"), "--name", self.experiment, "--resume", "--address", "local",
        ]  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Every method on every task with every seed.

    preset: kind of preset, see `lorasa_rllib/studies/presets.py`.
    shorter: environment steps of tasks with a smaller budget. epochs: passes over a batch, if not the preset's.
    recipes: name -> settings of one shared policy; these names are used in place of methods.
    more_seeds: seeds of tasks with more seeds than the others.
    beside: studies whose runs on the same tasks are shown for comparison.
    """

    name: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    total_env_steps: int = MILLION
    suite: str = "mamujoco"
    algorithm: str = "mappo"
    seeds: tuple[int, ...] = (1, 2, 3)
    preset: str = "recommended"
    options: tuple[str, ...] = USUAL
    shorter: Mapping[str, int] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    more_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return RESULTS / self.name

    def runs(self) -> list[Run]:
        return [
            Run(self, t, m, s) for t in self.tasks for s in self.more_seeds.get(t, self.seeds) for m in self.methods
        ]


ANT = "Ant-4x2"
MUJOCO = ("HalfCheetah-2x3", "HalfCheetah-6x1", "Walker2d-2x3", ANT)
PUBLISHED = "published"

SIX = (1, 2, 3, 4, 5, 6)
SHARED_OR_NOT = ("ps", "nps", "lora", "lora-joint")
ABLATIONS = tuple(
    f"lora:{one}"
    for one in (
        "switch=0.1", "switch=0.5", "switch=auto", "lr=1", "lr=10", "r=2", "r=4", "r=16", "r=64", "on=head", "on=first",
        "on=hidden",
    )
)  # fmt: skip
"""Ablations of switch, adapters' learning rate, rank (64: full) and placement; "lora" has 0.3, 3, 8 and all layers."""

BATTLES = ("--phase-switch", "0.3", "--adapter-lr-scale", "1")
OFTEN = (
    "--phase-switch", "0.3", "--evaluation-interval", "8", "--set", "network.distribution=squashed_gaussian",
)  # fmt: skip
"""Options of short runs, which were made before the plain Gaussian became the default head."""

SMALL_STEPS, WHOLE_BATCH = ("minibatch_size=500", "num_epochs=10"), ("minibatch_size=None", "num_epochs=5")
RUNNING, LAYER = ("network.obs_norm=running",), ("network.obs_norm=layer",)
DECAY, CONSTANT = ("lr=linear",), ("lr=3e-4",)
CLIP, LOOSE = ("grad_clip=0.5",), ("grad_clip=10.0",)
SQUASHED = ("network.distribution=squashed_gaussian",)
RECIPES: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "published": (*WHOLE_BATCH, *LAYER, *CONSTANT, *LOOSE, *SQUASHED),
    "only_running_norm": (*WHOLE_BATCH, *RUNNING, *CONSTANT, *LOOSE, *SQUASHED),
    "only_small_steps": (*SMALL_STEPS, *LAYER, *CONSTANT, *LOOSE, *SQUASHED),
    "only_decay": (*WHOLE_BATCH, *LAYER, *DECAY, *LOOSE, *SQUASHED),
    "only_gaussian": (*WHOLE_BATCH, *LAYER, *CONSTANT, *LOOSE),
    "without_running_norm": LAYER,
    "without_small_steps": WHOLE_BATCH,
    "without_decay": CONSTANT,
    "without_clip": LOOSE,
    "without_gaussian": SQUASHED,
    "without_gaussian_std_0.19": (*SQUASHED, "network.initial_log_std=-0.5"),
    "without_gaussian_steps_of_125": (*SQUASHED, "minibatch_size=125"),
    "with_steps_of_250": ("minibatch_size=250",),
    "with_steps_of_125": ("minibatch_size=125",),
    "with_recomputed_advantages": ("recompute_advantages=True",),
    "with_target_kl": ("target_kl=0.03",),
    "with_std_1": ("network.initial_log_std=0.0",),
    "with_std_0.37": ("network.initial_log_std=-1.0",),
    "with_twice_the_rate": ('lr=["linear", 6e-4]',),
    "with_128": ("network.hidden_size=128",),
}
"""One shared policy: the recommended recipe, the published one, each trick alone, all but one, and one addition."""
FORMER = ("network.obs_norm=running", "network.obs_clip=10.0", "target_kl=None")
"""Undoes what was not yet part of the recipe when the study of tricks began."""

LOWERED = ("ps", "lora:lr=0.3", "lora-joint:lr=0.3", "lora-role:lr=0.3", "lora-role-joint:lr=0.3")
"""Methods of battles with the preset's learning rate of adapters."""

STUDIES = {
    study.name: study
    for study in (
        Study(
            "trained", MUJOCO, SHARED_OR_NOT, 3 * MILLION, more_seeds={"HalfCheetah-2x3": (1, 2, 3, 4, 5)},
        ),
        Study(
            "tricks", ("HalfCheetah-2x3", "Walker2d-2x3", ANT), tuple(RECIPES), seeds=(101, 102, 103),
            recipes={name: (*FORMER, *settings) for name, settings in RECIPES.items()},
        ),
        Study(
            "trained_a2po", (ANT, "HalfCheetah-6x1"), ("ps", "lora"), 3 * MILLION, algorithm="a2po",
            beside=("trained",),
        ),
        Study(
            "methods", MUJOCO, SHARED_OR_NOT, 3 * MILLION, seeds=SIX, preset=PUBLISHED,
            shorter={ANT: 2 * MILLION},
        ),
        Study(
            "walker", ("Walker2d-2x3",), ("lora:switch=0.1", "lora:lr=10", "lora:r=64", "lora:on=head"), 3 * MILLION,
            seeds=(1, 2), beside=("methods",), preset=PUBLISHED,
        ),
        Study(
            "all_methods", ("HalfCheetah-2x3", "HalfCheetah-6x1"), ("mtl", "seps", "seps-lora"), 3 * MILLION,
            preset=PUBLISHED, beside=("methods",),
        ),
        Study(
            "a2po", ("HalfCheetah-2x3", ANT), ("ps", "nps", "lora"), 3 * MILLION, algorithm="a2po",
            preset=PUBLISHED, shorter={ANT: 2 * MILLION}, beside=("methods",),
        ),
        Study(
            "epochs", MUJOCO, SHARED_OR_NOT, 3 * MILLION, preset=PUBLISHED, shorter={ANT: 2 * MILLION},
            epochs=dict.fromkeys(MUJOCO, 12),
        ),
        Study(
            "ablations", ("HalfCheetah-2x3",), ("ps", "lora", "lora-joint", *ABLATIONS), seeds=SIX, preset=PUBLISHED,
        ),
        Study("roles", ("smacv2_5_units",), LOWERED, suite="smax", options=BATTLES),
        Study("roles_fixed", ("3s5z_vs_3s6z",), LOWERED, suite="smax", options=BATTLES),
        Study(
            "roles_why", ("smacv2_5_units",),
            ("lora", "lora-joint", "lora-role", "lora-role-joint", "lora-role:lr=0.1", "lora-role:init=peft",
             "lora-role:switch=0.6", "lora-role-joint:lr=0.1"),
            suite="smax", seeds=(1,), options=BATTLES,
        ),
        Study(
            "many_agents", ("ManySegmentSwimmer-4x1", "ManySegmentSwimmer-16x1"),
            (*SHARED_OR_NOT, "lora:blocks=2"), preset=PUBLISHED,
        ),
        Study(
            "controlled", tuple(f"{n}:difference=0.5" for n in (4, 16, 64)), SHARED_OR_NOT, 60_000,
            suite="synthetic", options=OFTEN,
        ),
        Study(
            "controlled_without_ids", ("16:difference=0.5",), ("ps", "lora", "lora-joint"), 60_000, suite="synthetic",
            options=(*OFTEN, "--id-features", "none"),
        ),
        Study(
            "controlled_roles", ("12:roles=4",), (
                "ps", "lora", "lora-joint", "lora-role", "lora-role-joint", "lora-role:switch=0.6",
                "lora-role:lr=1",
            ), 60_000, suite="synthetic", options=OFTEN,
        ),
    )
}  # fmt: skip
"""Studies by name, in order of priority."""


def work_off(queue: list[Run], slots: int, minutes: float, console: Console) -> int:
    """Runs the queue in `slots` processes, starting none after `minutes`. Returns the number of failed runs."""
    until, waiting, failed = time.monotonic() + 60 * minutes, iter(queue), 0
    running: dict[subprocess.Popen[bytes], Run] = {}
    try:
        while True:
            for run in _next(waiting, slots - len(running), until):
                console.print(f"{time.strftime('%H:%M')} {run.experiment} starts", highlight=False)
                running[_start(run)] = run
            if not running:
                return failed
            time.sleep(1)
            for process in [p for p in running if p.poll() is not None]:
                run = running.pop(process)
                failed += process.returncode != 0
                told = "done" if _keep(run, process.returncode) else f"failed, see {_log(run)}"
                console.print(f"{time.strftime('%H:%M')} {run.experiment} {told}", highlight=False)
    finally:  # Ctrl-C reaches only this process: runs have their own process groups, and save a checkpoint
        for process in running:
            process.terminate()  # not the group: it contains Ray's processes, which are needed for saving
        for process in running:
            try:
                process.wait(timeout=ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _next(waiting: Iterator[Run], free: int, until: float) -> Iterator[Run]:
    while free > 0 and time.monotonic() < until and (run := next(waiting, None)) is not None:
        if not run.csv.is_file():
            free -= 1
            yield run


def _start(run: Run) -> subprocess.Popen[bytes]:
    _log(run).parent.mkdir(parents=True, exist_ok=True)
    with _log(run).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *run.command()], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _log(run: Run) -> Path:
    return RESULTS / "runs" / f"{run.experiment}.log"


def _keep(run: Run, status: int) -> bool:
    """Copies a finished run's curve to the recorded results."""
    written = RESULTS / "runs" / run.experiment / "curves.csv"
    if status or not written.is_file():
        return False
    run.csv.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(written, run.csv.with_suffix(".part"))
    os.replace(run.csv.with_suffix(".part"), run.csv)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--tasks", nargs="+", help="only these tasks")
    parser.add_argument("--methods", nargs="+", help="only these methods")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--slots", type=int, default=1, help="runs at once: one per core")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after so many")
    parser.add_argument("--list", action="store_true", help="show what is there and what is missing, run nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.studies) - set(STUDIES)):
        parser.error(f"there are no studies {unknown}; choose from {', '.join(STUDIES)}")
    runs = [run for name in options.studies or STUDIES for run in STUDIES[name].runs()]
    for attribute, wanted in (("task", options.tasks), ("method", options.methods), ("seed", options.seeds)):
        runs = [run for run in runs if wanted is None or getattr(run, attribute) in wanted]
    console = Console(width=120)
    if options.list:
        for run in runs:
            console.print(
                f"{'done   ' if run.csv.is_file() else 'missing'} {run.study.name}: {run.name}", highlight=False
            )
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return min(1, work_off(runs, options.slots, options.minutes, console))


if __name__ == "__main__":
    sys.exit(main())
