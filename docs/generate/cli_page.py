"""The page of the `lorasa` command, from its own help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from lorasa_rllib import cli
from lorasa_rllib.studies.options import parser

INTRODUCTION = """# Command line

`lorasa COMMAND --help` says the same in the terminal. Exit status: 0 done, 1 failed while it ran, 2 bad options or
files, 130 interrupted.
"""


def page() -> str:
    return "\n".join([INTRODUCTION, *_command(typer.main.get_command(cli.app), "lorasa"), *_scripts()])


def _command(command: Any, name: str) -> Iterator[str]:
    if not getattr(command, "commands", None):
        yield f"## {name}\n\n{_plain(command.help)}\n"
        rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            yield "\n".join(["| argument or option | |", "|---|---|", *rows, ""])
    for part, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{name} {part}")


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = str(parameter.name).upper()
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"| `{names}` | {_cell(getattr(parameter, 'help', '') or '')} |"


def _scripts() -> Iterator[str]:
    yield "## Options of the scripts and of lorasa train\n"
    yield "Those of `tune_configs/*.py`; `lorasa train` takes the same.\n"
    rows = []
    for action in parser("", "mamujoco")._actions:
        if action.option_strings and action.help:
            default = "" if action.default in (None, False, "==SUPPRESS==") else f" Default: {action.default}."
            text = action.help.replace("%(default)s", str(action.default)).replace("%%", "%")
            rows.append(
                f"| `{', '.join(action.option_strings)}` | {_cell(text)}{'' if 'efault' in text else default} |"
            )
    yield "\n".join(["| option | |", "|---|---|", *rows, ""])


def _plain(text: str | None) -> str:
    """Help without the terminal's markup; its examples as code."""
    plain = re.sub(r"\[/?(?:bold|dim|italic)\]", "", (text or "").replace("\b", ""))
    words, _, examples = plain.partition("Examples\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    code = ["```bash", *lines, "```"] if lines else []
    return "\n".join([words.strip(), "", *code]).strip()


def _cell(text: str) -> str:
    return " ".join(_plain(text).split()).replace("|", "\\|").replace("<", "&lt;")
