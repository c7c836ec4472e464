"""Units of A2PO's sequential update: which rows a unit owns and which weights it trains.

A unit is an owner: an agent, the agents of a group, or a role. If all agents share everything that trains (PS, the
backbone phase), a unit is an agent, as published, and its steps change the policy of all agents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.rows import AgentPlace, CriticRows, SequencePlace, UnitRows
from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.learning.flat import Leaves, Part
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.passes import Counts, live_rows_of
from lorasa_rllib.nn.policy import Group, TeamPolicy
from lorasa_rllib.nn.rows import index_of, roles_of
from lorasa_rllib.spec import Owners

HIDDEN = (-1, 0)
"""Stands for the hidden states of a recurrent policy, see `Unit.reads`."""


@dataclass(frozen=True)
class Unit(ABC):
    """Agents or roles that are updated together. members: their indices.

    Tables are [..., N], columns [..., n] those of them that hold rows of the unit; `roles` is shaped like the table.
    """

    members: tuple[int, ...]

    @classmethod
    def joined(cls, units: Sequence[Self]) -> Self:
        """Joins several units, of one kind, into one."""
        return type(units[0])(tuple(member for unit in units for member in unit.members))

    @property
    def name(self) -> int:
        """Index of its first agent or role, for logs."""
        return self.members[0]

    @abstractmethod
    def reads(self, policy: TeamPolicy) -> set[tuple[int, int]]:
        """What decides the policy on its rows and changes with some unit's step, as (bank, owner); or `HIDDEN`."""

    @abstractmethod
    def moves(self, policy: TeamPolicy) -> Unit:
        """The unit of all rows whose policy changes when this unit steps, if not all share weights that train."""

    @abstractmethod
    def owner_in(self, table: Sequence[int]) -> int | None:
        """The owner of all its rows, from a table of every agent's owner; None if it has several."""

    @abstractmethod
    def columns(self, table: Tensor) -> Tensor:
        """[..., N] -> [..., n]."""

    @abstractmethod
    def live(self, active: Tensor, roles: Tensor | None) -> Tensor:
        """bool [..., n]: its live rows, from `active`, a table."""

    @abstractmethod
    def put(self, table: Tensor, columns: Tensor, roles: Tensor | None) -> None:
        """Overwrites its rows of a table, in place; rows of other units in the same columns stay."""

    @abstractmethod
    def log_product(self, log_ratio: Tensor, roles: Tensor | None) -> Tensor:
        """[...]: log of the product of its ratios, from a table of their logs."""

    @abstractmethod
    def rows(self, batch: Batch) -> UnitRows:
        """Its rows of a batch, for the actor."""

    @abstractmethod
    def values(self, batch: Batch, counted: Tensor) -> CriticRows:
        """The values that it trains. counted: bool [L, C, V], the values that count for any unit."""

    @abstractmethod
    def counts(self, rows: UnitRows, owners: Owners) -> Counts:
        """Its live rows per owner: "backbone" [G], "adapters" [K]."""


@dataclass(frozen=True)
class AgentUnit(Unit):
    """Agents that are updated together."""

    def reads(self, policy: TeamPolicy) -> set[tuple[int, int]]:
        return {part for agent in self.members for part in enumerate(_owners_of(policy, agent))}

    def moves(self, policy: TeamPolicy) -> Unit:
        mine, agents = self.reads(policy), range(len(policy.config.owners.backbone_of))
        return AgentUnit(tuple(a for a in agents if not mine.isdisjoint(enumerate(_owners_of(policy, a)))))

    def owner_in(self, table: Sequence[int]) -> int | None:
        found = {table[agent] for agent in self.members}
        return found.pop() if len(found) == 1 else None

    def columns(self, table: Tensor) -> Tensor:
        return table.index_select(-1, index_of(self.members, table.device))

    def live(self, active: Tensor, roles: Tensor | None) -> Tensor:
        return self.columns(active)

    def put(self, table: Tensor, columns: Tensor, roles: Tensor | None) -> None:
        table.index_copy_(-1, index_of(self.members, table.device), columns)

    def log_product(self, log_ratio: Tensor, roles: Tensor | None) -> Tensor:
        return self.columns(log_ratio).sum(-1)

    def rows(self, batch: Batch) -> UnitRows:
        place = AgentPlace(index_of(self.members, batch.obs.device))
        return UnitRows.at(place, batch, batch.active, self.members)

    def values(self, batch: Batch, counted: Tensor) -> CriticRows:
        return CriticRows.of_agents(batch, self.members, counted) if batch.per_agent else CriticRows.of(batch, counted)

    def counts(self, rows: UnitRows, owners: Owners) -> Counts:
        roles = None if rows.roles is None else rows.roles.flatten(0, 1)[None]
        found = live_rows_of(owners, rows.active.flatten(0, 1)[None], roles, self.members)
        return {name: counts[0] for name, counts in found.items()}


