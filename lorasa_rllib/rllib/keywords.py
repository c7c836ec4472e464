"""Rejects unknown setting names at the call and suggests the nearest known one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE

from lorasa_rllib.suggestion import suggestion

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
C = TypeVar("C")

SETTERS = (
    "api_stack",
    "callbacks",
    "checkpointing",
    "debugging",
    "environment",
    "experimental",
    "fault_tolerance",
    "framework",
    "multi_agent",
    "offline_data",
    "python_environment",
    "reporting",
    "resources",
    "rl_module",
)
"""Setters of RLlib's configs, without those that `TeamConfig` extends."""


def knows_its_keywords(*more: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Decorator for setters: TypeError with a suggestion for keywords that neither it nor its base setters accept.

    more: keywords that the setter accepts through `**settings`.
    """

    def decorate(setter: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(setter)
        def checked(self: S, *args: P.args, **settings: P.kwargs) -> R:
            current, old = _keywords(cast(type, type(self)), setter.__name__)
            if unknown := sorted(set(settings) - {*current, *old, *more}):
                raise TypeError(f".{setter.__name__}({unknown[0]}=...): {suggestion(unknown[0], [*current, *more])}")
            return setter(self, *args, **settings)

        return checked

    return decorate


def whose_setters_know_their_keywords(config: type[C]) -> type[C]:
    """Class decorator: `knows_its_keywords` for the setters that a config inherits from RLlib unchanged."""
    for name in SETTERS:
        setattr(config, name, knows_its_keywords()(getattr(config, name)))
    return config


@functools.cache
def _keywords(cls: type, setter: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Current and deprecated keywords of a setter and of those it overrides. RLlib reports the deprecated ones."""
    current: set[str] = set()
    old: set[str] = set()
    for base in cls.__mro__:
        if setter not in vars(base):
            continue
        for name, parameter in inspect.signature(vars(base)[setter]).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                (old if parameter.default == DEPRECATED_VALUE else current).add(name)
    return tuple(sorted(current)), tuple(sorted(old))
