"""The `lorasa` command. Commands import their dependencies only when called, so that --help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lorasa_rllib import __version__
from lorasa_rllib.cli import adapters, machine, play, runs
from lorasa_rllib.cli.output import reporting

app = typer.Typer(
    name="lorasa",
    help="Trains, looks at, edits and plays teams that share one policy and still specialise.",
    epilog="Exit status: 0 done, 1 failed while it ran, 2 bad options or files, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"lorasa {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


TRAINED, LOOK, MACHINE = "Trained policies", "Training and comparing", "This machine"
for panel, functions in (
    (LOOK, (runs.train, runs.analyze, runs.compare)),
    (TRAINED, (play.evaluate, play.render, play.export)),
    (MACHINE, (machine.envs, machine.doctor)),
):
    for function in functions:
        settings = runs.ANYTHING if function is runs.train else {}
        app.command(rich_help_panel=panel, context_settings=settings)(reporting(function))
app.add_typer(adapters.app, name="adapters", rich_help_panel=TRAINED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 failed, 2 bad options or files, 130 interrupted."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="lorasa")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
