"""Records the options of an experiment. Tune resumes with the original ones, so those given later must match them."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from typing import Any

from pyarrow.fs import FileType

from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.storage import storage_of

FOLDER = "study"
"""Subfolder of the experiment: Tune syncs files next to its own in both directions, and ours must not change."""

FILE = f"{FOLDER}/settings.json"
OLD_FILE = "settings.json"
"""The file's location in older versions."""

FREE = ("address", "resume", "storage_path")
"""Options that may differ when resuming: the cluster's address, `resume`, and where the folder is."""

FLAGS = {
    "scenarios": "scenario",
    "agent_obsk": "obsk",
    "num_envs": "num-envs-per-env-runner",
    "fork_base": "base",
    "settings": "set",
    "env_settings": "env-set",
    "loggers": "logger",
}
"""Fields of `StudyOptions` -> option names, where these differ."""


def remember(options: StudyOptions, folder: str) -> None:
    """Writes the options of a new experiment to its folder, a path or URI."""
    filesystem, path = storage_of(folder)
    filesystem.create_dir(f"{path}/{FOLDER}", recursive=True)
    with filesystem.open_output_stream(f"{path}/{FILE}") as file:
        file.write(json.dumps(_kept(options), indent=1).encode())


def check_unchanged(options: StudyOptions, folder: str) -> None:
    """Raises ValueError if the experiment was started with other options, or if these cannot be read."""
    filesystem, path = storage_of(folder)
    there = [name for name in (FILE, OLD_FILE) if filesystem.get_file_info(f"{path}/{name}").type == FileType.File]
    if not there:
        return  # written by a very old version
    try:
        with filesystem.open_input_stream(f"{path}/{there[0]}") as file:
            begun = _defaults() | dict(json.loads(file.read()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{folder}/{there[0]} is damaged, and holds the options that the experiment was started with. If you give "
            "the same ones, remove that file and --resume continues."
        ) from error
    now = _kept(options)
    changed = [f"{_flag(name)} {_typed(value)} (begun with {_typed(begun[name])})" for name, value in now.items()
               if name in begun and value != begun[name]]  # fmt: skip
    if changed:
        raise ValueError(
            f"--resume continues with what {folder} was started with, but now there is {', '.join(changed)}. "
            "Give the same options, or start another experiment with another --name."
        )


def _kept(options: StudyOptions) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(options).items() if name not in FREE}
    return json.loads(json.dumps(kept))  # tuples become lists, as when read back


def _typed(value: Any) -> str:
    """A value roughly as typed on the command line."""
    return " ".join(f"{key}={of}" for key, of in value.items()) or "nothing" if isinstance(value, dict) else repr(value)


def _defaults() -> dict[str, Any]:
    """Default values, for options that older versions did not have."""
    made = {
        field.name: field.default_factory() for field in fields(StudyOptions) if field.default_factory is not MISSING
    }
    return made | {field.name: field.default for field in fields(StudyOptions) if field.default is not MISSING}


def _flag(name: str) -> str:
    return "--" + FLAGS.get(name, name.replace("_", "-"))
