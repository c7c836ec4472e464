"""The team of a config's environment: determined once, then known to all processes by name and order of its agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorasa_rllib.envs.base import VectorTeamEnv, Worker
from lorasa_rllib.envs.keyed import KeyedTeam, with_roles
from lorasa_rllib.envs.known_team import KnownTeam
from lorasa_rllib.rllib.seeds import first_seed
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig


def team_spec(config: TeamConfig) -> TeamSpec:
    """The team of the configured environment, with the roles of an `adapter_key` that is a function."""
    spec = learn_team(config).spec
    return with_roles(spec, num_own_roles(config)) if callable(config.adapter_key) else spec


def learn_team(config: TeamConfig, keep: bool = False, worker: Worker | None = None) -> KnownTeam:
    """The known team behind `team_spec`; determines it if necessary, by building a copy of the environment.

    keep: leave a copy that has to be built open for `environments`. worker: its env runner; None: the driver's. Remote
    env runners take the team over from the driver as it is, and compare their environments with it.
    """
    known = config.known_team
    if known is not None and worker is not None and worker.worker_index:
        # The driver decided the order. Settings that do not equal their own copies must not bring another one.
        known = known.moved_to(config.env, config.env_config)
        know(config, known)
    if known is None or not known.belongs_to(config.env, config.env_config):
        if known is not None:
            known.seen.close()
        worker = worker or worker_of(config)
        known = KnownTeam.of(config.env, config.env_config, first_seed(config.seed), keep, worker)
        know(config, known)
    return known


def know(config: TeamConfig, known: KnownTeam) -> None:
    """Stores the team with the config, also with a frozen one: it follows from settings and is not one itself."""
    config.__dict__["known_team"] = known


def order_agents(config: TeamConfig, agents: Sequence[str]) -> None:
    """Reorders the agents of the team, for example to the order of a checkpoint.

    Tables by position (`groups`, `adapter_key`) become tables by name. Raises ValueError if the names differ.
    """
    known = learn_team(config)
    if known.spec.agents == tuple(agents):
        return
    for table in ("groups", "adapter_key"):
        given = getattr(config, table)
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(known.spec.agents):
            setattr(config, table, dict(zip(known.spec.agents, given, strict=True)))
    know(config, known.in_order(agents))


def environments(config: TeamConfig, seed: int | None = None, worker: Worker | None = None) -> VectorTeamEnv:
    """Builds the environments of an env runner (None: the driver's). seed: passed later to their first `reset`."""
    worker = worker or worker_of(config)
    env = learn_team(config, True, worker).environments(config.num_envs_per_env_runner, seed, worker)
    key = config.adapter_key
    return KeyedTeam(env, key, num_own_roles(config)) if callable(key) else env


def worker_of(config: TeamConfig, index: int = 0, recreated: bool = False) -> Worker:
    """Description of env runner `index` for constructors of environments."""
    return Worker(index, config.num_env_runners, config.num_envs_per_env_runner, recreated, config.in_evaluation)


def num_own_roles(config: TeamConfig) -> int:
    """Number of roles of an `adapter_key` that is a function."""
    if config.num_adapters is None:
        raise ValueError("adapter_key is a function: set num_adapters to the number of adapters it chooses from.")
    return config.num_adapters
