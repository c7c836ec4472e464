"""Terminal output of studies and commands: width, readable numbers and durations, one-line errors."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lorasa_rllib.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

LOG = 120
"""Width without a terminal, as in a job's log, if COLUMNS is not set."""


def width() -> int:
    """Width of the terminal in columns."""
    return shutil.get_terminal_size(fallback=(LOG, 24)).columns


def console() -> Console:
    from rich.console import Console

    return Console(width=width(), highlight=False, markup=False, emoji=False)  # paths and names appear as they are


def complain(program: str, message: object) -> None:
    """Prints an error as one line to stderr."""
    print(f"{program}: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def exit_status_of(program: str, work: Callable[[], object]) -> int:
    """Runs `work`, printing errors in one line. Returns 0, 2 for invalid options or files, or 1 for failures."""
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
    """Formats as 1,234, 56.8 or 0.00123: at least three significant figures, no decimals from 100 on; "-" for NaN."""
    if math.isnan(value):
        return "-"
    size = abs(value)
    if size == 0 or size >= 100 or math.isinf(value):
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(size))}f}" if size >= 1e-4 else f"{value:.2e}"


def compact(number: float) -> str:
    """A count with three significant figures: 950, 12.3k, 1M, 1.23M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{float(f'{number / unit:.3g}'):g}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Formats seconds as 0:45, 12:03 or 3:20:00; "?" if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
