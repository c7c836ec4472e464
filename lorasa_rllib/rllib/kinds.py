"""Settings that are words, dictionaries, functions or paths: problems with values of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from lorasa_rllib.rllib.callbacks import BY_ALGORITHMS, BY_RUNNERS

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

CHOICES = {
    "evaluation_duration_unit": ("episodes", "timesteps"),
    "placement_strategy": ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"),
    "log_level": ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL"),
}
"""Values of settings that are words."""

RESOURCES = (
    "custom_resources_per_env_runner",
    "custom_resources_per_learner",
    "custom_resources_for_main_process",
)


def check_is_settings(name: str, given: object) -> None:
    """Raises ValueError unless `given` is a dictionary of settings, or None."""
    if isinstance(given, AlgorithmConfig):
        raise ValueError(
            f"{name} is a whole config, {short(given)}; give a dictionary of the settings that differ, such as "
            f"{name}={{'explore': True}}."
        )
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            f"{name}={short(given)} must be a dictionary of settings, such as {{'explore': True}}, or None."
        )


def check_tables(config: TeamConfig) -> None:
    """Raises ValueError for settings that must be dictionaries, patterns or paths, and are not."""
    if not isinstance(config.env_config, Mapping):
        raise ValueError(f"env_config={short(config.env_config)} must be a dictionary of the environment's settings.")
    if not isinstance(config.network_settings, Mapping):
        raise ValueError(f"network_settings={short(config.network_settings)} must be a dictionary; use .network(...).")
    if not isinstance(config.rank_pattern, Mapping):
        raise ValueError(
            f"rank_pattern={short(config.rank_pattern)} must be a dictionary of ranks by pattern, {{'head': 4}}."
        )
    targets = config.target_modules
    if not isinstance(targets, str | Sequence) or not all(isinstance(pattern, str) for pattern in targets):
        raise ValueError(
            f"target_modules={short(targets)} must be a pattern of layers, such as 'mlp.*', or a list of patterns."
        )
    for name, takes in (("backbone", str | Path), ("fork_from", str | Path), ("adapters", str | Path | Mapping)):
        if (given := getattr(config, name)) is not None and not isinstance(given, takes):
            other = ", or a dictionary of folders by adapter" if name == "adapters" else ""
            raise ValueError(f"{name}={short(given)} must be the path of a checkpoint or of a policy's files{other}.")


def of_other_kinds(config: AlgorithmConfig) -> list[str]:
    """Problems with settings that are words, dictionaries or functions."""
    problems = [
        f"{name}={short(value)} must be one of {', '.join(map(repr, choices))}."
        for name, choices in CHOICES.items()
        if (value := getattr(config, name)) not in choices
    ]
    problems += [
        f"{name}={short(value)} must be a dictionary of amounts by resource, such as {{'license': 1}}."
        for name in RESOURCES
        if (value := getattr(config, name)) and not _is_amounts(value)
    ]
    problems += [
        f"callbacks_class={short(callback)} must be a subclass of RLlibCallback, or a function that makes one."
        for callback in force_list(config.callbacks_class)
        if not is_callbacks(callback)
    ]
    problems += [
        f"{hook}={short(function)} must be a function, or a list of functions."
        for hook in (*BY_RUNNERS, *BY_ALGORITHMS)
        for function in force_list(getattr(config, f"callbacks_{hook}"))
        if not callable(function)
    ]
    return problems


def _is_amounts(given: object) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(n, Real) and float(n) >= 0 for name, n in given.items()
    )


def is_callbacks(given: object) -> bool:
    """Whether `given` is a class of callbacks, or a function that makes one."""
    return issubclass(given, RLlibCallback) if isinstance(given, type) else callable(given)


def short(value: object, most: int = 120) -> str:
    """`repr(value)` for messages, truncated to `most` characters: RLlib's dictionaries can be long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."
