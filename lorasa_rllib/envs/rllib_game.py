"""RLlib's own `MultiAgentEnv` as a parallel game, without importing Ray: such an environment has loaded it already."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lorasa_rllib.envs.base import TeamEnvError, Worker
from lorasa_rllib.envs.pettingzoo_answers import of_reset, of_step

ALL = "__all__"
MULTI_AGENT_ENV = ("ray.rllib.env.multi_agent_env", "MultiAgentEnv")
ENV_CONTEXT = ("ray.rllib.env.env_context", "EnvContext")
WRAPPERS = "ray.rllib.env.wrappers."
CONFIG = re.compile("config|context|cfg|ctx")


class RLlibGame:
    """A `MultiAgentEnv` behind the part of PettingZoo's parallel interface that `PettingZooTeam` drives.

    Agents are called by `str` of their ids. Whoever is alive must be given an observation at every step, as all act at
    once: an agent lives from its first observation (or from reset(), if it is then among the environment's `agents`)
    until its own termination or truncation, or that of "__all__", which stands for all that have not ended otherwise.
    Where both are said, at either place, it is a termination.
    As in RLlib, one that terminates may do so without a last observation and reward: its previous observation stands
    in. The state is that of a method `state()`, if any.

    Raises ValueError for an environment without agents; reset() and step() raise TeamEnvError for environments that
    take turns, and for agents that come back or that were never listed.
    """

    def __init__(self, env: Any):
        self.env = env
        ids = list(getattr(env, "possible_agents", None) or getattr(env, "agents", None) or ())
        self.ids = {str(agent): agent for agent in ids}
        if not ids or len(self.ids) < len(ids):
            raise ValueError(
                f"{type(env).__name__}.possible_agents is {ids}; let its constructor list all agents that ever appear, "
                "under distinct names."
            )
        self.possible_agents = list(self.ids)
        self.agents: list[str] = []
        self._ended: set[str] = set()
        self._last: dict[str, Any] = {}

    def observation_space(self, agent: str) -> Any:
        return self.env.get_observation_space(self.ids[agent])

    def action_space(self, agent: str) -> Any:
        return self.env.get_action_space(self.ids[agent])

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, infos = map(_by_name, of_reset(self.env, self.env.reset(seed=seed, options=options)))
        self._ended = set()
        self._go_on(obs, [str(agent) for agent in getattr(self.env, "agents", None) or ()])
        if not self.agents:
            raise TeamEnvError(f"reset() of {type(self.env).__name__} gave no observation; nobody can act.")
        return obs, infos

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """obs, rewards, terminations, truncations, infos: as PettingZoo has them, without "__all__"."""
        answer = self.env.step({self.ids[agent]: action for agent, action in actions.items()})
        obs, rewards, terminated, truncated, infos = map(_by_name, of_step(self.env, answer))
        ends, cuts = {}, {}
        for agent in self.agents:
            end, cut = bool(terminated.get(agent)), bool(truncated.get(agent))
            if not (end or cut):
                end, cut = bool(terminated.get(ALL)), bool(truncated.get(ALL))
            ends[agent], cuts[agent] = end, cut and not end
            if end and agent not in obs:
                obs[agent] = self._last[agent]
                rewards.setdefault(agent, 0.0)
        alive = [agent for agent in self.agents if not (ends[agent] or cuts[agent])]
        done_before, self._ended = self._ended, self._ended.union(set(self.agents).difference(alive))
        if back := sorted(done_before.intersection(obs)):
            raise TeamEnvError(f"agent {back[0]!r} has terminated or was truncated, and yet was given an observation.")
        self._go_on(obs, alive)
        if terminated.get(ALL) or truncated.get(ALL):
            self.agents = []
        return obs, rewards, ends, cuts, infos

    def state(self) -> Any:
        """The environment's own state. Raises NotImplementedError if it has none."""
        if not callable(own := getattr(self.env, "state", None)):
            raise NotImplementedError
        return own()

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        if callable(close := getattr(self.env, "close", None)):
            close()

    def _go_on(self, obs: dict[str, Any], alive: list[str]) -> None:
        """Sets who acts next: everyone in `obs` who has not ended. All of `alive` must be there; newcomers may be."""
        if strangers := [agent for agent in obs if agent not in self.ids]:
            raise TeamEnvError(
                f"agent {strangers[0]!r} was given an observation, but is not one of the possible_agents "
                f"{self.possible_agents}; list all that ever appear."
            )
        if blind := [agent for agent in alive if agent not in obs]:
            raise TeamEnvError(
                f"agent {blind[0]!r} is alive but was given no observation, only {list(obs)} were. Environments that "
                "take turns cannot be learned here: give every living agent an observation at every step (to those who "
                "wait, with an action mask that leaves one choice), and set terminateds[agent] for those that leave."
            )
        self.agents = [agent for agent in self.possible_agents if agent in obs and agent not in self._ended]
        self._last = obs


def is_rllib_game(kind: type) -> bool:
    """Whether a class is an RLlib `MultiAgentEnv`."""
    return any((base.__module__, base.__name__) == MULTI_AGENT_ENV for base in kind.__mro__)


def refuse_wrapper(env: Any) -> None:
    """Raises ValueError for RLlib's wrappers, classes or copies of them, that need an environment to wrap."""
    kind = env if isinstance(env, type) else type(env)
    if kind.__module__.startswith(WRAPPERS):
        raise ValueError(
            f"{kind.__name__} wraps an environment, and env runners make copies of their own: hand over the class of "
            f"the environment inside as it is, or a function such as lambda config: {kind.__name__}(MyEnv(**config))."
        )


def takes_config(make: Callable[..., Any], settings: Mapping[str, Any]) -> bool:
    """Whether `make` is called as RLlib does, with one dictionary of settings, rather than with the settings by name.

    So are MultiAgentEnv classes and functions whose first parameter is called config (or alike), or has no default,
    unless the settings name it, or are all named by parameters. Other classes are, as in PettingZoo, called with the
    settings by name, unless they have no `**kwargs` and their first parameter is called config.
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


class Context(dict[str, Any]):
    """Settings of an environment and, as attributes, whose copy it is: RLlib's `EnvContext` where there is no Ray."""


def env_context(settings: Mapping[str, Any], worker: Worker, vector_index: int) -> dict[str, Any]:
    """What an environment of RLlib is made with: its settings, with the fields of `Worker` and `vector_index`.

    An `EnvContext` if RLlib has been loaded, else a `Context`.
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


def _by_name(given: Mapping[Any, Any] | None) -> dict[str, Any]:
    return {str(agent): value for agent, value in (given or {}).items()}
