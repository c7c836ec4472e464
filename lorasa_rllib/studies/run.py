"""Runs a study with Ray Tune and reports table, figure, curves and checkpoints."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import ray
from pyarrow.fs import FileSelector, FileSystem, copy_files
from ray import tune
from ray.tune import Callback
from rich.console import Console

import lorasa_rllib.rllib  # noqa: F401 - registers the algorithms
from lorasa_rllib.envs.registry import environment_class
from lorasa_rllib.printable import printable
from lorasa_rllib.rllib.room import check_address
from lorasa_rllib.studies import terminal
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.curves import COLUMNS, read_trial, write_csv
from lorasa_rllib.studies.figure import draw_curves
from lorasa_rllib.studies.films import Films
from lorasa_rllib.studies.forks import STEPS, ForkPoints, fork_steps, forks, trunks, whole_curves
from lorasa_rllib.studies.full import EndWhenFull, cause_of, explained
from lorasa_rllib.studies.journal import Journal
from lorasa_rllib.studies.lock import locked
from lorasa_rllib.studies.loggers import TakesFilms, check_installed, loggers_of
from lorasa_rllib.studies.modules import import_from_here
from lorasa_rllib.studies.progress import Progress
from lorasa_rllib.studies.provenance import Provenance
from lorasa_rllib.studies.resuming import STATE, TUNER, NothingToResume, put_in_order, tuner_is_whole
from lorasa_rllib.studies.settings import check_unchanged, remember
from lorasa_rllib.studies.storage import local_folder, storage_fault, storage_of
from lorasa_rllib.studies.suites import SUITES
from lorasa_rllib.studies.table import NO_EPISODE, rich_table, summary
from lorasa_rllib.studies.termination import SaveOnTermination, exit_status, spared
from lorasa_rllib.studies.trials import TrialName, trials

CHECKPOINTS = 10
"""Checkpoints saved over the course of a trial."""

COMMAND = "command.txt"
"""File in a study's folder that holds its command line."""

TRUNKS = "_trunks"
"""Suffix of the experiment that trains the backbones of forks."""


