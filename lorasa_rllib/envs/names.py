"""Importable names of a user's classes and functions, "module:qualname", for files and command lines."""

from __future__ import annotations

import importlib
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any


def name_of(thing: object) -> str | None:
    """The name of a class or function; None if it cannot be imported by name (lambdas, local definitions).

    For the running script the module is the file's name: `train:Meet` under `python train.py`.
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    try:
        if attrgetter(name)(sys.modules[module or ""]) is not thing:
            return None
    except (KeyError, AttributeError):
        return None
    module = _script() if module == "__main__" else module
    return f"{module}:{name}" if module else None


def imported(name: str) -> Any:
    """Imports the object with this name. Raises ValueError if there is none."""
    module, _, attribute = name.partition(":")
    try:
        return attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        top = module.partition(".")[0]
        raise ValueError(
            f"{name} cannot be imported ({error}). Start in the folder that holds {top}, or put it on PYTHONPATH."
        ) from error


def _script() -> str | None:
    """The module name of the running script; None in notebooks and interactive sessions."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else None
