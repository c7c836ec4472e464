"""Results as they come in: Tune copies its own to the storage every few seconds, so a kill would lose the last ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pyarrow.fs import PyFileSystem
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.utils.util import SafeFallbackEncoder

from lorasa_rllib.studies.curves import whole_lines
from lorasa_rllib.studies.settings import FOLDER
from lorasa_rllib.studies.storage import tell_fault

SIZE = 4 * 2**20
"""Size in bytes at which a new journal file is started; the previous one is kept."""

EARLIER = ".earlier"


class Journal(Callback):
    """Appends every result, without its config, to a file in the storage, if that is a local folder."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, object], **info: object
    ) -> None:
        storage = trial.storage
        if storage is None or not isinstance(storage.storage_filesystem, PyFileSystem):
            return
        file = _file(Path(storage.experiment_fs_path), str(storage.trial_dir_name))
        shown = {name: value for name, value in result.items() if name != "config"}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and file.stat().st_size > SIZE:
                os.replace(file, f"{file}{EARLIER}")
            with file.open("a") as lines:
                lines.write(json.dumps(shown, cls=SafeFallbackEncoder) + "\n")
        except OSError as error:  # the study itself reports a storage that is full or gone
            tell_fault(error)


def journal_of(experiment: Path, trial: str) -> dict[int, str]:
    """The recorded results of a trial, a line of JSON each, by iteration; of those recorded twice, the later."""
    file = _file(experiment, trial)
    found: dict[int, str] = {}
    for path in (Path(f"{file}{EARLIER}"), file):
        if path.is_file():
            for line in whole_lines(path.read_text(errors="replace").splitlines()):
                found[json.loads(line)["training_iteration"]] = line
    return found


def _file(experiment: Path, trial: str) -> Path:
    return experiment / FOLDER / "results" / f"{trial}.jsonl"
