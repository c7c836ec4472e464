"""What studies and commands print: as wide as the window, numbers with three figures, times as people read them."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LOG = 120
"""Columns where there is no window, as in the log of a job, and COLUMNS is not set."""


def width() -> int:
    """Columns of the window."""
    return shutil.get_terminal_size(fallback=(LOG, 24)).columns


def console() -> Console:
    from rich.console import Console

    return Console(width=width(), highlight=False)


LINE, CELL = 2000, 200
"""Characters of a message, and of a cell in a table, that are shown at most."""


def printable(text: str, most: int = LINE) -> str:
    """Text as a terminal may have it, whoever wrote it: no control characters, and without its middle if it is long."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in shortened(text, most))


def complain(program: str, message: object) -> None:
    """What went wrong, as one line on standard error."""
    print(f"{program}: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def exit_status_of(program: str, work: Callable[[], object]) -> int:
    """Runs a script's work, and ends in a line if it fails: 2 bad options or files, 1 failed while it ran, 0 done."""
    try:
        work()
    except (ValueError, ImportError) as error:
        complain(program, error)
        return 2
    except (RuntimeError, OSError) as error:
        complain(program, error)
        return 1
    return 0


def three_figures(value: float) -> str:
    """1,234 and 56.8 and 0.00123: at least three significant figures, no decimals from 100 on; "-" for NaN."""
    if math.isnan(value):
        return "-"
    size = abs(value)
    if size == 0 or size >= 100 or math.isinf(value):
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(size))}f}" if size >= 1e-4 else f"{value:.2e}"


def compact(number: float) -> str:
    """A whole number with three figures: 950, 12.3k, 1M, 1.23M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{float(f'{number / unit:.3g}'):g}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """0:45, 12:03, 3:20:00; "?" if it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shortened(text: str, most: int) -> str:
    """The text, without its middle if it is longer: the ends of trials' names tell them apart."""
    if len(text) <= most:
        return text
    kept = max(0, most - 1)
    return f"{text[: kept // 3]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (kept - kept // 3) :]}"
