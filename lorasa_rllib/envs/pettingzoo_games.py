"""Makes one copy of an environment that a user names or hands over: of PettingZoo, or of RLlib."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from lorasa_rllib.envs.rllib_game import RLlibGame, is_rllib_game, takes_config
from lorasa_rllib.install import installing


def make_game(env: Any, env_kwargs: Mapping[str, Any]) -> ParallelEnv[Any, Any, Any]:
    """One copy of the environment. Raises ValueError if there is none, or if it is not a parallel one."""
    function = _function(env)
    try:
        game = function(dict(env_kwargs)) if takes_config(function, env_kwargs) else function(**env_kwargs)
    except TypeError as problem:
        raise ValueError(f"env={env!r} does not take the settings {sorted(env_kwargs)}: {problem}") from problem
    if is_rllib_game(type(game)):
        return RLlibGame(game)  # type: ignore[return-value]
    if isinstance(game, AECEnv):
        raise ValueError(
            f"env={env!r} takes turns (AEC). Where agents may act at once, hand over a function that wraps it in "
            "pettingzoo.utils.aec_to_parallel."
        )
    missing = [name for name in ("possible_agents", "reset", "step") if not hasattr(game, name)]
    if missing:
        raise ValueError(
            f"env={env!r} is neither a PettingZoo parallel environment nor a MultiAgentEnv of RLlib: it has no "
            f"{', '.join(missing)}."
        )
    return game


def close_game(game: Any) -> None:
    """Closes an environment, if it has anything to close."""
    if callable(close := getattr(game, "close", None)):
        close()


def _function(env: Any) -> Callable[..., Any]:
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
        return getattr(importlib.import_module(module), name or "parallel_env")
    except (ImportError, AttributeError) as problem:
        raise ValueError(f"env={env!r} cannot be imported ({problem}). {_remedy(module, problem)}") from problem


def _remedy(module: str, problem: Exception) -> str:
    """What to do about a module that cannot be imported."""
    package, _, rest = module.partition(".")
    if not isinstance(problem, ModuleNotFoundError):
        return "Is the name spelled as in its package?"
    if problem.name == package == "mpe2":
        return f"Run: pip install mpe2, or {installing('pettingzoo')}."
    if package == "pettingzoo" and rest:
        return f'Its games need packages of their own. Run: pip install "pettingzoo[{rest.partition(".")[0]}]".'
    return f"Install the package that has the module {problem.name!r}."
