"""The team spec (an environment's description of its team) and the owner table (which owner has which slice of a bank).

Imports neither Ray nor torch: environments, networks, learners and files all read it.
Letters used throughout: T steps, E environments, N agents, S features of the global state, d action dimensions,
G backbones, K adapters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from lorasa_rllib.spaces import AgentView, Box, Discrete, view_of

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

ActionKind = Literal["continuous", "discrete"]

PATTERNS, PATTERN = 100, 100
"""Patterns of layers that a setting may have at most, and characters of each: all are compared with every layer."""

PER_AGENT = ("obs_sizes", "action_sizes", "action_low", "action_high", "views", "choices")
"""Fields of `TeamSpec` with one entry per agent; empty where they do not apply."""

WIDEST = 1e15
"""Largest action bound. Larger ones, such as the largest float32, count as unbounded."""


class ActionScale(NamedTuple):
    """Centre, half the range, lower and upper bound of every action dimension, each float32 [N, action_size]."""

    centre: np.ndarray
    half: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def of(self, agents: list[int]) -> ActionScale:
        """The rows of some agents, [n, action_size]."""
        return ActionScale(*(table[agents] for table in self))


def in_units(actions: Array, centre: Array, half: Array, low: Array, high: Array) -> Array:
    """Continuous actions of a policy in the environment's units: clipped to [-1, 1], mapped to the bounds.

    All broadcastable to actions [..., n, d]; the fields of an `ActionScale`. Arrays, or tensors in exported networks.
    """
    mapped: Array = (actions.clip(-1.0, 1.0) * half + centre).clip(low, high)
    return mapped


@dataclass(frozen=True)
class TeamSpec:
    """An environment's description of its team. Plain data: stored in model configs and checkpoints.

    Agents may differ in observation and action size. Arrays are padded to the largest agent; the masks below mark
    the real entries. All agents of a team have continuous actions, or all have discrete ones.

    agents:        ordered names; the position is the agent index, 0 .. N-1.
    obs_sizes:     [N] observation features per agent.
    action_kind:   "continuous" (`action_sizes` counts dimensions) or "discrete" (it counts choices).
    action_sizes:  [N].
    choices:       [N][c_n] number of choices of each component of agent n's discrete actions, summing to
                   `action_sizes[n]`; empty if all actions have a single component.
    action_low, action_high: [N][d_n] bounds in the environment's units; empty for discrete teams.
    state_size:    S, features of the global state that the critic reads.
    state_per_agent: global states are [..., N, S]: every agent has its own view.
    shared_reward: True if one scalar reward goes to the whole team.
    num_roles:     number of roles an agent may hold (0: the environment has no roles).
    has_masks:     True if the environment reports at each step which discrete choices are available.
    id_capacity:   width of the one-hot id; at least N, larger to add agents later. 0 means N.
    views:         [N] spaces of each agent's observations and actions in its environment; empty where these are plain
                   rows and choices as described above.
    state_parts:   (P, ...) if the global state is P flattened arrays of this shape with two axes or more, such as the
                   images of all agents; empty if it is a row of numbers.
    """

    agents: tuple[str, ...]
    obs_sizes: tuple[int, ...]
    action_kind: ActionKind
    action_sizes: tuple[int, ...]
    state_size: int
    action_low: tuple[tuple[float, ...], ...] = ()
    action_high: tuple[tuple[float, ...], ...] = ()
    shared_reward: bool = True
    num_roles: int = 0
    has_masks: bool = False
    id_capacity: int = 0
    state_per_agent: bool = False
    views: tuple[AgentView, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    state_parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.agents)
        if n == 0 or len(set(self.agents)) != n:
            raise ValueError(f"agents={self.agents} must be a non-empty tuple of distinct names.")
        if self.action_kind not in ("continuous", "discrete"):
            raise ValueError(
                f"action_kind={self.action_kind!r} must be 'continuous' or 'discrete'; mixed teams are not supported."
            )
        for name in ("obs_sizes", "action_sizes"):
            sizes = getattr(self, name)
            if len(sizes) != n or min(sizes) < 1:
                raise ValueError(f"{name}={sizes} must hold one positive size for each of the {n} agents.")
        if self.action_kind == "continuous":
            for name in ("action_low", "action_high"):
                if tuple(map(len, getattr(self, name))) != self.action_sizes:
                    raise ValueError(f"{name} must hold one bound per action dimension {self.action_sizes}.")
            low, high = np.concatenate(self.action_low), np.concatenate(self.action_high)
            if not ((np.abs([low, high]) <= WIDEST).all() and (low <= high).all()):
                raise ValueError(
                    f"action bounds must be finite, from -{WIDEST:g} to {WIDEST:g} with low <= high in every dimension."
                )
        if self.choices and (
            self.continuous or tuple(map(sum, self.choices)) != self.action_sizes or min(map(min, self.choices)) < 1
        ):
            raise ValueError(f"choices={self.choices} must split the discrete action_sizes={self.action_sizes}.")
        if all(len(components) == 1 for components in self.choices):
            object.__setattr__(self, "choices", ())
        if self.views and (
            tuple(view.obs_size for view in self.views) != self.obs_sizes
            or tuple(view.action_size for view in self.views) != self.action_sizes
            or {view.acts.kind for view in self.views} != {self.action_kind}
        ):
            raise ValueError(f"views of agents {self.agents} contradict their sizes or kind of actions.")
        if self.state_size < 1:
            raise ValueError(f"state_size={self.state_size} must be at least 1; use the concatenated observations.")
        if self.state_parts and (math.prod(self.state_parts) != self.state_size or self.state_per_agent):
            raise ValueError(f"state_parts={self.state_parts} must have state_size={self.state_size} entries.")
        if self.id_capacity == 0:
            object.__setattr__(self, "id_capacity", n)
        if self.id_capacity < n:
            raise ValueError(f"id_capacity={self.id_capacity} must be at least the number of agents, {n}.")

    @property
    def num_agents(self) -> int:
        return len(self.agents)

    @property
    def continuous(self) -> bool:
        return self.action_kind == "continuous"

    @property
    def obs_size(self) -> int:
        """Width of padded observation arrays."""
        return max(self.obs_sizes)

    @cached_property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of every agent's observation in its space, [H, W, C] of an image; (obs_size,) unless all are equal."""
        shapes = {view.sees.shape if isinstance(view.sees, Box) else () for view in self.views}
        shape = shapes.pop() if len(shapes) == 1 else ()
        return shape if len(shape) > 1 and math.prod(shape) == self.obs_size else (self.obs_size,)

    @property
    def obs_dtype(self) -> str:
        """Type of the numbers in observations of `obs_shape`, as the environment gives them."""
        sees = self.views[0].sees if self.views else None
        return sees.dtype if isinstance(sees, Box) and len(self.obs_shape) > 1 else "float32"

    @property
    def action_size(self) -> int:
        """Width of the policy head and of masks: padded number of action dimensions or choices."""
        return max(self.action_sizes)

    @property
    def action_dims(self) -> int:
        """Width d of action and log-probability arrays: `action_size` if continuous, components if discrete."""
        return self.action_size if self.continuous else max(map(len, self.choices), default=1)

    @property
    def reward_width(self) -> int:
        """R: 1 for a shared reward, N otherwise."""
        return 1 if self.shared_reward else self.num_agents

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one environment's global state: [S], or [N, S] if every agent has its own view."""
        return (self.num_agents, self.state_size) if self.state_per_agent else (self.state_size,)

    def obs_mask(self) -> np.ndarray:
        """bool [N, obs_size], False for padding."""
        return _real_entries(self.obs_sizes)

    def action_mask(self) -> np.ndarray:
        """bool [N, action_size] over action dimensions or choices, False for padding."""
        return _real_entries(self.action_sizes)

    def dims_mask(self) -> np.ndarray:
        """bool [N, d] over entries of actions and log-probabilities, False for padding."""
        return self.action_mask() if self.continuous else _real_entries(list(map(len, self._components)))

    def choice_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Index of each component's choices in a row of choices, int64 [N, d, m], and whether they exist, bool.

        The index is 0 where an agent lacks the component or choice. m is the largest number of choices.
        """
        shape = (self.num_agents, self.action_dims, self.component_size)
        place, real = np.zeros(shape, np.int64), np.zeros(shape, bool)
        for n, components in enumerate(self._components):
            first = 0
            for c, size in enumerate(components):
                place[n, c, :size], real[n, c, :size] = np.arange(first, first + size), True
                first += size
        return place, real

    def first_choices(self) -> np.ndarray:
        """bool [N, action_size]: the first choice of each component, a mask for agents without available choices."""
        place, real = self.choice_table()
        first = np.zeros((self.num_agents, self.action_size), bool)
        agent, component = np.nonzero(real[..., 0])
        first[agent, place[agent, component, 0]] = True
        return first

    def can_choose(self, masks: np.ndarray) -> np.ndarray:
        """bool [..., N]: whether masks, bool [..., N, action_size], leave a choice in every component."""
        if not self.choices:
            return np.asarray(masks.any(-1))
        place, real = self.choice_table()
        rows = np.arange(self.num_agents)[:, None, None]
        return np.asarray(((masks[..., rows, place] & real).any(-1) | ~real.any(-1)).all(-1))

    @property
    def component_size(self) -> int:
        """The largest number of choices of a component."""
        return max(map(max, self._components))

    @property
    def _components(self) -> tuple[tuple[int, ...], ...]:
        return self.choices or tuple((size,) for size in self.action_sizes)

    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds, float32 [N, action_size]; padded dimensions get -1 and 1.

        Rounded inwards, so actions within them are within the environment's bounds. (If no float32 lies between those,
        both bounds are the nearest one.)
        """
        low = np.full((self.num_agents, self.action_size), -1.0)
        high = np.full((self.num_agents, self.action_size), 1.0)
        mask = self.action_mask()
        low[mask], high[mask] = np.concatenate(self.action_low), np.concatenate(self.action_high)
        above, below = low.astype(np.float32), high.astype(np.float32)
        above = np.where(above < low, np.nextafter(above, np.float32(np.inf)), above)
        below = np.where(below > high, np.nextafter(below, np.float32(-np.inf)), below)
        none, middle = above > below, ((low + high) / 2).astype(np.float32)
        return np.where(none, middle, above), np.where(none, middle, below)

    def to_environment(self, actions: np.ndarray, agents: Sequence[int] | None = None) -> np.ndarray:
        """Actions of the policy [..., N, d] in the environment's units: clipped to [-1, 1] and mapped to the bounds.

        Discrete choices [..., N, 1] lose their last axis; choices with several components are returned unchanged.
        agents: indices of the agents on axis N; None: the whole team.
        """
        if not self.continuous:
            return actions if self.choices else actions[..., 0]
        if self.unscaled:
            return actions.clip(-1.0, 1.0)
        return in_units(actions, *(self.action_scale if agents is None else self.action_scale.of(list(agents))))

    @cached_property
    def starts(self) -> np.ndarray | None:
        """The environment's smallest choices, int64 [N] or [N, components]; None if all start at 0."""
        starts = np.zeros((self.num_agents, self.action_dims), np.int64)
        for row, view in zip(starts, self.views, strict=False):
            start = np.atleast_1d(getattr(view.acts, "start", 0))
            row[: len(start)] = start
        return None if not starts.any() else starts if self.choices else starts[:, 0]

    def action_of(self, agent: int, row: Any) -> Any:
        """One agent's action from its row of the team's actions, in the agent's space if that is known.

        row: [..., d] in the environment's units; or choices, [...] or [..., components], counted from 0.
        """
        own = row
        if self.continuous:
            own = row[..., : self.action_sizes[agent]]
        elif self.choices:
            several = self.views and not isinstance(self.views[agent].acts, Discrete)
            own = row[..., : len(self.choices[agent])] if several or not self.views else row[..., 0]
        return self.views[agent].acts.action(own) if self.views else own

    @cached_property
    def action_scale(self) -> ActionScale:
        """The environment's units, see `in_units`."""
        low, high = self.action_bounds()
        return ActionScale((low + high) / 2, (high - low) / 2, low, high)

    @cached_property
    def unscaled(self) -> bool:
        """Whether all bounds are -1 and 1."""
        return bool((self.action_scale.half == 1).all() and (self.action_scale.centre == 0).all())

    def in_order(self, agents: Sequence[str]) -> TeamSpec:
        """The same team with its agents reordered; `agents` lists all of their names."""
        at = [self.agents.index(agent) for agent in agents]
        return replace(self, agents=tuple(agents), **self.per_agent(at))

    def per_agent(self, at: Sequence[int]) -> dict[str, Any]:
        """The fields of `PER_AGENT` for the agents at these indices."""
        return {name: tuple(entries[n] for n in at) for name in PER_AGENT if (entries := getattr(self, name))}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeamSpec:
        return _from_dict(cls, {**data, "views": tuple(map(view_of, data.get("views", ())))})


