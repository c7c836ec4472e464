"""Output of the commands: tables or JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from lorasa_rllib.printable import CELL, printable, shortened
from lorasa_rllib.studies import terminal
from lorasa_rllib.studies.terminal import width

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON instead, for scripts.")]


LONGEST = 2**16
"""Maximum characters of a string in JSON: the names of a few thousand agents fit."""


def show(data: Any) -> None:
    """Prints JSON to stdout. Control characters are escaped, so scripts read the exact strings."""
    print(json.dumps(_bounded(data), indent=1).replace("\x7f", "\\u007f"))  # json escapes all others


def say(line: object) -> None:
    """Prints one plain line to stdout."""
    print(printable(str(line)))


def _bounded(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {_bounded(name): _bounded(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_bounded(value) for value in data]
    return shortened(data, LONGEST) if isinstance(data, str) else data


def table(title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """Prints rows, which have the same columns, to stdout as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(header_style="bold")
    for column in rows[0] if rows else ():
        numbers = all(isinstance(row[column], int | float) for row in rows)
        drawn.add_column(escape(printable(column, CELL)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(printable(text_of(value), CELL)) for value in row.values()))
    console = Console(width=width())
    console.print(
        f"[bold]{escape(printable(title))}[/bold]", highlight=False
    )  # not as the table's own title, which narrow tables would wrap
    console.print(drawn)
    if note:
        console.print(f"[italic]{escape(printable(note))}[/italic]", highlight=False)


def text_of(value: Any) -> str:
    """The text of a table cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def progress() -> Any:
    """A progress bar on stderr that disappears when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, force_terminal=sys.stderr.isatty())  # notebooks ask for colours, but cannot redraw
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def complain(message: str) -> None:
    """Prints an error to stderr."""
    terminal.complain("lorasa", message)


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: errors become one line and an exit status: 1 failed, 2 bad options or files, 130 interrupted."""

    @wraps(command)
    def reported(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, ImportError, NotImplementedError) as error:
            _end(2, error)
        except OSError as error:
            _end(2, f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
        except RuntimeError as error:
            _end(1, error)
        except KeyboardInterrupt:
            _end(130, "interrupted")
        except Exception as error:  # unexpected errors print one line, too; LORASA_TRACEBACK=1 raises them
            if os.environ.get("LORASA_TRACEBACK"):
                raise
            _end(1, f"{type(error).__name__}: {error} (LORASA_TRACEBACK=1 shows where)")

    return reported


def _end(status: int, why: Any) -> None:
    if isinstance(why, typer.Exit):  # a subclass of RuntimeError
        raise why
    complain(str(why))
    raise typer.Exit(status)
