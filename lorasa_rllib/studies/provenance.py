"""Provenance of results: versions of packages and the commit of this package."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray.tune import Callback

from lorasa_rllib.install import is_smac3

PACKAGES = ("lorasa-rllib", "ray", "torch", "gymnasium-robotics", "mujoco", "jaxmarl", "smac", "smacv2", "pettingzoo")


@cache
def provenance() -> dict[str, str]:
    """Provenance of this process, {"versions": "ray 2.60.0, torch ...", "commit": "413455901"}; see `commit`."""
    return {
        "versions": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        "commit": commit(),
    }


def commit() -> str:
    """Short hash of the checkout that this package runs from, with "+" if files were modified; "" if not a checkout."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        found = [
            subprocess.run([*git, *ask], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
            for ask in (["rev-parse", "--short=9", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return found[0] + "+" * bool(found[1])


def _version(package: str) -> str | None:
    if package == "smac" and is_smac3():
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Provenance(Callback):
    """Tune callback that adds `provenance` to every result, so that a resumed run records it for each part."""

    def on_trial_result(self, result: dict[str, Any], **info: object) -> None:
        result.update(provenance())  # documented by Tune: callbacks may change results
