"""Validates the return values of a game's `reset()`, `step()` and `state()`; errors name the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, SupportsFloat, TypeAlias, TypeGuard

import numpy as np
from pettingzoo import ParallelEnv

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.spaces import described

Answer = Mapping[Any, Any]
"""Values by agent id."""
Game: TypeAlias = "ParallelEnv[Any, Any, Any]"


def of_reset(env: object, answer: object) -> tuple[Answer, Answer]:
    """Observations and infos returned by reset(); infos of None become {}.

    Raises TeamEnvError for the older API, which has no infos.
    """
    if isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[0], Mapping):
        return answer[0], _infos("reset()", env, answer[1])
    raise TeamEnvError(
        f"reset() of {type(env).__name__} must return two dictionaries, observations and infos, but returned "
        f"{described(answer)}. Environments of the older API returned observations only: add a second one, {{}}."
    )


def of_step(env: object, answer: object) -> tuple[Answer, Answer, Answer, Answer, Answer]:
    """Observations, rewards, terminations, truncations and infos. Raises TeamEnvError for the older API."""
    if isinstance(answer, tuple | list) and len(answer) == 5:
        return (*answer[:4], _infos("step()", env, answer[4]))
    came = f"{len(answer)} values" if isinstance(answer, tuple | list) else described(answer)
    raise TeamEnvError(
        f"step() of {type(env).__name__} must return five dictionaries, observations, rewards, terminations, "
        f"truncations and infos, but returned {came}. Environments of the older API returned four: let their dones "
        "be terminations, or truncations where a time limit ended the episode."
    )


def ids_of(env: object, *attributes: str) -> tuple[object, ...]:
    """The ids of all agents of an environment, as in the first of `attributes` that lists any.

    Raises ValueError if there are none or two share a name.
    """
    for attribute in attributes:
        listed = getattr(env, attribute, None)
        if (ids := _ids(listed)) and len(set(map(str, ids))) == len(ids):
            return ids
        if ids is None or ids:
            break
    raise ValueError(
        f"{attribute} of {type(env).__name__} is {described(listed)}; let its constructor list all agents that ever "
        "appear in possible_agents, under distinct names."
    )


def alive(env: object) -> tuple[object, ...]:
    """The ids of the agents that act next. Raises TeamEnvError if `env.agents` is missing or not a list of ids."""
    listed = getattr(env, "agents", ...)
    ids = () if listed is None else _ids(listed)
    if ids is None:
        found = "missing" if listed is ... else described(listed)
        raise TeamEnvError(
            f"`agents` of {type(env).__name__} is {found}. Let reset() and step() set it to the list of the agents "
            "that act next."
        )
    return ids


def alive_after_reset(env: object) -> tuple[object, ...]:
    """`alive(env)`. Raises TeamEnvError if nobody is."""
    if not (ids := alive(env)):
        raise TeamEnvError(
            f"`agents` of {type(env).__name__} is empty after reset(), so no agent can act. Let an episode begin "
            "with at least one agent."
        )
    return ids


def _ids(listed: Any) -> tuple[object, ...] | None:
    """The entries of a list, set, array or other collection of ids; None for anything else, such as a string."""
    if isinstance(listed, str | bytes):
        return None
    try:
        return tuple(listed)
    except TypeError:
        return None


def _infos(method: str, env: object, infos: object) -> Answer:
    if infos is None or isinstance(infos, Mapping):
        return infos or {}
    raise TeamEnvError(
        f"the infos of {method} of {type(env).__name__} must be a dictionary by agent, or None, not {described(infos)}."
    )


def of_each(agents: Sequence[object], given: Answer, what: str) -> list[object]:
    """The values that reset() or step() returned for `agents`. Raises TeamEnvError if one is missing."""
    try:
        return [given[agent] for agent in agents]
    except (KeyError, TypeError, IndexError):
        is_dict = isinstance(given, Mapping)
        lacking = next((agent for agent in agents if not is_dict or agent not in given), None)
        came = list(given) if is_dict else described(given)
        raise TeamEnvError(
            f"agent {lacking!r} was given no {what}, only {came} came with one. Every agent that acts needs an "
            "observation, reward, termination and truncation from step(), and one that is there after reset() an "
            "observation; those that have left must not be among `agents`."
        ) from None


def flags(given: Sequence[object], agents: Sequence[object], what: str) -> list[bool]:
    """Terminations or truncations as bool. Raises TeamEnvError if one is not True, False, 1 or 0."""
    return [
        flag if flag is True or flag is False else _flag(flag, agent, what)
        for flag, agent in zip(given, agents, strict=True)
    ]


def _flag(given: object, agent: object, what: str) -> bool:
    array = _array(given)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise TeamEnvError(
            f"the {what} of agent {agent!r} is {described(given)}. Let step() give every agent True or False."
        )
    return bool(array.item())


def _array(given: object) -> np.ndarray:
    """A number, an array, a tensor or nested lists of numbers as an array; of type object if it is nothing of these."""
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except ValueError:  # ragged
        return np.empty(0, object)


def numbers(rewards: Sequence[object], agents: Sequence[object]) -> list[SupportsFloat]:
    """Returns `rewards`. Raises TeamEnvError if one is not a single number."""
    given: list[SupportsFloat] = []
    for agent, reward in zip(agents, rewards, strict=True):
        if not _is_number(reward):
            raise TeamEnvError(
                f"agent {agent!r} was given the reward {described(reward)}. Let step() give it one number, or use "
                "team_reward for one reward of the whole team."
            )
        given.append(reward)
    return given


def _is_number(reward: object) -> TypeGuard[SupportsFloat]:
    """Whether `reward` is a single real number that fits a float."""
    try:
        is_one = isinstance(reward, Real) or getattr(reward, "shape", None) == ()
        return is_one and isinstance(float(reward), float)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):
        return False


def own_state(game: Game) -> np.ndarray | None:
    """The game's own global state after reset(), in its shape; None if it has no method `state()`.

    An attribute called `state` that is not callable (several games have one) is ignored. Raises TeamEnvError for a
    state that is not an array of numbers.
    """
    if not callable(getattr(game, "state", None)) or _inherits_state(game):
        return None
    try:
        state = game.state()
    except NotImplementedError:
        return None
    except (AttributeError, TypeError) as problem:  # raised by wrappers around a game without state()
        if callable(getattr(game.unwrapped, "state", None)):
            raise TeamEnvError(
                f"state() of {type(game).__name__} raised {type(problem).__name__}: {problem}"
            ) from problem
        return None
    return None if state is None else state_numbers(game, state).reshape(np.shape(state))


def _inherits_state(game: object) -> bool:
    """Whether `state()` is PettingZoo's own, which only raises (AttributeError for environments without metadata)."""
    return getattr(type(getattr(game, "unwrapped", game)), "state", None) is ParallelEnv.state


def state_numbers(game: object, state: object, size: int | None = None) -> np.ndarray:
    """The result of `state()` as a flat array [size], or of any size but 0. Raises TeamEnvError otherwise."""
    array = _array(state)
    if array.dtype.kind not in "fiub" or not array.size:
        raise TeamEnvError(
            f"state() of {type(game).__name__} gave {described(state)}. Let it return an array of numbers, always of "
            "the same size, or leave it out: the state is then all observations in a row."
        )
    if size is not None and array.size != size:
        raise TeamEnvError(f"state() has {array.size} entries, but had {size} after reset().")
    return array.reshape(-1)
