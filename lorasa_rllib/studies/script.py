"""What the scripts of tune_configs have in common: they prepare the process, read options and run a study."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

ENVIRONMENT = {
    # One thread per process: trials, env runners and learners run side by side and would compete for the cores.
    "OMP_NUM_THREADS": "1",
    # A line per trial (`studies.progress`) instead of Tune's own tables and hints.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
    "PYTHONWARNINGS": "ignore",
}
"""Environment variables of a study's processes, unless the user sets them. Ray and NumPy read them when imported."""


def prepare_process(arguments: Sequence[str] | None = None) -> None:
    """Sets `ENVIRONMENT` and protects a local start. Call it before Ray or NumPy is imported.

    arguments: of the command line; None: those of this process.
    """
    from lorasa_rllib.studies.local import protect_local_start

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    protect_local_start(arguments)


def run_script(
    file: str,
    doc: str | None,
    suite: str | None = None,
    methods: Sequence[str] | None = None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
    variants: Callable[[argparse.Namespace], list[str]] | None = None,
) -> int:
    """Runs the study that the command line asks for. file, doc: `__file__` and `__doc__` of the script.

    suite, methods, more, variants: see `options.read_options`. Returns the exit status: 0 done, 1 a trial failed, 2 bad
    options or something not installed, 130 interrupted.
    """
    prepare_process()
    from lorasa_rllib.studies.options import read_options

    options = read_options(None, (doc or "").splitlines()[0], suite, methods, more, variants)
    from lorasa_rllib.studies.run import run  # imports Ray, which takes seconds
    from lorasa_rllib.studies.terminal import exit_status_of

    return exit_status_of(Path(file).name, lambda: run(options))
