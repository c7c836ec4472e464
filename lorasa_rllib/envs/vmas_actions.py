"""Actions of the agents of VMAS: from a team's array to what every agent does, for all agents at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vmas.simulator.core import Agent, World


class ActionTable:
    """Sets the actions of `agents` in `world`. kind: "continuous", "discrete" or "components".

    An agent acts physically, in `action_size` numbers within +-`u_range`, and speaks in the world's `dim_c` numbers
    between 0 and 1, unless it is silent. Discrete physical components have as many choices as `discrete_action_nvec`
    says, evenly spaced, the first of an odd number being 0; what is spoken is one of `dim_c` words.
    """

    def __init__(self, world: World, agents: Sequence[Agent], kind: str):
        self._world, self._agents, self._kind = world, agents, kind
        self._sizes = [int(agent.action_size) for agent in agents]
        self._words = [0 if agent.silent else int(world.dim_c) for agent in agents]
        if kind == "continuous":
            widths = [size + words for size, words in zip(self._sizes, self._words, strict=True)]
            self._multiplier = torch.ones(len(agents), max(widths), device=world.device)
            for n, agent in enumerate(agents):
                self._multiplier[n, : self._sizes[n]] = agent.action.u_multiplier_tensor
        else:
            self._set_tables()

    def spec(self) -> dict[str, Any]:
        """The fields of `TeamSpec` about actions."""
        if self._kind != "continuous":
            choices = [self._choices(n) for n in range(len(self._agents))]
            if self._kind == "components":
                return {"action_kind": "discrete", "choices": tuple(map(tuple, choices)),
                        "action_sizes": tuple(map(sum, choices))}  # fmt: skip
            return {"action_kind": "discrete", "action_sizes": tuple(map(prod, choices))}
        ranges = [agent.action.u_range_tensor.tolist() for agent in self._agents]
        return {
            "action_kind": "continuous",
            "action_sizes": tuple(size + words for size, words in zip(self._sizes, self._words, strict=True)),
            "action_low": tuple(
                tuple(-u for u in of_agent) + (0.0,) * words
                for of_agent, words in zip(ranges, self._words, strict=True)
            ),
            "action_high": tuple(
                tuple(of_agent) + (1.0,) * words for of_agent, words in zip(ranges, self._words, strict=True)
            ),
        }

    def act(self, actions: Tensor) -> None:
        """Sets the actions of all agents: float [E, N, d], or choices int64 [E, N] or [E, N, components]."""
        if self._kind == "continuous":
            done = actions * self._multiplier
        else:
            if self._kind == "components" and actions.dim() == 3:
                actions = (actions * self._places).sum(-1)
            done = self._done[self._who, actions]
        for n, agent in enumerate(self._agents):
            size = self._sizes[n]
            u = done[:, n, :size]
            if agent.action.u_noise > 0:
                u = u + torch.randn(*u.shape, device=self._world.device, dtype=torch.float32) * agent.u_noise
            agent.action.u = u
            if self._words[n]:
                c = done[:, n, size : size + self._words[n]]
                if agent.c_noise > 0:
                    c = c + torch.randn(*c.shape, device=self._world.device, dtype=torch.float32) * agent.c_noise
                agent.action.c = c

    def _choices(self, n: int) -> list[int]:
        """Number of choices of each component of agent n."""
        return [*map(int, self._agents[n].discrete_action_nvec), *([self._words[n]] if self._words[n] else [])]

    def _set_tables(self) -> None:
        """What every combination of choices does, [N, combinations, d], and the places of components in its number."""
        agents, device = self._agents, self._world.device
        choices = [self._choices(n) for n in range(len(agents))]
        width = max(size + words for size, words in zip(self._sizes, self._words, strict=True))
        self._done = torch.zeros(len(agents), max(map(prod, choices)), width, device=device)
        self._places = torch.zeros(len(agents), max(map(len, choices)), dtype=torch.int64, device=device)
        self._who = torch.arange(len(agents), device=device)
        for n, agent in enumerate(agents):
            size, words = self._sizes[n], self._words[n]
            columns = [
                _values(int(k), agent.action.u_range_tensor[i]) * agent.action.u_multiplier_tensor[i]
                for i, k in enumerate(agent.discrete_action_nvec)
            ]
            for row, combination in zip(self._done[n], product(*map(range, choices[n])), strict=False):
                for i, choice in enumerate(combination[:size]):
                    row[i] = columns[i][choice]
                if words:
                    row[size + combination[-1]] = 1.0
            for i in range(len(choices[n])):
                self._places[n, i] = prod(choices[n][i + 1 :])


def _values(choices: int, most: Tensor) -> Tensor:
    """The package's physical actions of a component, [choices], between -most and most."""
    place = torch.arange(choices, device=most.device)
    if choices % 2:  # the first choice is 0
        place = torch.where(place == 0, choices // 2, torch.where(place <= choices // 2, place - 1, place))
    return place / (choices - 1) * (2 * most) - most
