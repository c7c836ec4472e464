"""Installation hints used in error messages. Imports nothing from this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec


def installing(extra: str = "") -> str:
    """The command that installs an extra of setup.cfg; this package is installed from its folder, not a registry."""
    what = f'".[{extra}]"' if extra else "."
    return f"pip install -e {what} -c constraints.txt (in the project's folder)"


def is_smac3() -> bool:
    """Whether the installed distribution "smac" is SMAC3, a hyper-parameter optimiser.

    Its distribution and package share their names with the StarCraft Multi-Agent Challenge, which does not require
    ConfigSpace.
    """
    try:
        needs = distribution("smac").requires or []
    except PackageNotFoundError:
        return False
    return any(need.lower().startswith("configspace") for need in needs)


def missing_part(name: str) -> str:
    """Why a module such as "smac.env" cannot be found: package not installed, or hidden by another of the same name."""
    package = name.partition(".")[0]
    spec = find_spec(package)
    if spec is None:
        return f"package {package!r} is not installed"
    if package == "smac" and is_smac3():
        return (
            "the installed package 'smac' is SMAC3, a tool for hyper-parameters, not the StarCraft Multi-Agent "
            "Challenge (pip uninstall smac)"
        )
    place = spec.origin or ", ".join(spec.submodule_search_locations or [])
    return f"package {package!r} is {place}, which has no {name!r} and hides any other package of that name"
