"""The team of an environment, determined once; later builds of the environment use the same order of agents."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import VectorTeamEnv, Worker
from lorasa_rllib.envs.ordered import check_names, in_order
from lorasa_rllib.envs.registry import check_settings, environment_class, make_environment
from lorasa_rllib.spec import TeamSpec


class Seen:
    """What this process knows about a team. Shared by copies of a config; empty in other processes.

    checked: whether an environment built in this process had this team.
    """

    def __init__(self) -> None:
        self.checked = False
        self._env: VectorTeamEnv | None = None
        self._closes: weakref.finalize | None = None

    def keep(self, env: VectorTeamEnv) -> None:
        """Keeps an environment open for `take`; it is closed when this object is garbage-collected."""
        self.close()
        self._env, self._closes = env, weakref.finalize(self, env.close)

    def take(self) -> VectorTeamEnv | None:
        """Releases the kept environment to the caller, who must close it; None if there is none."""
        env, self._env = self._env, None
        if self._closes is not None:
            self._closes.detach()
        return env

    def close(self) -> None:
        env = self.take()
        if env is not None:
            env.close()

    def __deepcopy__(self, memo: object) -> Seen:
        return self

    def __reduce__(self) -> tuple[type[Seen], tuple[()]]:
        return Seen, ()


@dataclass(frozen=True)
class KnownTeam:
    """The team of the environment `env` under `env_config`; array rows follow the order of `spec.agents`."""

    env: object
    env_config: dict[str, object]
    spec: TeamSpec
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        env: object,
        env_config: Mapping[str, object],
        first_seed: int | None = None,
        keep: bool = False,
        worker: Worker = Worker(),  # noqa: B008 - frozen
    ) -> KnownTeam:
        """Determines the team. If this requires building an environment, it is closed afterwards.

        keep: leave it open for `environments` instead. first_seed, worker: see `VectorTeamEnv.make`.
        """
        kind, seen = environment_class(env), Seen()
        check_settings(kind, env_config)
        if kind.spec_needs_copy:
            one = kind.make(1, env_config, first_seed, worker)
            spec = one.spec
            if keep:
                seen.keep(one)
            else:
                one.close()
        else:
            spec = kind.team_spec(**env_config)
        seen.checked = True
        return cls(env, _snapshot(env_config), spec, seen)

    def belongs_to(self, env: object, env_config: Mapping[str, object]) -> bool:
        """Whether this is the team of `env` under `env_config`."""
        return _same(self.env, env) and _same(self.env_config, env_config)

    def moved_to(self, env: object, env_config: Mapping[str, object]) -> KnownTeam:
        """The same team for an environment with other settings, not yet checked against it."""
        return self if self.belongs_to(env, env_config) else KnownTeam(env, _snapshot(env_config), self.spec)

    def in_order(self, agents: Sequence[str]) -> KnownTeam:
        """The team with its agents in another order. Raises ValueError if the names differ."""
        check_names(self.spec.agents, agents)
        return replace(self, spec=self.spec.in_order(agents))

    def environments(
        self,
        num_envs: int,
        first_seed: int | None = None,
        worker: Worker = Worker(),  # noqa: B008 - frozen
    ) -> VectorTeamEnv:
        """`num_envs` copies with rows in the team's order, reusing a kept one; see `VectorTeamEnv.make`.

        Raises ValueError, naming the agents, if the environment has another team.
        """
        env = self.seen.take() or make_environment(self.env, num_envs, self.env_config, first_seed, worker)
        try:
            env.grow(num_envs)
            env = in_order(env, self.spec)
        except BaseException:
            env.close()
            raise
        self.seen.checked = True
        return env

    def check(self) -> None:
        """Raises ValueError if the environment has another team. Builds a copy unless already checked."""
        if not self.seen.checked:
            self.environments(1).close()

    def __deepcopy__(self, memo: dict[int, object]) -> KnownTeam:
        return KnownTeam(deepcopy(self.env, memo), deepcopy(self.env_config, memo), self.spec, self.seen)


def _snapshot(settings: object) -> Any:
    """Copies nested dictionaries and lists; the other objects in them are shared."""
    if isinstance(settings, Mapping):
        return {name: _snapshot(value) for name, value in settings.items()}
    return [_snapshot(value) for value in settings] if isinstance(settings, list) else settings


def _same(one: object, other: object) -> bool:
    """Whether settings are equal; they may contain arrays and arbitrary objects."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        if isinstance(one, float | np.floating) and one != one:  # NaN, which loses its identity when it is pickled
            return type(one) is type(other) and bool(other != other)
        return type(one) is type(other) and bool(np.all(one == other))
    except (TypeError, ValueError):
        return False
