"""Converts RLlib users' environments (classes, functions, registered names) to settings of "pettingzoo"."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType

from ray.tune.registry import ENV_CREATOR, _global_registry

from lorasa_rllib.envs.base import VectorTeamEnv
from lorasa_rllib.envs.registry import ENVIRONMENTS
from lorasa_rllib.envs.rllib_game import refuse_wrapper
from lorasa_rllib.envs.wrong_games import refuse_copy
from lorasa_rllib.suggestion import did_you_mean

GAMES = "pettingzoo"


class Registered:
    """A creator registered with `ray.tune.register_env(name, creator)`; called with one dictionary of settings."""

    def __init__(self, name: str, creator: Callable[[Mapping[str, object]], object]):
        self.name, self.creator = name, creator

    def __call__(self, config: Mapping[str, object]) -> object:
        return self.creator(config)

    def __repr__(self) -> str:
        return f"register_env({self.name!r})"


def is_team_env(env: object) -> bool:
    """Whether `env` is one of this package's environments: a key of `ENVIRONMENTS` or a `VectorTeamEnv` class."""
    if isinstance(env, str):
        return env in ENVIRONMENTS
    return isinstance(env, type) and issubclass(env, VectorTeamEnv)


def game_of(env: object) -> object:
    """The value of `env` for the setting "env" of the environment "pettingzoo".

    env: a class (RLlib's `MultiAgentEnv`, PettingZoo's `ParallelEnv`) or any other callable that builds a copy; a name
        registered with `ray.tune.register_env`; a PettingZoo module or its name; or the "module:name" or "module.name"
        of a class or function.

    Raises ValueError for anything else.
    """
    refuse_wrapper(env)
    refuse_copy(env)
    if isinstance(env, ModuleType):
        return env.__name__
    if callable(env):
        return env
    if not isinstance(env, str):
        raise ValueError(
            f"an environment is a class, a function that makes an environment, or a name, not a {type(env).__name__}; "
            'its settings are a second argument: .environment(MyEnv, env_config={"size": 3}).'
        )
    if _global_registry.contains(ENV_CREATOR, env):
        return Registered(env, _global_registry.get(ENV_CREATOR, env))
    if ":" in env or _is_module(env):
        return env
    module, _, name = env.rpartition(".")
    if module and _is_module(module):
        return f"{module}:{name}"
    raise ValueError(
        f"environment {env!r} is unknown{did_you_mean(env, ENVIRONMENTS)} It is none of "
        f'{sorted(ENVIRONMENTS)}, nothing that ray.tune.register_env knows in this process, and no "module:name" that '
        "can be imported (a file is named as a module). Environments with a single agent are not supported."
    )


def _is_module(name: str) -> bool:
    try:
        return "." in name and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
