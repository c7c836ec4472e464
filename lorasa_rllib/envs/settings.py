"""Checks of environment settings: names, whole numbers, flags. Errors name the setting, its value and what it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real

import numpy as np

from lorasa_rllib.suggestion import suggestion


def whole_number(name: str, value: object, least: int = 0) -> int:
    """`value` as an int, also if it is a NumPy integer or a whole float. Raises ValueError otherwise."""
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer() and float(value) >= least:
        return int(float(value))
    raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")


def time_limit(value: object) -> int | None:
    """`max_episode_steps` as an int; None stays None. Raises ValueError unless it is a whole number from 1 up."""
    if value is None:
        return None
    try:
        return whole_number("max_episode_steps", value, 1)
    except ValueError:
        raise ValueError(f"max_episode_steps={value!r} must be a whole number of at least 1, or None.") from None


def flag(name: str, value: object) -> bool:
    """`value` as a bool. Raises ValueError unless it is True or False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name}={value!r} must be True or False.")


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float. Raises ValueError unless it is a finite number from low to high."""
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and low <= float(value) <= high:
        return float(value)
    within = f" from {low:g} to {high:g}" if math.isfinite(high) else ""
    raise ValueError(f"{name}={value!r} must be a number{within}.")


def check_names(takes: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raises ValueError, with the nearest name, for settings that `takes`, without `**kwargs`, has no parameter for."""
    parameters = inspect.signature(takes).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"env_config: {suggestion(str(unknown[0]), known)}")
