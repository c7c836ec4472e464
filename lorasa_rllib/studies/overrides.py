"""`--set key=value` and `--env-set key=value`: sets any setting of a config by name from the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from ray._common.deprecation import DEPRECATED_VALUE

from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.rllib.a2po import A2POConfig
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.mappo import MAPPOConfig
from lorasa_rllib.studies.literals import literal
from lorasa_rllib.studies.methods import BLOCKS, Method

CONFIGS: dict[str, type[TeamConfig]] = {"mappo": MAPPOConfig, "a2po": A2POConfig}
"""Value of --algorithm -> config class."""

GROUPS = (
    "training", "network", "sharing", "env_runners", "learners", "evaluation", "resources", "fault_tolerance",
    "reporting", "checkpointing", "debugging",
)  # fmt: skip
"""Config setters whose arguments can be set. A name without a group refers to the first group that has it."""

BY_OPTION = {
    "sharing": ("r", "lora_alpha", "init_lora_weights", "adapter_lr_scale", "phase_switch", "total_env_steps"),
    "env_runners": ("num_env_runners", "num_envs_per_env_runner"),
    "learners": ("num_learners", "num_gpus_per_learner"),
    "evaluation": ("evaluation_interval",),
    "training": ("num_epochs",),
    "network": ("id_features",),
}
"""Settings with their own option, on which other settings depend: --set of one is treated as that option."""

ELSEWHERE = {"sharing.method": "--methods", "sharing.schedule": "--methods", "debugging.seed": "--seeds"}
"""Settings that differ between trials of a study -> the option that chooses them."""


def read_settings(pairs: Iterable[str], algorithm: str) -> tuple[dict[str, Any], list[str]]:
    """Settings by full names, such as {"training.lr": 1e-3}, and the options equivalent to the remaining pairs.

    Raises ValueError for pairs that are not key=value and for unknown keys.
    """
    settings, options = dict[str, Any](), list[str]()
    for pair in pairs:
        key, text = _split("--set", pair)
        name = _whole_name(key, algorithm)
        group, _, last = name.partition(".")
        if name in ELSEWHERE:
            raise ValueError(f"--set {pair}: trials of a study differ in it; choose with {ELSEWHERE[name]}")
        if last in BY_OPTION.get(group, ()):
            options += [f"--{last.replace('_', '-')}", text]
        else:
            settings[name] = literal(text)
    return settings, options


def read_env_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Environment settings. Raises ValueError for pairs that are not key=value; the environment checks the keys."""
    return {key: literal(text) for key, text in (_split("--env-set", pair) for pair in pairs)}


def override(config: TeamConfig, settings: Mapping[str, Any]) -> TeamConfig:
    """Applies settings to `config` and returns it. Raises ValueError, naming the setting, if a setter rejects it."""
    for name, value in settings.items():
        group, _, last = name.partition(".")
        try:
            getattr(config, group)(**{last: value})
        except (TypeError, ValueError) as error:
            raise ValueError(f"--set {name}={value!r}: {error}") from error
    return config


def check_methods(settings: Mapping[str, Any], methods: Mapping[str, Method]) -> None:
    """Raises ValueError if --set would change a setting that one of the methods defines."""
    for name, method in methods.items():
        own = {"adapter_key" if key == BLOCKS else key for key in method.settings}
        own |= {"adapter_key"} if method.adapter_key != "agent" else set()
        for key in sorted(own):
            if f"sharing.{key}" in settings:
                raise ValueError(f"--set sharing.{key}={settings[f'sharing.{key}']!r}: method {name} sets it itself")


def _split(option: str, pair: str) -> tuple[str, str]:
    key, equals, text = pair.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{option} {pair} must be key=value")
    return key.strip(), text.strip()


def _whole_name(key: str, algorithm: str) -> str:
    known = arguments_of(algorithm)
    group, dot, last = key.partition(".")
    found = [group] if dot and last in known.get(group, ()) else [g for g in GROUPS if key in known[g]]
    if found:
        return f"{found[0]}.{last if dot else key}"
    whole = [f"{group}.{name}" for group, names in known.items() for name in names]
    near = get_close_matches(key, whole if dot else [name.partition(".")[2] for name in whole], n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]}?" if near else f". Groups of settings: {', '.join(GROUPS)}."
    raise ValueError(f"--set {key}: there is no such setting of {algorithm.upper()}{meant}")


@cache
def arguments_of(algorithm: str) -> dict[str, tuple[str, ...]]:
    """Arguments per group: those of its setter and of overridden setters, without deprecated ones."""
    config, found = CONFIGS[algorithm], dict[str, tuple[str, ...]]()
    for group in GROUPS:
        names = dict.fromkeys(NetworkConfig.__dataclass_fields__ if group == "network" else ())
        for setter in (vars(base)[group] for base in config.__mro__ if group in vars(base)):
            for name, parameter in inspect.signature(setter).parameters.items():
                wanted = name != "self" and parameter.kind is not parameter.VAR_KEYWORD
                if wanted and parameter.default != DEPRECATED_VALUE:
                    names.setdefault(name)
        found[group] = tuple(names)
    return found
