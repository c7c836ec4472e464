"""`lorasa train`, `lorasa analyze` and `lorasa compare`."""

from __future__ import annotations

import inspect
import shlex
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import url2pathname

import typer

from lorasa_rllib.cli.output import AsJSON, progress, say, show
from lorasa_rllib.cli.play import Trust

ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Lets `train` pass all its options, --help included, to the parser of tune_configs/compare_methods.py."""


def train(context: typer.Context) -> None:
    """Trains and compares sharing methods with Ray Tune.

    Ctrl-C saves a checkpoint of every running trial; the same command with --resume continues.

    Examples
      lorasa train --scenario HalfCheetah-2x3 --methods ps lora lora-joint --seeds 3
      lorasa train --suite smax --map 3s5z --methods lora-role --total-env-steps 1000000
      lorasa train --smoke
    """
    from lorasa_rllib.studies.script import prepare_process

    prepare_process(context.args)
    from lorasa_rllib.studies.options import read_options

    options = partial(read_options, description=inspect.cleandoc(train.__doc__ or ""), suite=None, prog="lorasa train")
    if not context.args:
        with suppress(SystemExit):
            options(["--help"])
        raise typer.Exit(2)
    from lorasa_rllib.studies.run import run

    run(options(context.args))


def analyze(
    run_dir: Annotated[str, typer.Argument(help="Folder of an experiment, or of a trial.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: analysis.html in RUN_DIR.")] = None,
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps that policies are compared on.")] = 2000,
    every_seed: Annotated[bool, typer.Option(help="All trials, not only the first seed of each method.")] = False,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Reports how the agents' policies differ in an experiment or trial, as one HTML page.

    Ctrl-C writes the report of the trials analysed so far.

    [bold]Examples[/bold]

      lorasa analyze ~/lorasa_results/NAME

      lorasa analyze ~/lorasa_results/NAME/TRIAL --env-steps 5000 --out report.html
    """
    from lorasa_rllib.studies.analyze import analyze as make
    from lorasa_rllib.studies.modules import import_from_here

    if trust:
        import_from_here()
    folder = _folder(run_dir)
    with progress() as bar:
        task = bar.add_task("trials", total=None)
        shown = lambda done, of: bar.update(task, completed=done, total=of)  # noqa: E731
        report = make(folder, out or folder / "analysis.html", env_steps, every_seed, _command(), shown, trust)
    _done(report, as_json)


def compare(
    run_dir: Annotated[
        list[str], typer.Argument(help="Folders of finished studies, or of other experiments of Ray Tune.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("comparison.html"),
    baseline: Annotated[
        str | None, typer.Option(help="The method in whose units scores are; default: ps where it was run.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Compares methods by scores aggregated over tasks and seeds, as one HTML report.

    [bold]Examples[/bold]

      lorasa compare ~/lorasa_results/CHEETAH ~/lorasa_results/ANT --baseline nps
    """
    from lorasa_rllib.studies.compare import compare as make

    _done(make([_folder(text) for text in run_dir], out, baseline, _command()), as_json)


def _folder(text: str) -> Path:
    """The absolute path of a local folder, given as a path or file:// URI. Raises ValueError for other URIs."""
    if not text.startswith("file://") and "://" in text:
        raise ValueError(f"{text}: experiments are read from this machine; copy it here first.")
    return Path(url2pathname(urlsplit(text).path) if "://" in text else text).expanduser().resolve()


def _command() -> str:
    return shlex.join(["lorasa", *sys.argv[1:]])


def _done(report: Path, as_json: bool) -> None:
    show({"report": str(report)}) if as_json else say(report)
