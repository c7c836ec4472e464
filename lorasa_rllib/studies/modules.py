"""Modules of the user's own, such as an environment beside the place where a command is called."""

from __future__ import annotations

import sys
from pathlib import Path


def import_from_here() -> None:
    """Adds the current folder to where Python looks for modules; Ray's workers take that over.

    Last of all, so that no file there hides an installed package. Not for commands that open files of others, unless
    they are trusted: those may come with modules.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
