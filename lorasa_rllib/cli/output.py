"""What commands print: tables for people, JSON for scripts, progress and complaints beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from lorasa_rllib.studies import terminal
from lorasa_rllib.studies.terminal import CELL, printable, width

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON instead, for scripts.")]


def show(data: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(data, indent=1))


def table(title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """Rows of the same columns, on standard output."""
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
    )  # not as the table's own: narrow tables would fold them
    console.print(drawn)
    if note:
        console.print(f"[italic]{escape(printable(note))}[/italic]", highlight=False)


def text_of(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def progress() -> Any:
    """A progress bar on standard error, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def complain(message: str) -> None:
    """What went wrong, on standard error."""
    terminal.complain("lorasa", message)


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors become one line and an exit status: 2 bad options or files, 1 failed, 130 interrupted."""

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
        except Exception as error:  # what nobody thought of is one line, too; LORASA_TRACEBACK=1 tells where it was
            if os.environ.get("LORASA_TRACEBACK"):
                raise
            _end(1, f"{type(error).__name__}: {error} (LORASA_TRACEBACK=1 shows where)")

    return reported


def _end(status: int, why: Any) -> None:
    if isinstance(why, typer.Exit):  # a RuntimeError to Python
        raise why
    complain(str(why))
    raise typer.Exit(status)