@dataclass(frozen=True)
class Owners:
    """Which backbone, adapter and critic each agent uses: a sharing method as data. Stored in every checkpoint.

    method:       name of the sharing method that made this table, for people and files.
    backbone_of:  [N] index of each agent's backbone, 0 .. G-1.
    adapter_of:   [N] index of each agent's adapter, 0 .. K-1; empty without adapters or if routed by role.
    critic_of:    [N] index of each agent's critic, 0 .. C-1; empty: one critic for all.
    banked:       patterns (fnmatch) of the layers with one weight per backbone; every other layer has a single one.
    routed_by:    "agent": adapters follow `adapter_of`; "role": the role column of the data is the adapter index.
    num_adapters: K; 0: as many as `adapter_of` uses. Larger leaves spare adapters.
    """

    method: str
    backbone_of: tuple[int, ...]
    adapter_of: tuple[int, ...] = ()
    critic_of: tuple[int, ...] = field(default=())
    banked: tuple[str, ...] = ("*",)
    routed_by: Literal["agent", "role"] = "agent"
    num_adapters: int = 0

    def __post_init__(self) -> None:
        n = len(self.backbone_of)
        check_patterns("banked", self.banked)
        if not self.critic_of:
            object.__setattr__(self, "critic_of", (0,) * n)
        if self.adapter_of and not self.num_adapters:
            object.__setattr__(self, "num_adapters", max(self.adapter_of) + 1)
        for name in ("backbone_of", "critic_of"):
            owners = getattr(self, name)
            if len(owners) != n or sorted(set(owners)) != list(range(len(set(owners)))):
                raise ValueError(f"{name}={owners} must give each of the {n} agents an owner from 0 without gaps.")
        if self.adapter_of and (
            len(self.adapter_of) != n or min(self.adapter_of) < 0 or max(self.adapter_of) >= self.num_adapters
        ):
            raise ValueError(
                f"adapter_of={self.adapter_of} must give each of the {n} agents one of {self.num_adapters}."
            )
        if self.routed_by == "role" and not self.num_adapters:
            raise ValueError("routed_by='role' needs num_adapters, one adapter per role.")

    @property
    def by_role(self) -> bool:
        """True if rows find their adapter by role, a column of the data; False if by agent."""
        return self.routed_by == "role"

    def of(self, group: Literal["backbone", "adapters", "critic"]) -> tuple[int, ...]:
        """[N] owner of each agent's parameters in a group; empty if it has none, or if it depends on the role."""
        return {"backbone": self.backbone_of, "adapters": self.adapter_of, "critic": self.critic_of}[group]

    def users(self) -> list[list[int]]:
        """[K] agents that use each adapter, as far as it is known without roles: nobody if rows are routed by role."""
        return [[n for n, own in enumerate(self.adapter_of) if own == k] for k in range(self.num_adapters)]

    @property
    def num_backbones(self) -> int:
        return max(self.backbone_of) + 1

    @property
    def num_critics(self) -> int:
        return max(self.critic_of) + 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Owners:
        return _from_dict(cls, data)


def check_patterns(setting: str, patterns: Collection[str]) -> None:
    """Raises ValueError for more or longer patterns than any network has layers for."""
    if len(patterns) > PATTERNS:
        raise ValueError(f"{setting} has {len(patterns):,} patterns, and {PATTERNS} are the most: use * in them.")
    for pattern in patterns:
        if len(pattern) > PATTERN:
            facts = f"has {len(pattern):,} characters, and {PATTERN} is the most."
            raise ValueError(f"{setting}: {pattern[:20]!r}... {facts}")


def _real_entries(sizes: Sequence[int]) -> np.ndarray:
    return np.arange(max(sizes))[None, :] < np.asarray(sizes)[:, None]


def _from_dict(cls: Any, data: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    if unknown := set(data) - known:
        raise ValueError(f"{cls.__name__} does not know {sorted(unknown)}; it was written by another version.")
    return cls(**{name: _tuples(value) for name, value in data.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