@dataclass(frozen=True)
class RoleUnit(Unit):
    """Roles that are updated together. Role -1 stands for the rows that use the plain backbone."""

    def reads(self, policy: TeamPolicy) -> set[tuple[int, int]]:
        own = {(0, role) for role in self.members}  # an agent's hidden state carries over when its role changes
        return own | {HIDDEN} if policy.actor.recurrent else own

    def moves(self, policy: TeamPolicy) -> Unit:
        return self

    def owner_in(self, table: Sequence[int]) -> int | None:
        return None

    def columns(self, table: Tensor) -> Tensor:
        return table

    def live(self, active: Tensor, roles: Tensor | None) -> Tensor:
        return active & self._held(roles)

    def put(self, table: Tensor, columns: Tensor, roles: Tensor | None) -> None:
        table.copy_(torch.where(self._held(roles), columns, table))

    def log_product(self, log_ratio: Tensor, roles: Tensor | None) -> Tensor:
        return torch.where(self._held(roles), log_ratio, 0.0).sum(-1)

    def rows(self, batch: Batch) -> UnitRows:
        """The whole sequences in which its roles occur, as recurrent policies need; only its own rows are active."""
        held = self._held(batch.roles)
        place = SequencePlace(held.any(0).flatten().nonzero().squeeze(1), held.shape[2])
        agent = torch.arange(held.shape[2], device=held.device).expand_as(held)
        return UnitRows.at(place, batch, batch.active & held, place.take(agent))

    def values(self, batch: Batch, counted: Tensor) -> CriticRows:
        return CriticRows.of(batch, counted & self._held(batch.roles) if batch.per_agent else counted)

    def counts(self, rows: UnitRows, owners: Owners) -> Counts:
        roles = roles_of(rows.roles).reshape(1, -1, 1)
        found = live_rows_of(owners, rows.active.reshape(1, -1, 1), roles, (0,))  # all agents share one backbone
        return {name: counts[0] for name, counts in found.items()}

    def _held(self, roles: Tensor | None) -> Tensor:
        """bool: rows whose agent holds one of the roles."""
        roles = roles_of(roles)
        return torch.isin(roles, index_of(self.members, roles.device))


def units_of(policy: TeamPolicy) -> list[Unit]:
    """All units of a policy in its current phase."""
    owners = policy.config.owners
    agents = range(len(owners.backbone_of))
    trains = _trains(policy)
    if owners.by_role and trains["adapters"] and owners.num_adapters > 1:
        first = -1 if trains["backbone"] else 0  # in the adapter phase, rows without an adapter train nothing
        return [RoleUnit((role,)) for role in range(first, owners.num_adapters)]
    members: dict[tuple[int, ...], list[int]] = {}
    for agent in agents:
        members.setdefault(_owners_of(policy, agent), []).append(agent)
    if len(members) == 1:
        return [AgentUnit((agent,)) for agent in agents]
    return [AgentUnit(tuple(group)) for group in members.values()]


def moved_by(policy: TeamPolicy, unit: Unit) -> Unit | None:
    """The unit of all rows whose policy changes when `unit` steps; None: all rows."""
    moved = None if _all_share(policy) else unit.moves(policy)
    everyone = AgentUnit(tuple(range(len(policy.config.owners.backbone_of))))
    return None if moved == everyone else moved


def reaching_others(policy: TeamPolicy, units: Sequence[Unit]) -> list[bool]:
    """For each unit, whether its step also changes the policy on rows of another unit."""
    if _all_share(policy):
        return [True] * len(units)
    read = [unit.reads(policy) for unit in units]
    readers = Counter(part for parts in read for part in parts)
    return [any(readers[part] > 1 for part in parts) for parts in read]


def owner_of(policy: TeamPolicy, unit: Unit, group: Group) -> slice | None:
    """The owner of all rows of a unit in the banks of `group`; None if there are several, or no such banks."""
    table = policy.config.owners.of(group)
    one = unit.owner_in(table) if table else None
    return None if one is None else slice(one, one + 1)


def leaves_of(policy: TeamPolicy, optimiser: OwnerAdam, unit: Unit, group: Group) -> Leaves:
    """The weights of the optimiser of `group` that a unit trains, as of its last `arrange`.

    Slices of one owner if all rows of the unit belong to it.
    """
    owner = owner_of(policy, unit, group)
    if owner is None:
        return Leaves(optimiser.parts)
    leaves = Leaves([], owner=owner)
    names = {parameter: name for name, parameter in policy.parameters_of(group).items()}
    for part in optimiser.parts:
        if part.block.owners == 1:
            leaves.whole.append(part)
            continue
        own = {names[p]: p[leaves.owner].detach().requires_grad_() for p in part.block.parameters}  # type: ignore[index]
        leaves.slices.append(Part(part.block, list(own.values())))
        leaves.in_place.update(own)
    return leaves


def _all_share(policy: TeamPolicy) -> bool:
    """Whether some of the weights that train are shared by all agents."""
    owners, trains = policy.config.owners, _trains(policy)
    return (trains["backbone"] and (owners.num_backbones == 1 or owners.banked != ("*",))) or (
        trains["adapters"] and owners.num_adapters == 1
    )


def _trains(policy: TeamPolicy) -> dict[str, bool]:
    return {"backbone": policy.phase != "adapters", "adapters": policy.phase != "backbone"}


def _owners_of(policy: TeamPolicy, agent: int) -> tuple[int, ...]:
    """The agent's owners in the banks that train and have several owners."""
    owners, trains = policy.config.owners, _trains(policy)
    found = []
    if trains["backbone"] and owners.num_backbones > 1:
        found.append(owners.backbone_of[agent])
    if trains["adapters"] and owners.num_adapters > 1 and not owners.by_role:
        found.append(owners.adapter_of[agent])
    return tuple(found)
