"""Roles from a function: an environment whose agents' roles follow from what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import TeamEnvError, TeamStep, VectorTeamEnv
from lorasa_rllib.envs.wrapper import TeamWrapper
from lorasa_rllib.spec import TeamSpec

RoleKey = Callable[[TeamStep], Any]
"""From what E environments show (`obs` [E, N, o], `roles`, `active`, ...) to whole numbers [E, N]: everyone's role."""


class KeyedTeam(TeamWrapper):
    """`env` with the roles that `key` gives its agents, at every reset and step; -1 stands for none.

    Raises TeamEnvError for answers of another shape, or that are not whole numbers below num_roles.
    """

    def __init__(self, env: VectorTeamEnv, key: RoleKey, num_roles: int):
        super().__init__(env, with_roles(env.spec, num_roles))
        self._key = key

    def _changed(self, step: TeamStep) -> TeamStep:
        try:
            roles, shape = np.asarray(self._key(step)), step.active.shape
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
        return replace(step, roles=roles.astype(np.int64))


def with_roles(spec: TeamSpec, num_roles: int) -> TeamSpec:
    """The same team, its agents with one of `num_roles` roles."""
    return replace(spec, num_roles=num_roles)
