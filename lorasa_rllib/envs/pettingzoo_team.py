"""The team of a PettingZoo environment: what its spaces and its first reset show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import gymnasium
import numpy as np

from lorasa_rllib.envs.action_masks import given_masks, write_mask
from lorasa_rllib.envs.pettingzoo_answers import Answer, Game, own_state
from lorasa_rllib.envs.pettingzoo_spaces import observe, view_from
from lorasa_rllib.envs.settings import whole_number
from lorasa_rllib.spaces import AgentView, Box
from lorasa_rllib.spec import TeamSpec


def team_of_game(
    game: Game,
    agents: Sequence[object],
    shown: tuple[Answer, Answer],
    env: object,
    team_reward: str | None,
    id_capacity: int,
) -> tuple[TeamSpec, list[AgentView], bool]:
    """Returns the spec, a view per agent, and whether the environment has its own global state.

    agents: the environment's ids. shown: observations and infos returned by reset().
    """
    if team_reward not in (None, "mean", "sum"):
        raise ValueError(f"team_reward={team_reward!r} must be 'mean', 'sum' or None.")
    obs, infos = shown
    views = [
        view_from(agent, _space(game, "observation_space", agent), _space(game, "action_space", agent))
        for agent in agents
    ]
    masked = False
    for agent, view in zip(agents, views, strict=True):
        if agent in obs:  # report a mismatch with the space here rather than in an env runner
            info = infos.get(agent)
            observe(view, agent, obs[agent], np.zeros(view.obs_size, np.float32))
            write_mask(
                view,
                agent,
                obs[agent],
                info,
                np.zeros(view.action_size, bool) if view.acts.kind == "discrete" else None,
            )
            masked |= bool(given_masks(obs[agent], info))
    kinds = {view.acts.kind for view in views}
    if len(kinds) > 1:
        raise ValueError(
            f"env={env!r} has agents with discrete and with continuous actions; teams must be of one kind."
        )
    state = own_state(game)
    continuous = kinds == {"continuous"}
    spec = TeamSpec(
        agents=tuple(map(str, agents)),
        obs_sizes=tuple(view.obs_size for view in views),
        action_kind="continuous" if continuous else "discrete",
        action_sizes=tuple(view.action_size for view in views),
        action_low=tuple(view.acts.low for view in views if isinstance(view.acts, Box)),
        action_high=tuple(view.acts.high for view in views if isinstance(view.acts, Box)),
        state_size=sum(view.obs_size for view in views) if state is None else state.size,
        shared_reward=team_reward is not None,
        has_masks=masked or any(view.masked for view in views),
        id_capacity=whole_number("id_capacity", id_capacity),
        views=tuple(views),
        choices=tuple(view.acts.choices for view in views if not isinstance(view.acts, Box)),
    )
    parts = (len(agents), *spec.obs_shape) if state is None else (1, *state.shape)
    spec = replace(spec, state_parts=parts if len(parts) > 2 else ())
    return spec, views, state is not None


def _space(game: Game, which: str, agent: object) -> gymnasium.Space:
    """The space of one agent. Raises ValueError if the environment does not define it."""
    try:
        return getattr(game, which)(agent)
    except (AttributeError, KeyError, TypeError) as problem:
        raise ValueError(
            f"the environment has no {which} of agent {agent!r} ({type(problem).__name__}: {problem}). Define both "
            "spaces for every agent in possible_agents."
        ) from problem