def run(options: StudyOptions) -> pd.DataFrame:
    """Runs all trials (the remaining ones with `resume`), then prints and writes the report. Returns the curves.

    Raises ValueError for invalid settings before Ray starts, RuntimeError if a trial or the storage fails.
    """
    check_installed(options.loggers)
    import_from_here()
    console = terminal.console()
    for noisy in ("ray.rllib", "ray._common.deprecation", "ray._private"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of errors that we report in one line
    configs, forked = trials(options), dict[TrialName, Any]()
    if options.fork_at:
        fork_steps(options, next(iter(trunks(options).values())))  # raises before anything starts
    folder = f"{options.storage_path.rstrip('/')}/{options.name}"
    console.print(f"Writes into {folder}", soft_wrap=True)
    with explained(folder, options.name), locked(folder):
        _check_new(options, folder)
        return _run(options, console, folder, configs, forked)


def _run(
    options: StudyOptions, console: Console, folder: str, configs: dict[TrialName, Any], forked: dict[TrialName, Any]
) -> pd.DataFrame:
    _start_ray(options, next(iter((configs or trunks(options)).values())))
    before = pd.DataFrame(columns=COLUMNS)
    if options.fork_at:
        checkpoints, before = _train_trunks(options, console)
        forked = forks(options, checkpoints)
        configs |= forked
    begun = {str(name): config.plan().schedule.switch_step or 0 for name, config in forked.items()}
    console.print(
        f"{len(configs)} trial(s) of {options.total_env_steps:,} environment steps; torch uses one thread each."
    )
    results = _fit(options, configs, console, Progress(options.total_env_steps, trials=len(configs), begun=begun))
    curves = whole_curves(_curves(configs, results), before, {name.method for name in forked})
    report(console, curves, folder, {name: r.checkpoint for name, r in results.items()}, options)
    return curves


def _fit(
    options: StudyOptions, configs: dict[TrialName, Any], console: Console, progress: Progress,
    stop: int | None = None, callbacks: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Runs trials, or the remaining ones. Returns results by name.

    stop: environment steps after which to stop, keeping all checkpoints; None: the budget.
    """
    folder = f"{options.storage_path.rstrip('/')}/{options.name}"
    callbacks = [progress, *callbacks]
    tuner = _tuner(options, {str(name): config for name, config in configs.items()}, folder, stop, callbacks)
    results = tuner.fit()
    if (fault := storage_fault()) is not None:
        raise fault
    if (status := exit_status()) is not None:
        again = options.name.removesuffix(TRUNKS)
        console.print(f"Interrupted. The same command with --resume --name {again} continues.")
        raise SystemExit(status)
    if results.errors:
        first = next(result for result in results if result.error)
        raise RuntimeError(
            f"{len(results.errors)} trial(s) failed; the first: {cause_of(first.error)} (see {first.path}/error.txt)"
        )
    return {Path(result.path).name: result for result in results}


def _curves(configs: dict[TrialName, Any], results: dict[str, Any]) -> pd.DataFrame:
    found = [read_trial(_lines_of(results[str(name)]), asdict(name)) for name in configs if str(name) in results]
    return pd.concat(found, ignore_index=True)


def _train_trunks(
    options: StudyOptions, console: Console
) -> tuple[dict[tuple[str, int], dict[int, str]], pd.DataFrame]:
    """Trains the backbones that adapter phases fork from. Returns their checkpoints and curves."""
    configs = trunks(options)
    steps = fork_steps(options, next(iter(configs.values())))
    shown = ", ".join(f"{step:,}" for step in steps)
    console.print(f"{len(configs)} backbone(s), with forks after {shown} environment steps.")
    compared = len(options.scenarios) * len(options.methods) * len(options.seeds)
    later = compared * options.total_env_steps + sum(options.total_env_steps - step for step in steps) * len(configs)
    progress = Progress(max(steps), trials=len(configs), later=later)
    trunk_options = replace(options, name=options.name + TRUNKS)
    results = _fit(trunk_options, configs, console, progress, max(steps), [ForkPoints(steps)])
    found = {}
    for name in configs:
        saved = sorted(
            (int(metrics[STEPS]), located(saved.path, options.storage_path))
            for saved, metrics in results[str(name)].best_checkpoints
        )
        found[name.scenario, name.seed] = dict(next(pair for pair in saved if pair[0] >= step) for step in steps)
    return found, _curves(configs, results)


def _lines_of(result: Any) -> list[str]:
    try:
        with result.filesystem.open_input_stream(f"{result.path}/result.json") as file:
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def report(
    console: Console, curves: pd.DataFrame, folder: str, checkpoints: dict[str, Any], options: StudyOptions
) -> None:
    """Writes curves, table, figure and command to `folder`, a path or URI, and prints a summary.

    Without a finished episode the curves are empty, and there is no table or figure.
    """
    written = {"curves": "curves.csv"}
    if not curves.empty:
        written = {"table": "table.csv", **written, "figure": "learning_curves.png"}
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary if "://" in folder else folder)
        write_csv(curves, here / "curves.csv")
        (here / COMMAND).write_text(shlex.join(sys.argv) + "\n")
        if not curves.empty:
            write_csv(summary(curves), here / written["table"])
            draw_curves(curves, here / written["figure"], SUITES[options.suite].title)
        if "://" in folder:
            filesystem, path = FileSystem.from_uri(folder)
            copy_files(temporary, path, destination_filesystem=filesystem)
    if curves.empty:
        console.print(f"No table, no figure: {NO_EPISODE}", soft_wrap=True)
    else:
        console.print(rich_table(summary(curves), console.width))
    for what, name in written.items():
        console.print(f"{what:<12}{folder}/{name}", soft_wrap=True)
    for name, checkpoint in checkpoints.items():
        if checkpoint is not None:
            console.print(f"checkpoint  {name}: {located(checkpoint.path, options.storage_path)}", soft_wrap=True)
    console.print(f"act or continue with a checkpoint:  lorasa_rllib.{options.algorithm.upper()}.from_checkpoint(path)")
    missing = "" if find_spec("tensorboard") else "  (pip install tensorboard)"
    console.print(f"all numbers:  tensorboard --logdir {folder}{missing}", soft_wrap=True)


def located(path: str, storage_path: str) -> str:
    """Converts a path in Tune's results for `from_checkpoint`: adds the scheme and options of a URI storage."""
    scheme, elsewhere, rest = storage_path.partition("://")
    _, has_options, uri_options = rest.partition("?")
    return f"{scheme}://{path}{has_options}{uri_options}" if elsewhere else path


def _tuner(
    options: StudyOptions, configs: dict[str, Any], folder: str, stop: int | None, callbacks: Sequence[Any]
) -> tune.Tuner:
    keep = options.keep_checkpoints if stop is None else None
    stop = stop or options.total_env_steps
    filesystem, path = storage_of(folder)
    there, space = holds_experiment(folder), _space(configs)
    if there:
        check_unchanged(options, folder)
        there = _in_order(folder, filesystem)
    elif options.resume:
        print(f"There is no experiment at {folder} yet: starting it.")
    here = local_folder(folder)
    if there and (here is None or tuner_is_whole(here)):
        return _restored(options, space, folder)
    loggers: list[Callback] = [*loggers_of(options, folder)]
    if options.films:
        loggers.insert(0, Films([logger for logger in loggers if isinstance(logger, TakesFilms)]))
    if not there:
        remember(options, folder)
    some = next(iter(configs.values()))
    every = max(1, -(-options.total_env_steps // some.total_train_batch_size) // CHECKPOINTS)
    fresh = tune.Tuner(
        options.algorithm.upper(),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="env_runners/episode_return_mean",
            mode="max",
            max_concurrent_trials=options.max_concurrent,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=options.name,
            storage_path=str(PurePosixPath(path).parent),
            storage_filesystem=filesystem,
            stop={STEPS: stop},
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=keep, checkpoint_frequency=every, checkpoint_at_end=True
            ),
            failure_config=tune.FailureConfig(max_failures=2),
            callbacks=[*callbacks, Provenance(), Journal(), SaveOnTermination(), EndWhenFull(), *loggers],
            verbose=0,
        ),
    )
    if not there:
        return fresh
    print(f"{folder}/{TUNER} is damaged: rewritten from the options.")
    return _restored(options, space, folder)


def _restored(options: StudyOptions, space: dict[str, Any], folder: str) -> tune.Tuner:
    """The tuner of an experiment. Raises ValueError if Ray finds that its settings have other names."""
    filesystem, path = storage_of(folder)
    try:
        return tune.Tuner.restore(
            path, trainable=options.algorithm.upper(), param_space=space, resume_errored=True,
            storage_filesystem=filesystem,
        )  # fmt: skip
    except ValueError as error:
        if "param_space" not in str(error):
            raise
        raise ValueError(
            f"{folder} was started with a version of lorasa-rllib or Ray that has other settings, so this one cannot "
            "resume it: go on with that version, start another experiment with another --name, or begin from one of "
            f"its checkpoints with lorasa_rllib.{options.algorithm.upper()}.from_checkpoint."
        ) from error


def _in_order(folder: str, filesystem: FileSystem) -> bool:
    """Repairs an experiment and prints what was wrong. Returns whether there is anything to resume."""
    here = local_folder(folder)
    if here is None:  # remote storages replace files atomically
        return True
    try:
        told = put_in_order(here, filesystem)
    except NothingToResume as nothing:
        print(printable(str(nothing)))
        return False
    for line in told:
        print(printable(line))
    return True


def holds_experiment(folder: str) -> bool:
    """Whether a folder, a path or URI, holds an experiment, even a damaged one."""
    filesystem, path = storage_of(folder)
    found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
    return any(PurePosixPath(info.path).match(name) for info in found for name in (TUNER, STATE))


def _check_new(options: StudyOptions, folder: str) -> None:
    """Raises ValueError if the study would overwrite an experiment."""
    for place in [folder, folder + TRUNKS] if options.fork_at else [folder]:
        if not options.resume and holds_experiment(place):
            raise ValueError(f"{place} already holds an experiment: continue it with --resume, or give another --name.")


def _space(configs: dict[str, Any]) -> dict[str, Any]:
    """All trials as one search space: a grid search over names, from which the differing settings follow."""
    settings = {name: config.copy(copy_frozen=False).to_dict() for name, config in configs.items()}
    space = dict(next(iter(settings.values())))
    for key in space:
        values = {name: s[key] for name, s in settings.items()}
        if any(value != space[key] for value in values.values()):
            space[key] = tune.sample_from(OfTrial(values))
    return {**space, "trial_name": tune.grid_search(list(settings))}


@dataclass(frozen=True)
class OfTrial:
    """Values of one setting by trial name; Tune calls it with a trial's search-space sample."""

    values: dict[str, Any]

    def __call__(self, spec: Any) -> Any:
        return self.values[spec.config["trial_name"]]


def _trial_name(trial: Any) -> str:
    return trial.config["trial_name"]


def _start_ray(options: StudyOptions, config: Any) -> None:
    """Joins the cluster this script was submitted to, or one that runs on this machine, or starts a local instance.

    Raises ValueError if no cluster answers, if a local instance lacks the resources for a trial, for which Tune would
    wait forever, or if the environments cannot be built on this machine.
    """
    if ray.is_initialized():
        return
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address:
        check_address(address, "--address" if options.address else "RAY_ADDRESS")
    with spared():
        context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    if not context.address_info["session_dir"].endswith(f"_{os.getpid()}"):
        return  # an existing cluster, which may grow
    environment_class(config.env).check_machine()
    needed = config.algo_class.placement_of_trial(config).required_resources
    present = ray.cluster_resources()
    for resource, amount in needed.items():
        if amount > present.get(resource, 0):
            raise ValueError(
                f"a trial needs {amount:g} {resource}s, but this machine has {present.get(resource, 0):g}. Lower "
                "--num-env-runners, --num-learners or --num-gpus-per-learner, or join a cluster with --address."
            )
