"""The order of agents: matches an environment's agents by name to the order that a policy was built for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.wrapper import TeamWrapper
from lorasa_rllib.spec import PER_AGENT, TeamSpec

ACTING = ("obs_sizes", "action_kind", "action_sizes", "action_low", "action_high", "choices")
"""Spec fields that an actor depends on."""

TRAINING = (*ACTING, "state_size", "state_per_agent", "shared_reward", "num_roles")
"""Spec fields that actor, critic and rollouts depend on."""

PARTS = re.compile(r"(\D+|^)(\d*)")
"""A run of non-digits and the number that follows it."""


def by_name(agents: Sequence[str]) -> tuple[str, ...]:
    """Agents in natural order of their names, "agent_2" before "agent_10"; the same in every process."""
    return tuple(sorted(agents, key=lambda name: ([(p, int(n or 0)) for p, n in PARTS.findall(name)], name)))


def in_order(
    env: VectorTeamEnv, team: TeamSpec, fields: Sequence[str] = TRAINING, what: str = "the environment"
) -> VectorTeamEnv:
    """`env` with its rows in the order of `team.agents`.

    fields, what: see `check_team`. Raises ValueError, naming the agents and the difference, if the teams differ.
    """
    check_team(env.spec, team, fields, what)
    return env if env.spec.agents == team.agents else env.reordered(team.agents)


def check_team(
    own: TeamSpec, wanted: TeamSpec, fields: Sequence[str] = TRAINING, what: str = "the environment"
) -> None:
    """Raises ValueError if an environment's team differs from the one that a policy was built for.

    fields: spec fields that have to agree, in addition to the agents' names (in any order). what: description of the
    object with the team `own`, for the message.
    """
    check_names(own.agents, wanted.agents, what)
    own = own.in_order(wanted.agents)
    for name in fields:
        mine, theirs = getattr(own, name), getattr(wanted, name)
        if name in ("action_low", "action_high") and list(map(len, mine)) == list(map(len, theirs)):
            same = all(np.allclose(a, b) for a, b in zip(mine, theirs, strict=True))  # up to rounding
        else:
            same = mine == theirs
        if not same:
            whose = f", of agents {_few(wanted.agents)}" if name in PER_AGENT else ""
            raise ValueError(
                f"the policy's {name} are {_few(theirs)}, those of {what} {_few(mine)}{whose}. Use the environment "
                "that the policy was built for."
            )


def check_names(own: Sequence[str], wanted: Sequence[str], what: str = "the environment") -> None:
    """Raises ValueError unless an environment has the agents that a policy was built for, in any order."""
    missing, unknown = [a for a in wanted if a not in own], [a for a in own if a not in wanted]
    if missing or unknown:
        facts = [f"{_few(missing)} missing"] * bool(missing) + [f"{_few(unknown)} unknown to the policy"] * bool(
            unknown
        )
        raise ValueError(
            f"the policy's agents are {_few(wanted)}, those of {what} {_few(own)}: {', '.join(facts)}. Weights belong "
            "to agents by name: use an environment with the same names, or make a policy for the new ones with "
            "lorasa_rllib.policies.teams.team_of."
        )


class OrderedTeam(TeamWrapper):
    """Wraps `env` with its agents in another order."""

    def __init__(self, env: VectorTeamEnv[Any], agents: Sequence[str]):
        super().__init__(env, env.spec.in_order(agents))
        self._row = np.array([env.spec.agents.index(agent) for agent in agents])  # row of each agent in `env`
        self._back = np.argsort(self._row)

    def step(self, actions: Any) -> TeamStep[Any]:
        return super().step(actions[:, self._back])

    def reordered(self, agents: Sequence[str]) -> VectorTeamEnv[Any]:
        return self.env if tuple(agents) == self.env.spec.agents else self.env.reordered(agents)

    def _changed(self, step: TeamStep[Any]) -> TeamStep[Any]:
        row, own_state = self._row, self.spec.state_per_agent
        return replace(
            step,
            obs=step.obs[:, row],
            active=step.active[:, row],
            final_obs=step.final_obs[:, row],
            state=step.state[:, row] if own_state else step.state,
            final_state=step.final_state[:, row] if own_state else step.final_state,
            rewards=step.rewards if self.spec.shared_reward else step.rewards[:, row],
            masks=None if step.masks is None else step.masks[:, row],
            roles=None if step.roles is None else step.roles[:, row],
            left=None if step.left is None else step.left[:, row],
            cut=None if step.cut is None else step.cut[:, row],
            cut_obs=None if step.cut_obs is None else step.cut_obs[:, row],
            cut_state=step.cut_state[:, row] if own_state and step.cut_state is not None else step.cut_state,
        )


def _few(values: object) -> str:
    """The first eight entries of a list, or a single value, as text."""
    if not isinstance(values, tuple | list):
        return repr(values)
    return f"{', '.join(map(repr, values[:8]))}{' ...' if len(values) > 8 else ''}"
