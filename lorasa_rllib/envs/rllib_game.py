"""Adapts RLlib's `MultiAgentEnv` to a parallel game. Does not import Ray, as such an environment already has."""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lorasa_rllib.envs.base import TeamEnvError, Worker
from lorasa_rllib.envs.pettingzoo_answers import Answer, flags, ids_of, of_reset, of_step

ALL = "__all__"
MULTI_AGENT_ENV = ("ray.rllib.env.multi_agent_env", "MultiAgentEnv")
ENV_CONTEXT = ("ray.rllib.env.env_context", "EnvContext")
WRAPPERS = "ray.rllib.env.wrappers."
TURNS = (
    "Environments that take turns cannot be learned here, unless every living agent has an observation at every step "
    "(those who wait with an action mask that leaves one choice)."
)
CONFIG = re.compile("config|context|cfg|ctx")


class MultiAgentGame(Protocol):
    """What is called of a `MultiAgentEnv`. Its agents, and `state()`, are looked for."""

    def get_observation_space(self, agent_id: object) -> object: ...

    def get_action_space(self, agent_id: object) -> object: ...

    def reset(self, *, seed: int | None, options: object) -> object: ...

    def step(self, action_dict: dict[object, object]) -> object: ...

    def render(self) -> object: ...


class RLlibGame:
    """Presents a `MultiAgentEnv` through the subset of PettingZoo's parallel interface that `PettingZooTeam` uses.

    Agents are named by `str` of their ids. As all agents act simultaneously, each living agent needs an observation at
    every step. An agent lives from its first observation (or from reset(), if it is then in the environment's `agents`)
    until its own termination or truncation, or until that of "__all__", which applies to all agents without one of
    their own. If both are set, it is a termination.
    As in RLlib, a terminating agent may lack a last observation and reward: its previous observation and a reward of 0
    are used. The global state is the result of the method `state()`, if any.

    Raises ValueError for an environment without agents; reset() and step() raise TeamEnvError for turn-based
    environments, for agents that return after they ended, and for unlisted agents.
    """

    def __init__(self, env: MultiAgentGame):
        self.env = env
        self.ids = {str(agent): agent for agent in ids_of(env, "possible_agents", "agents")}
        self.possible_agents = list(self.ids)
        self.agents: list[str] = []
        self._ended: set[str] = set()
        self._last: dict[str, object] = {}

    def observation_space(self, agent: str) -> object:
        return self._own("observation_space", self.env.get_observation_space(self.ids[agent]), agent)

    def action_space(self, agent: str) -> object:
        return self._own("action_space", self.env.get_action_space(self.ids[agent]), agent)

    def _own(self, which: str, space: object, agent: str) -> object:
        """Returns `space`. Raises ValueError if it is that of all agents, under keys that are not their ids."""
        keys = getattr(space, "spaces", None)
        if isinstance(keys, Mapping) and self.ids[agent] not in keys and set(map(str, keys)) == set(self.ids):
            raise ValueError(
                f"{which} of {type(self.env).__name__} has the keys {list(keys)}, but the agents' ids are "
                f"{list(self.ids.values())}: let the keys be the ids."
            )
        return space

    def reset(self, seed: int | None = None, options: object = None) -> tuple[dict[str, object], dict[str, object]]:
        obs, infos = map(_by_name, of_reset(self.env, self.env.reset(seed=seed, options=options)))
        self._ended = set()
        listed = [str(agent) for agent in getattr(self.env, "agents", None) or ()]
        if late := [agent for agent in listed if agent not in obs]:
            raise TeamEnvError(
                f"agent {late[0]!r} is in `agents` after reset() but was given no observation, only {list(obs)} were. "
                "Let reset() set `agents` to those that are there, as others may join later, or give all of them an "
                f"observation. {TURNS}"
            )
        self._go_on(obs, [])
        if not self.agents:
            raise TeamEnvError(f"reset() of {type(self.env).__name__} gave no observation; no agent can act.")
        return obs, infos

    def step(self, actions: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
        """Returns obs, rewards, terminations, truncations and infos as in PettingZoo, without "__all__"."""
        answer = self.env.step({self.ids[agent]: action for agent, action in actions.items()})
        obs, rewards, terminated, truncated, infos = map(_by_name, of_step(self.env, answer))
        ended, stopped = _flags(terminated, "termination"), _flags(truncated, "truncation")
        ends, cuts = {}, {}
        for agent in self.agents:
            end, cut = ended[agent], stopped[agent]
            if not (end or cut):
                end, cut = ended[ALL], stopped[ALL]
            ends[agent], cuts[agent] = end, cut and not end
            if end and agent not in obs:
                obs[agent] = self._last[agent]
                rewards.setdefault(agent, 0.0)
        alive = [agent for agent in self.agents if not (ends[agent] or cuts[agent])]
        done_before, self._ended = self._ended, self._ended.union(set(self.agents).difference(alive))
        if back := sorted(done_before.intersection(obs)):
            raise TeamEnvError(f"agent {back[0]!r} has terminated or was truncated, and yet was given an observation.")
        self._go_on(obs, alive)
        if ended[ALL] or stopped[ALL]:
            self.agents = []
        return obs, rewards, ends, cuts, infos

    def state(self) -> object:
        """The environment's own global state. Raises NotImplementedError if it has none."""
        if not callable(own := getattr(self.env, "state", None)):
            raise NotImplementedError
        return own()

    def render(self) -> object:
        return self.env.render()

    def close(self) -> None:
        if callable(close := getattr(self.env, "close", None)):
            close()

    def _go_on(self, obs: dict[str, object], alive: list[str]) -> None:
        """Sets the agents that act next: those in `obs` that have not ended. `obs` must contain all of `alive`."""
        if strangers := [agent for agent in obs if agent not in self.ids]:
            raise TeamEnvError(
                f"agent {strangers[0]!r} was given an observation, but is not one of the possible_agents "
                f"{self.possible_agents}; list all that ever appear."
            )
        if blind := [agent for agent in alive if agent not in obs]:
            raise TeamEnvError(
                f"agent {blind[0]!r} is alive but was given no observation, only {list(obs)} were. For "
                f"those that leave, set terminateds[agent] or truncateds[agent]. {TURNS}"
            )
        self.agents = [agent for agent in self.possible_agents if agent in obs and agent not in self._ended]
        self._last = obs


def is_rllib_game(kind: type) -> bool:
    """Whether a class is an RLlib `MultiAgentEnv`."""
    return any((base.__module__, base.__name__) == MULTI_AGENT_ENV for base in kind.__mro__)


def refuse_wrapper(env: object) -> None:
    """Raises ValueError for RLlib's wrapper classes and their instances, which need an environment to wrap."""
    kind = env if isinstance(env, type) else type(env)
    if kind.__module__.startswith(WRAPPERS):
        raise ValueError(
            f"{kind.__name__} wraps an environment, and env runners make copies of their own: hand over the class of "
            f"the environment inside as it is, or a function such as lambda config: {kind.__name__}(MyEnv(**config))."
        )


def takes_config(make: Callable[..., object], settings: Mapping[str, object]) -> bool:
    """Whether `make` takes one dictionary of settings, as in RLlib, rather than keyword arguments.

    False if all settings are names of parameters. Otherwise true for MultiAgentEnv classes and functions whose first
    parameter is positional and is called config (or similar) or has no default. Other classes take keyword arguments,
    as in PettingZoo, unless they have no `**kwargs` and their first parameter is called config.
    """
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False
    first = next(iter(parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    if settings and set(settings) <= set(parameters):
        return False
    is_config = CONFIG.search(first.name) is not None
    if isinstance(make, type) and not is_rllib_game(make):
        return is_config and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
    return is_config or first.default is first.empty


class Context(dict[str, object]):
    """An environment's settings, with the fields of `Worker` as attributes: `EnvContext` without Ray."""


def env_context(settings: Mapping[str, object], worker: Worker, vector_index: int) -> dict[str, object]:
    """The constructor argument of RLlib environments: the settings, with the fields of `Worker` and `vector_index`.

    An `EnvContext` if RLlib's has been imported, otherwise a `Context`.
    """
    rllib = sys.modules.get(ENV_CONTEXT[0])
    context: Any
    if rllib is None:
        context = Context(settings)
    else:
        context = getattr(rllib, ENV_CONTEXT[1])(dict(settings), worker.worker_index)
    context.vector_index, context.remote = vector_index, False
    for name, value in vars(worker).items():
        setattr(context, name, value)
    return context


def _flags(given: Mapping[str, object], what: str) -> defaultdict[str, bool]:
    """Terminations or truncations by agent, False where there is none."""
    return defaultdict(bool, zip(given, flags(list(given.values()), list(given), what), strict=True))


def _by_name(given: Answer | None) -> dict[str, object]:
    return {str(agent): value for agent, value in (given or {}).items()}
