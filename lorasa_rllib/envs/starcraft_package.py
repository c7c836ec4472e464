"""Imports `smac` or `smacv2` with clear errors: neither is on PyPI, and a process can load only one of them."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Collection
from types import ModuleType

from lorasa_rllib.envs.starcraft import INSTALL
from lorasa_rllib.install import missing_part
from lorasa_rllib.suggestion import did_you_mean


def import_package(name: str, module: str) -> ModuleType:
    """Imports a module of "smac" or "smacv2". Raises ImportError with a remedy; ValueError if the other is loaded."""
    other = {"smac": "smacv2", "smacv2": "smac"}[name]
    if f"{other}.env" in sys.modules:
        raise ValueError(
            f"environment {name!r} cannot be used in a process that holds {other!r}: both register the same maps. Run "
            "them in separate programs."
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        why = f"needs the package {missing!r}, which is not installed"
        if missing.partition(".")[0] == name:
            why = f"cannot be imported: {missing_part(module)}"
        raise ImportError(f"environment {name!r} {why}. Neither SMAC is on PyPI; run: {INSTALL}") from error


def check_options(package_class: type, options: Collection[str], ours: Collection[str]) -> None:
    """Raises ValueError for options that are unknown to the package or that we set ourselves (`ours`)."""
    known = set(inspect.signature(package_class).parameters) - {"self", "kwargs", *ours}
    if unknown := sorted(set(options) - known):
        meant = did_you_mean(unknown[0], known)
        raise ValueError(f"env_config has unknown options {unknown}{meant} The package knows {sorted(known)}.")
