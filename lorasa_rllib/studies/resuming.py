"""Repairs the files of a killed experiment before Ray Tune restores it; Tune would silently start from scratch.

Damaged files are renamed, never deleted. The files are the user's own, so they are unpickled, as in Tune.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem
from ray import cloudpickle, tune
from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial
from ray.tune.utils.serialization import TuneFunctionEncoder

from lorasa_rllib.policies.files import write_file
from lorasa_rllib.rllib.checkpoints import ALGORITHM, is_whole
from lorasa_rllib.studies.curves import whole_lines
from lorasa_rllib.studies.journal import journal_of
from lorasa_rllib.studies.storage import PARTIAL

STATE, SEARCH, TUNER = "experiment_state-*.json", "basic-variant-state-*.json", "tuner.pkl"
RESULTS, ASIDE = "result.json", "damaged_"
ITERATION = "training_iteration"


class NothingToResume(ValueError):
    """Raised if an experiment has nothing saved, so that starting again loses nothing."""


@dataclass
class Snapshot:
    """An experiment state written by Tune, with its trials."""

    file: Path
    data: dict[str, Any]
    trials: list[Trial]


def put_in_order(folder: Path, filesystem: FileSystem) -> list[str]:
    """Repairs an experiment's folder for `Tuner.restore`. Returns a line about each repair.

    Without an intact state of the experiment nothing is changed: raises ValueError if there are checkpoints, and
    NothingToResume otherwise.
    """
    told: list[str] = []
    snapshot, damaged = _last_snapshot(folder)
    if snapshot is None:
        checkpoints = sorted(folder.glob("*/checkpoint_*"))
        if not checkpoints:
            raise NothingToResume(f"{folder}: no trial has saved a checkpoint yet, so it begins again.")
        names = ", ".join(file.name for file in damaged) or f"{STATE} is missing"
        raise ValueError(
            f"{folder} cannot be resumed: no state of the experiment is whole ({names}). Nothing was changed, and "
            f"{len(checkpoints)} checkpoint(s) are there for from_checkpoint. To start again, give another --name."
        )
    told += [f"{_set_aside(file)} is damaged and set aside; the state before it is used" for file in damaged]
    for partial in (*folder.glob(f".*{PARTIAL}"), *folder.glob(f"*/.*{PARTIAL}"), *folder.glob(f"*/*/**/.*{PARTIAL}")):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
    changed = False
    for trial in snapshot.trials:
        place = folder / str(trial.relative_logdir)
        if (place / RESULTS).is_file():
            told += _mend_results(place / RESULTS)
        about, moved = _follow_checkpoints(trial, place, filesystem)
        about += _complete_results(trial, place / RESULTS, journal_of(folder, place.name))
        told, changed = told + about, changed or moved
    if changed:
        snapshot.data["trial_data"] = [trial.get_json_state() for trial in snapshot.trials]
        write_file(snapshot.file, json.dumps(snapshot.data, cls=TuneFunctionEncoder).encode())
    return told


def tuner_is_whole(folder: Path) -> bool:
    """Whether `tuner.pkl` can be read."""
    try:
        return isinstance(pickle.loads((folder / TUNER).read_bytes()), dict)
    except (OSError, *UNREADABLE):
        return False


UNREADABLE = (
    ValueError, TypeError, LookupError, AttributeError, EOFError, ImportError, pickle.UnpicklingError, OverflowError,
    MemoryError,
)  # fmt: skip
"""Exceptions raised by damaged pickles and JSON."""


def _last_snapshot(folder: Path) -> tuple[Snapshot | None, list[Path]]:
    """The newest intact state, and the damaged files newer than it."""
    damaged: list[Path] = []
    for file in sorted(folder.glob(STATE), reverse=True):
        searcher = file.with_name(file.name.replace("experiment_state", "basic-variant-state"))
        try:
            data = json.loads(file.read_text())
            trials = [_trial(*state) for state in data["trial_data"]]
            if not trials or "runner_data" not in data:
                raise ValueError("it names no trials")
        except (OSError, *UNREADABLE):
            damaged += [file, *([searcher] if searcher.exists() else [])]
            continue
        try:
            cloudpickle.loads(searcher.read_bytes())
        except (OSError, *UNREADABLE):
            damaged += [file, *([searcher] if searcher.exists() else [])]
            continue
        return Snapshot(file, data, trials), damaged
    return None, damaged


def _trial(state: str, run: str) -> Trial:
    trial = Trial.from_json_state(state, stub=True)
    trial.restore_run_metadata(run)
    trial.stub = False  # as Tune keeps it
    return trial


def _set_aside(file: Path) -> Path:
    os.replace(file, file.with_name(f"{ASIDE}{file.name}"))
    return file


def _mend_results(file: Path) -> list[str]:
    """Removes truncated lines, to which later results would otherwise be appended."""
    text = file.read_text(errors="replace")
    lines = list(whole_lines(text.splitlines()))
    whole = "".join(f"{line}\n" for line in lines)
    if whole == text:
        return []
    write_file(file, whole.encode())
    lost = sum(bool(line.strip("\0 \n")) for line in text.splitlines()) - len(lines)
    return [f"{file}: {lost} damaged line(s) left out"] if lost else []


def _complete_results(trial: Trial, file: Path, journal: Mapping[int, str]) -> list[str]:
    """Adds results up to the trial's last checkpoint (or its end) from its journal. Says so if some are lost."""
    latest = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
    known = trial.last_result if trial.status == Trial.TERMINATED else latest.metrics if latest else {}
    reached, last = int(known.get(ITERATION, 0)), max(_results_by_iteration(file), default=0)
    if last >= reached:
        return []
    more = [journal[iteration] for iteration in range(last + 1, reached + 1) if iteration in journal]
    before = file.read_text(errors="replace") if file.is_file() else ""
    if more:
        write_file(file, (before + "".join(f"{line}\n" for line in more)).encode())
    if len(more) == reached - last:
        return []
    lost = [iteration for iteration in range(last + 1, reached + 1) if iteration not in journal]
    return [f"{file}: the results of {len(lost)} iteration(s) from {lost[0]} to {lost[-1]} are lost to the curves"]


