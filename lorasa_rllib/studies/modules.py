"""Imports of the user's own modules, such as an environment in the current folder."""

from __future__ import annotations

import sys
from pathlib import Path


def import_from_here() -> None:
    """Appends the current folder to Python's module search path, which Ray's workers inherit.

    It comes last so that no file in it hides an installed package. Commands that open untrusted files must not call
    this, as such files may come with modules.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
