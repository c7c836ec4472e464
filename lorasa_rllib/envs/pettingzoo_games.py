"""Builds one copy of a user's PettingZoo or RLlib environment, given by name or as a callable."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import ModuleType
from typing import Any

from lorasa_rllib.envs.base import Worker
from lorasa_rllib.envs.pettingzoo_answers import Game
from lorasa_rllib.envs.rllib_game import RLlibGame, env_context, is_rllib_game, refuse_wrapper, takes_config
from lorasa_rllib.envs.wrong_games import TURNS, refuse_copy, refuse_made, refuse_wrapper_function
from lorasa_rllib.install import installing


def make_game(
    env: object,
    env_kwargs: Mapping[str, object],
    worker: Worker = Worker(),  # noqa: B008 - frozen
    vector_index: int = 0,
) -> Game:
    """Builds copy number `vector_index` of `worker`.

    Raises ValueError if the environment does not exist, is not parallel, or does not accept the settings. Errors raised
    by its constructor propagate unchanged.
    """
    function = _function(env)
    try:
        if takes_config(function, env_kwargs):
            game = function(env_context(env_kwargs, worker, vector_index))
        else:
            game = function(**env_kwargs)
    except (AttributeError, TypeError) as problem:
        refuse_wrapper_function(env, problem)
        if isinstance(problem, TypeError) and _about_settings(function, env_kwargs, problem):
            needs = f"needs settings: {problem}. Give them in env_config."
            takes = f"does not take the settings {sorted(env_kwargs)}: {problem}"
            raise ValueError(f"env={env!r} {takes if env_kwargs else needs}") from problem
        raise
    if is_rllib_game(type(game)):
        if not _takes(game.reset, {"seed": None, "options": None}):
            raise ValueError(
                f"reset() of env={env!r} takes no seed or no options. RLlib calls reset(seed=None, options=None), "
                "which returns observations and infos: give it these parameters."
            )
        return RLlibGame(game)  # type: ignore[return-value]
    refuse_made(env, game)
    if not _takes(game.reset, {"seed": None}):
        raise ValueError(
            f"reset() of env={env!r} takes no seed. PettingZoo calls reset(seed=None, options=None): give it these "
            "parameters."
        )
    return game


def close_game(game: object) -> None:
    """Closes an environment if it has a method `close()`."""
    if callable(close := getattr(game, "close", None)):
        close()


def _about_settings(function: Callable[..., object], settings: Mapping[str, object], problem: TypeError) -> bool:
    """Whether a call failed because of the names of its settings rather than inside the constructor."""
    if not takes_config(function, settings) and not _takes(function, settings):
        return True
    named = re.search(r"unexpected keyword argument '(\w+)'", str(problem))  # passed on by **kwargs
    return named is not None and named[1] in settings


def _takes(function: Callable[..., object], settings: Mapping[str, object]) -> bool:
    try:
        inspect.signature(function).bind(**settings)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _function(env: object) -> Callable[..., Any]:
    refuse_wrapper(env)
    refuse_copy(env)
    if callable(env):
        return env
    if not isinstance(env, str) or not env:
        raise ValueError(
            f'env={env!r} must name a module with a parallel_env, such as "mpe2.simple_spread_v3", be '
            '"module:function", or be a callable that returns a parallel environment of PettingZoo or a MultiAgentEnv, '
            "such as its class."
        )
    module, _, name = env.partition(":")
    try:
        found = _imported(module)
    except ImportError as problem:
        raise ValueError(f"env={env!r} cannot be imported ({problem}). {_remedy(module, problem)}") from problem
    with contextlib.suppress(AttributeError):
        return attrgetter(name or "parallel_env")(found)
    if not name and callable(getattr(found, "env", None)):
        raise ValueError(f"env={env!r} takes turns (AEC): its module has an env, but no parallel_env. {TURNS}")
    remedy = _versions(module) or "Is the name spelled as in its package?"
    raise ValueError(
        f"env={env!r} cannot be imported (module {module!r} has no attribute {name or 'parallel_env'!r}). {remedy}"
    )


def _imported(module: str) -> ModuleType:
    """Imports a module, also under a name that its package gives it: `gymnasium_robotics.mamujoco_v1`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        parent, _, name = module.rpartition(".")
        if problem.name != module or not parent:
            raise
        found = getattr(importlib.import_module(parent), name, None)
        if not isinstance(found, ModuleType):
            raise
        return found


def _remedy(module: str, problem: ImportError) -> str:
    """Advice for a module that cannot be imported."""
    package, _, rest = module.partition(".")
    if not isinstance(problem, ModuleNotFoundError):
        return "Is the name spelled as in its package?"
    if problem.name == package == "mpe2":
        return f"Run: pip install mpe2, or {installing('pettingzoo')}."
    if problem.name != package and problem.name is not None and module.startswith(problem.name):
        nothing = f"The package {package!r} is installed, but has no such module."
        return _versions(module) or f"{nothing} Is the name spelled as in its package?"
    if package == "pettingzoo" and rest and problem.name != package:
        return f'Its games need packages of their own. Run: pip install "pettingzoo[{rest.partition(".")[0]}]".'
    if "/" in module or module.endswith(".py"):
        stem = module.removesuffix(".py").rpartition("/")[2]
        return f'A file is named as a module: "{stem}:Class", with its folder on PYTHONPATH.'
    return f"Install the package that has the module {problem.name!r}; if it is your own, put its folder on PYTHONPATH."


def _versions(module: str) -> str:
    """Lists other versions of the module in its package, such as `game_v11` for `game_v10`; "" if there are none."""
    parent, _, name = module.rpartition(".")
    base = re.sub(r"_v\d+$", "", name)
    try:
        path = importlib.import_module(parent).__path__
    except (ImportError, AttributeError, ValueError):
        return ""
    beside = [found.name for found in pkgutil.iter_modules(path)]
    others = [f"{parent}.{found}" for found in beside if re.fullmatch(rf"{re.escape(base)}_v\d+", found)]
    return f"This package has {', '.join(others)} instead." if others else ""