def _follow_checkpoints(trial: Trial, place: Path, filesystem: FileSystem) -> tuple[list[str], bool]:
    """Updates a trial's state to the intact checkpoints on disk. Returns messages, and whether the state changed."""
    known = trial.run_metadata.checkpoint_manager.best_checkpoint_results
    latest = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
    named = [Path(result.checkpoint.path).name for result in known]
    last = Path(latest.checkpoint.path).name if latest else None
    folders = sorted(path for path in place.glob("checkpoint_*") if path.is_dir())
    whole = [path for path in folders if is_whole(path)]
    told = [f"{path} is damaged and set aside" for path in folders if path not in whole]
    told += [f"{place / name} is missing" for name in named if not (place / name).exists()]
    for path in folders:
        if path not in whole:
            target = path.with_name(f"{ASIDE}{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)
    there = [path.name for path in whole]
    if there == named and (there[-1] if there else None) == last:
        return told, False
    finished = trial.status == Trial.TERMINATED
    results = _results_by_iteration(place / RESULTS)
    before = {Path(result.checkpoint.path).name: result.metrics for result in known}
    manager = type(trial.run_metadata.checkpoint_manager)(trial.run_metadata.checkpoint_manager.checkpoint_config)
    trial.run_metadata.checkpoint_manager = manager
    for path in whole:
        metrics = before.get(path.name) or _metrics_of(path, results)
        manager.register_checkpoint(_TrainingResult(tune.Checkpoint(str(path), filesystem), metrics))
    if whole:
        trial.storage.current_checkpoint_index = int(whole[-1].name.rpartition("_")[2])
    else:
        trial.storage.current_checkpoint_index = -1
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()
    if told and whole and not finished:
        told.append(f"{trial} continues from {whole[-1].name}, the last whole checkpoint")
    if not whole and not finished:
        told.append(f"{trial} has no whole checkpoint, so it begins again")
        if (place / RESULTS).is_file() and named:
            os.replace(place / RESULTS, place / f"earlier_{RESULTS}")
    return told, True


def _results_by_iteration(file: Path) -> dict[int, dict[str, Any]]:
    lines = whole_lines(file.read_text(errors="replace").splitlines()) if file.is_file() else ()
    return {result[ITERATION]: result for result in map(json.loads, lines)}


def _metrics_of(checkpoint: Path, results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The trial's result at the time the checkpoint was saved."""
    try:
        iteration = int(pickle.loads((checkpoint / ALGORITHM).read_bytes())[ITERATION])
    except UNREADABLE as error:
        raise ValueError(
            f"{checkpoint / ALGORITHM} cannot be read ({type(error).__name__}: {error}). Move {checkpoint.name} "
            "elsewhere: --resume then continues from the checkpoint before it."
        ) from error
    return dict(results.get(iteration, {})) | {ITERATION: iteration}
