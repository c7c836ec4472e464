"""SMAX options in `env_config`: the package's options that are not determined by the map, in hashable form."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real

import numpy as np

from lorasa_rllib.suggestion import did_you_mean

OF_MAP = "the map decides it; choose another map_name, or register a scenario of your own"

NOT_OPTIONS = {
    "scenario": "use map_name",
    "num_allies": OF_MAP,
    "num_enemies": OF_MAP,
    "smacv2_position_generation": OF_MAP,
    "smacv2_unit_type_generation": OF_MAP,
    "unit_type_names": "the types are the package's",
    "unit_type_shorthands": "the types are the package's",
    "max_steps": "use max_episode_steps",
    "action_type": "actions are discrete",
    "observation_type": "observations are lists of units",
}
"""Options of the package that cannot be set -> the reason, or what to use instead."""

ATTACK_MODES = ("closest", "random")

Value = bool | int | float | str | tuple[float, ...]


def checked_options(options: Mapping[str, object], ours: Collection[str]) -> tuple[tuple[str, Value], ...]:
    """The options sorted by name, lists and arrays as tuples. Needs the package, see `jax_setup`.

    ours: names of settings that are not the package's, for messages.

    Raises ValueError for names unknown to the package, for options without effect, and for values whose type differs
    from the default's.
    """
    for name in sorted(set(options) & set(NOT_OPTIONS)):
        raise ValueError(f"{name}={options[name]!r} is not supported: {NOT_OPTIONS[name]}.")
    defaults = known_options()
    for name in sorted(set(options) - set(defaults)):
        known = sorted([*ours, *defaults])
        meant = did_you_mean(name, known)
        raise ValueError(f"SMAX does not know an option {name!r} of env_config{meant} It has {known}.")
    return tuple((name, _checked(name, options[name], defaults[name])) for name in sorted(options))


def known_options() -> dict[str, object]:
    """Names and defaults of all options that can be set."""
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.smax_env import SMAX

    both = [*inspect.signature(SMAX).parameters.values(), *inspect.signature(HeuristicEnemySMAX).parameters.values()]
    return {p.name: p.default for p in both if p.default is not p.empty and p.name not in NOT_OPTIONS}


def for_package(options: tuple[tuple[str, Value], ...]) -> dict[str, object]:
    """The options as keyword arguments of the package: values per unit type become arrays."""
    import jax.numpy as jnp

    arrays = {name for name, default in known_options().items() if hasattr(default, "shape")}
    return {name: jnp.array(value) if name in arrays else value for name, value in options}


def _checked(name: str, value: object, default: object) -> Value:
    if name == "attack_mode":
        if value in ATTACK_MODES:
            return str(value)
        raise ValueError(f"{name}={value!r} must be one of {list(ATTACK_MODES)}.")
    if isinstance(default, bool):
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise ValueError(f"{name}={value!r} must be True or False.")
    if isinstance(default, int | float):
        kind, what = (Integral, "a whole number") if name == "world_steps_per_env_step" else (Real, "a number")
        if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and float(value) >= 0:
            return int(value) if isinstance(value, Integral) else float(value)
        raise ValueError(f"{name}={value!r} must be {what} of at least 0.")
    entries = len(np.asarray(default))  # one per unit type
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (entries,) or not (np.isfinite(numbers) & (numbers >= 0)).all():
        raise ValueError(f"{name}={value!r} must be {entries} numbers of at least 0, one for each type of unit.")
    return tuple(numbers.tolist())
