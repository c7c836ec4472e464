"""Units of A2PO's sequential update: which rows a unit owns and which weights it trains.

A unit is an owner: an agent, the agents of a group, or a role. If all agents share everything that trains (PS, the
backbone phase), a unit is an agent, as published, and its steps change the policy of all agents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.learning.flat import Leaves, Part
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.policy import Group, TeamPolicy


@dataclass(frozen=True)
class Unit:
    """Agents, or roles if routed by role, that are updated together.

    Role -1 stands for the rows that use the plain backbone.
    """

    agents: tuple[int, ...] = ()
    roles: tuple[int, ...] = ()

    @classmethod
    def joined(cls, units: Sequence[Unit]) -> Unit:
        """Joins several units into one."""
        return cls(tuple(a for u in units for a in u.agents), tuple(r for u in units for r in u.roles))

    @property
    def name(self) -> int:
        """Index of its first agent or role, for logs."""
        return (self.agents or self.roles)[0]


def units_of(policy: TeamPolicy) -> list[Unit]:
    """All units of a policy in its current phase."""
    owners = policy.config.owners
    agents = range(len(owners.backbone_of))
    trains = _trains(policy)
    if owners.routed_by == "role" and trains["adapters"] and owners.num_adapters > 1:
        first = -1 if trains["backbone"] else 0  # in the adapter phase, rows without an adapter train nothing
        return [Unit(roles=(role,)) for role in range(first, owners.num_adapters)]
    keys = [_owners_of(policy, agent) for agent in agents]
    if len(set(keys)) == 1:
        return [Unit(agents=(agent,)) for agent in agents]
    members: dict[Any, list[int]] = {}
    for agent, key in zip(agents, keys, strict=True):
        members.setdefault(key, []).append(agent)
    return [Unit(agents=tuple(group)) for group in members.values()]


def moved_by(policy: TeamPolicy, unit: Unit) -> tuple[int, ...] | None:
    """The agents whose policy changes when the unit steps; None: all of them. For roles: () if only their own rows."""
    owners = policy.config.owners
    if _all_share(policy):
        return None
    if unit.roles:
        return ()
    mine = [_owners_of(policy, agent) for agent in unit.agents]
    banks = range(len(mine[0]))
    touched = [{key[bank] for key in mine} for bank in banks]
    agents = range(len(owners.backbone_of))
    moved = tuple(a for a in agents if any(_owners_of(policy, a)[bank] in touched[bank] for bank in banks))
    return None if len(moved) == len(agents) else moved


def reaching_others(policy: TeamPolicy, units: Sequence[Unit]) -> list[bool]:
    """For each unit, whether its step also changes the policy on rows of another unit.

    Units of agents do so if they train a weight in common; units of roles do so in recurrent policies, where an agent's
    hidden state carries over when its role changes.
    """
    if _all_share(policy) or (policy.actor.recurrent and any(unit.roles for unit in units)):
        return [True] * len(units)
    held = [{part for agent in unit.agents for part in enumerate(_owners_of(policy, agent))} for unit in units]
    holders = Counter(part for parts in held for part in parts)
    return [any(holders[part] > 1 for part in parts) for parts in held]


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
    if trains["adapters"] and owners.num_adapters > 1 and owners.routed_by == "agent":
        found.append(owners.adapter_of[agent])
    return tuple(found)


def leaves_of(policy: TeamPolicy, optimiser: OwnerAdam, unit: Unit, group: Group) -> Leaves:
    """The weights of the optimiser of `group` that a unit trains, as of its last `arrange`."""
    owners = policy.config.owners
    table = {"backbone": owners.backbone_of, "adapters": owners.adapter_of, "critic": owners.critic_of}[group]
    mine = {table[agent] for agent in unit.agents} if table else set()
    if len(mine) != 1:
        return Leaves(optimiser.parts)
    (one,) = mine
    leaves = Leaves([], owner=slice(one, one + 1))
    names = {parameter: name for name, parameter in policy.parameters_of(group).items()}
    for part in optimiser.parts:
        if part.block.owners == 1:
            leaves.whole.append(part)
            continue
        own = {names[p]: p[leaves.owner].detach().requires_grad_() for p in part.block.parameters}  # type: ignore[index]
        leaves.slices.append(Part(part.block, list(own.values())))
        leaves.in_place.update(own)
    return leaves


@dataclass
class UnitRows:
    """The rows of a unit, for the actor. Names as in `Batch`.

    agent: the agents of the rows, as for `Actor.unroll`. active: live rows of this unit. sequences: if routed by role,
    int64 indices into [C * N], one sequence of one agent each; otherwise None. Set before each step, shaped like
    `active`: advantages, standardised, and others, the clipped product of the other units' ratios.
    """

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    masks: Tensor | None
    roles: Tensor | None
    state: Tensor | None
    keep: Tensor | None
    agent: Any
    sequences: Tensor | None = None
    advantages: Any = None
    others: Any = None

    def inputs(self) -> dict[str, Any]:
        """Arguments of the actor other than `obs`."""
        names = ("masks", "roles", "state", "keep", "agent")
        return {name: getattr(self, name) for name in names}


@dataclass
class CriticRows:
    """The rows of a unit, for the critic. agents: those whose values it trains (None: all).

    counted: bool, shaped like `values`, True for those that count in the loss.
    """

    state: Tensor
    hidden: Tensor | None
    keep: Tensor | None
    values: Tensor
    returns: Tensor
    targets: Tensor
    counted: Tensor
    agents: tuple[int, ...] | None


def rows_of(batch: Batch, unit: Unit) -> UnitRows:
    """Selects the rows of a unit; for roles, the whole sequences in which they occur, as recurrent policies need."""
    if unit.agents:
        at = torch.tensor(unit.agents, device=batch.obs.device)
        columns = _selected(batch, lambda column: column.index_select(2, at), lambda state: state.index_select(1, at))
        return UnitRows(**columns, keep=batch.keep, agent=unit.agents)
    held = _held(batch, unit)
    where = held.any(0).flatten().nonzero().squeeze(1)

    def pick(column: Tensor) -> Tensor:
        return column.flatten(1, 2).index_select(1, where)

    columns = _selected(batch, pick, lambda state: state.flatten(0, 1).index_select(0, where))
    columns["active"] = columns["active"] & pick(held)
    keep = None if batch.keep is None else pick(batch.keep.expand_as(held))
    agent = torch.arange(held.shape[2], device=held.device).expand_as(held)
    return UnitRows(**columns, keep=keep, agent=pick(agent), sequences=where)


def critic_rows_of(batch: Batch, unit: Unit, counted: Tensor) -> CriticRows:
    """Selects the values that a unit trains. counted: bool [L, C, V], the values that count for any unit."""
    own = batch.values.shape[2] == batch.active.shape[2]  # a value per agent
    hidden, keep = batch.critic_state, batch.keep
    if not own or unit.roles:
        counted = counted & _held(batch, unit) if own else counted
        return CriticRows(batch.state, hidden, keep, batch.values, batch.returns, batch.targets, counted, None)
    at = torch.tensor(unit.agents, device=batch.obs.device)
    columns = batch.values, batch.returns, batch.targets, counted
    values, returns, targets, counted = (column.index_select(2, at) for column in columns)
    state = batch.state.index_select(2, at) if batch.state.dim() == batch.obs.dim() else batch.state
    hidden = None if hidden is None else hidden.index_select(1, at)
    return CriticRows(state, hidden, keep, values, returns, targets, counted, unit.agents)


def product_of(log_ratio: Tensor, batch: Batch, unit: Unit) -> Tensor:
    """[L, C]: log of the product of the unit's ratios, from log_ratio [L, C, N]."""
    if unit.agents:
        return log_ratio[..., list(unit.agents)].sum(-1)
    return torch.where(_held(batch, unit), log_ratio, 0.0).sum(-1)


def _held(batch: Batch, unit: Unit) -> Tensor:
    """bool [L, C, N]: rows whose agent holds one of the unit's roles."""
    assert batch.roles is not None
    return torch.isin(batch.roles, torch.tensor(unit.roles, device=batch.roles.device))


def _selected(batch: Batch, pick: Callable[[Tensor], Tensor], first: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: None if getattr(batch, name) is None else pick(getattr(batch, name))
        for name in ("obs", "actions", "log_probs", "active", "masks", "roles")
    }
    columns["state"] = None if batch.actor_state is None else first(batch.actor_state)
    return columns
