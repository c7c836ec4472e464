"""Registry of environments by name. An environment's module is imported only when requested."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from lorasa_rllib.envs.base import VectorTeamEnv, Worker
from lorasa_rllib.envs.settings import check_names

ENVIRONMENTS = {
    "mamujoco": "lorasa_rllib.envs.mamujoco:MAMuJoCo",
    "pettingzoo": "lorasa_rllib.envs.pettingzoo:PettingZooTeam",
    "smac": "lorasa_rllib.envs.smac:SMACTeam",
    "smacv2": "lorasa_rllib.envs.smacv2:SMACv2Team",
    "smax": "lorasa_rllib.envs.smax:SMAXTeam",
    "synthetic": "lorasa_rllib.envs.synthetic:SyntheticTeam",
    "vmas": "lorasa_rllib.envs.vmas:VMASTeam",
}
"""Environment name -> "module:class"."""


def environment_class(env: object) -> type[VectorTeamEnv]:
    """The class registered as `env`, or `env` itself if it is a VectorTeamEnv class. Raises ValueError otherwise."""
    if isinstance(env, type) and issubclass(env, VectorTeamEnv):
        return env
    if not isinstance(env, str) or env not in ENVIRONMENTS:
        raise ValueError(
            f"environment {env!r} is unknown; use one of {sorted(ENVIRONMENTS)} or a subclass of VectorTeamEnv. A "
            "MultiAgentEnv of RLlib or a ParallelEnv of PettingZoo goes by its class, or by a function that makes it: "
            '.environment("pettingzoo", env_config={"env": YourEnv, ...its settings}).'
        )
    module, _, name = ENVIRONMENTS[env].partition(":")
    return getattr(importlib.import_module(module), name)


def check_settings(kind: type[VectorTeamEnv], env_config: Mapping[str, object]) -> None:
    """Raises ValueError for settings that an environment does not know, and for those that env runners pass on."""
    if taken := [name for name in ("num_envs", "first_seed", "for_worker") if name in env_config]:
        raise ValueError(
            f"env_config must not set {taken[0]!r}, which env runners pass themselves: the number of copies is that of "
            ".env_runners(num_envs_per_env_runner=...), seeds follow from .debugging(seed=...). If it is a setting of "
            "your own environment, give it another name."
        )
    check_names(kind.team_spec, env_config)


def make_environment(
    env: object,
    num_envs: int,
    env_config: Mapping[str, object],
    first_seed: int | None = None,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> VectorTeamEnv:
    """Builds `num_envs` copies of an environment, see `VectorTeamEnv.make`. Raises ValueError for unknown settings."""
    kind = environment_class(env)
    check_settings(kind, env_config)
    return kind.make(num_envs, env_config, first_seed, worker)
