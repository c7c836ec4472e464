"""Roles computed by a user's function from each step of an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lorasa_rllib.envs.arrays import arrays_of
from lorasa_rllib.envs.base import TeamEnvError, TeamStep, VectorTeamEnv
from lorasa_rllib.envs.wrapper import TeamWrapper
from lorasa_rllib.spec import TeamSpec

RoleKey = Callable[[TeamStep], object]
"""Maps a step of E environments (`obs` [E, N, o], `roles`, `active`, ...) to the agents' roles, integers [E, N]."""


class KeyedTeam(TeamWrapper):
    """Wraps `env` so that `key` assigns the roles at every reset and step; -1 means no role.

    `key` is given NumPy arrays, also if the environment computes on another device.
    Raises TeamEnvError if the result has another shape or contains anything but integers below num_roles.
    """

    def __init__(self, env: VectorTeamEnv[Any], key: RoleKey, num_roles: int):
        super().__init__(env, with_roles(env.spec, num_roles))
        self._key = key

    def _changed(self, step: TeamStep[Any]) -> TeamStep[Any]:
        try:
            roles, shape = np.asarray(self._key(step.on_host())), tuple(step.active.shape)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise TeamEnvError(f"the function given as adapter_key raised {what}") from error
        if roles.shape != shape or roles.dtype.kind not in "biu":
            raise TeamEnvError(
                f"the function given as adapter_key answered {roles.dtype} {list(roles.shape)}; it must give a whole "
                f"number for each of {shape[1]} agents in {shape[0]} environments, {list(shape)}."
            )
        if roles.max() >= self.spec.num_roles:
            raise TeamEnvError(
                f"the function given as adapter_key answered {roles.max()}, but num_adapters={self.spec.num_roles}; "
                "raise num_adapters, or answer -1 for agents without an adapter."
            )
        return replace(step, roles=arrays_of(self.device).of_host(roles.astype(np.int64)))


def with_roles(spec: TeamSpec, num_roles: int) -> TeamSpec:
    """The same team with `num_roles` roles."""
    return replace(spec, num_roles=num_roles)
