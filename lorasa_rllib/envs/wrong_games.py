"""Objects given as an environment that are none: each is refused with what to hand over instead."""

from __future__ import annotations

from types import ModuleType

import gymnasium
from pettingzoo import AECEnv, ParallelEnv

TURNS = "Where agents may act at once, hand over a function that wraps it in pettingzoo.utils.aec_to_parallel."
SINGLE = "It has a single agent, and this is for teams: use RLlib's own PPO."
CONTEXTS = ("'EnvContext'", "'Context'")


def refuse_copy(env: object) -> None:
    """Raises ValueError for one copy of an environment, as every env runner makes copies of its own."""
    if isinstance(env, type | ModuleType) or not (hasattr(env, "reset") and hasattr(env, "step")):
        return
    kind = type(env).__name__
    if isinstance(env, AECEnv):
        raise ValueError(f"environment {kind} is one copy, and it takes turns (AEC). {TURNS}")
    if _is_single(env):
        raise ValueError(f"environment {kind} is an environment of Gymnasium. {SINGLE}")
    wraps = getattr(env, "unwrapped", env) is not env or hasattr(env, "env")
    made_by = "the function that made it, without calling it" if wraps else f"its class, {kind}"
    raise ValueError(
        f"environment {kind} is one copy, but every env runner makes copies of its own: hand over {made_by}, or a "
        "function that makes it, lambda: ..."
    )


def refuse_made(env: object, game: object) -> None:
    """Raises ValueError for what the callable or name `env` made, unless it is a parallel environment by its looks."""
    if isinstance(game, type):
        raise ValueError(f"env={env!r} returned the class {game.__name__}, not an environment: let it return a copy.")
    if game is None:
        raise ValueError(f"env={env!r} returned None: let it return the environment that it makes.")
    if isinstance(game, AECEnv):
        raise ValueError(f"env={env!r} takes turns (AEC). {TURNS}")
    if _is_single(game):
        raise ValueError(f"env={env!r} makes an environment of Gymnasium, {type(game).__name__}. {SINGLE}")
    missing = [name for name in ("possible_agents", "reset", "step") if not hasattr(game, name)]
    if missing == ["possible_agents"] and isinstance(game, ParallelEnv):
        raise ValueError(
            f"env={env!r} has no possible_agents, but the agents of a policy are known before the first episode: let "
            "its constructor list all that ever appear."
        )
    if missing:
        raise ValueError(
            f"env={env!r} is neither a PettingZoo parallel environment nor a MultiAgentEnv of RLlib: what it makes, "
            f"of type {type(game).__name__}, has no {', '.join(missing)}."
        )


def refuse_wrapper_function(env: object, problem: Exception) -> None:
    """Raises ValueError from `problem` if the callable `env` failed since it expects anything but settings."""
    if isinstance(problem, AttributeError | TypeError) and any(name in str(problem) for name in CONTEXTS):
        raise ValueError(
            f"env={env!r} was called with the dictionary of settings, as RLlib calls functions with a parameter, and "
            f"expects something else ({problem}). If it wraps an environment, hand over a function that makes both: "
            f"lambda: {_name(env)}(MyEnv())."
        ) from problem


def _name(env: object) -> str:
    return str(getattr(getattr(env, "func", env), "__name__", "wrapper"))


def _is_single(env: object) -> bool:
    """Whether this is an environment of Gymnasium for one agent; RLlib's `MultiAgentEnv` derives from theirs, too."""
    teams = hasattr(env, "possible_agents") or hasattr(env, "get_observation_space")
    return isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv) and not teams
