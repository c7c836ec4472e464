"""Layouts of rows for bank layers: every layer sees `x [S, B, d]`, S slots of B rows with one owner each.

Three layouts share one interface, so layers do not depend on which one is used:

    TeamRows      x [..., N, d], one slot per agent, for the team or some of its agents; routing by agent
    AgentRows     x [..., d], rows of one agent: one slot
    SortedRows    x [R, d] with an owner per row, sorted once into slots; routing by data (roles)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import torch
from torch import Tensor

from lorasa_rllib.spec import Owners


@dataclass(frozen=True)
class Some:
    """Some agents of a team, along the axis of agents, as a tensor: compiled steps read it. index: int64 [n]."""

    index: Tensor


Several = tuple[int, ...] | Some
"""Some agents of a team, by index."""
Agent = Tensor | int | Several | None
"""Which agents the rows belong to, see `Router.layout`."""


@dataclass(frozen=True)
class Slots:
    """The owners of S slots. `None` for `backbone` or `adapter` means that slot s belongs to owner s.

    backbone: [S] backbone of each slot      adapter: [S] adapter of each slot
    agent:    [S] agent of each slot, for id features; None if slots mix agents (role routing)
    adapted:  bool [S], False for slots without an adapter (plain backbone); None: all have one
    size:     S
    team:     True if there is one slot per agent, in order
    """

    size: int
    backbone: Tensor | None = None
    adapter: Tensor | None = None
    agent: Tensor | None = None
    adapted: Tensor | None = None
    team: bool = False

    def pick(self, bank: Tensor, owner: Tensor | None) -> Tensor:
        """bank [O, ...] -> [S, ...]; a bank with one owner stays [1, ...] and broadcasts."""
        if bank.shape[0] == 1 or owner is None:
            return bank
        return bank.index_select(0, owner)

    def pick_adapter(self, bank: Tensor) -> Tensor:
        """`pick` for adapters [K, ...], with zeros for slots without an adapter. Zeroing one factor suffices."""
        picked = self.pick(bank, self.adapter)
        return picked if self.adapted is None else picked * self.adapted.view(-1, *[1] * (bank.dim() - 1))


class Rows(Protocol):
    """Interface of a layout. Tables have one entry per agent, vectors one per slot."""

    slots: Slots
    alike: bool
    """True if [S, T * B, d] holds the time steps in order, all with the same layout."""

    def arrange(self, x: Tensor) -> Tensor:
        """[..., d] in the caller's layout -> [S, B, d]."""
        ...

    def restore(self, y: Tensor) -> Tensor:
        """[S, B, d] -> the caller's layout."""
        ...

    def restore_vector(self, v: Tensor) -> Tensor:
        """[S or 1, d] -> broadcastable to the caller's layout."""
        ...

    def steps(self) -> Sequence[Rows]:
        """Layout of each time step, for rows whose first leading axis is time."""
        ...

    def table_in(self, table: Tensor) -> Tensor:
        """[N, d] -> broadcastable to [S, B, d]."""
        ...

    def table_out(self, table: Tensor) -> Tensor:
        """[N, d] -> broadcastable to the caller's layout."""
        ...


class TeamRows:
    """All agents of a team (or some of them) at once: x [..., N, d] with any leading axes.

    agents: int64 [n], their indices; None: the whole team in order.
    """

    alike = True

    def __init__(self, slots: Slots, lead: torch.Size, agents: Tensor | None = None):
        self.slots = slots
        self._lead = lead
        self._agents = agents

    def arrange(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *x.shape[-2:]).transpose(0, 1)

    def restore(self, y: Tensor) -> Tensor:
        return y.transpose(0, 1).reshape(*self._lead, self.slots.size, y.shape[-1])

    def restore_vector(self, v: Tensor) -> Tensor:
        return v

    def steps(self) -> Sequence[Rows]:
        return [TeamRows(self.slots, self._lead[1:], self._agents)] * self._lead[0]

    def table_in(self, table: Tensor) -> Tensor:
        return self.table_out(table)[:, None]

    def table_out(self, table: Tensor) -> Tensor:
        return table if self._agents is None else table[self._agents]


class AgentRows:
    """Rows of one agent: x [..., d]. Only that agent's slices of the banks are read."""

    alike = True

    def __init__(self, slots: Slots, agent: int, lead: torch.Size):
        self.slots = slots
        self._agent = agent
        self._lead = lead

    def arrange(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1, x.shape[-1])

    def restore(self, y: Tensor) -> Tensor:
        return y.reshape(*self._lead, y.shape[-1])

    def restore_vector(self, v: Tensor) -> Tensor:
        return v[0]

    def steps(self) -> Sequence[Rows]:
        return [AgentRows(self.slots, self._agent, self._lead[1:])] * self._lead[0]

    def table_in(self, table: Tensor) -> Tensor:
        return table[self._agent][None, None]

    def table_out(self, table: Tensor) -> Tensor:
        return table[self._agent]


class SortedRows:
    """Rows in any order, sorted once into blocks of one owner: x [..., d] flattened to R rows.

    An owner with many rows takes several slots, so padding is less than one block per owner and the work at most
    twice that of equal counts, however uneven the counts are.

    owner: int64 [R], the agent or role to sort by      agent: int64 [R], the agent of each row
    """

    alike = False

    def __init__(self, owner: Tensor, agent: Tensor, num_owners: int, make_slots: SlotMaker, lead: torch.Size):
        rows = owner.numel()
        block = max(1, -(-rows // num_owners))
        counts = torch.bincount(owner, minlength=num_owners)
        blocks = -(-counts // block)  # [O] slots per owner
        first_slot = blocks.cumsum(0) - blocks
        order = owner.argsort(stable=True)
        sorted_owner = owner[order]
        rank = torch.arange(rows, device=owner.device) - (counts.cumsum(0) - counts)[sorted_owner]
        position = first_slot[sorted_owner] * block + rank  # of each sorted row in [S * B]
        self.owner_of_slot = torch.repeat_interleave(torch.arange(num_owners, device=owner.device), blocks)
        self.slots = make_slots(self.owner_of_slot)
        self._block = block
        self._place = torch.empty_like(position).scatter_(0, order, position)  # position of row r
        self._owner, self._num_owners, self._make_slots = owner, num_owners, make_slots
        self._agent = agent
        self._lead = lead

    def arrange(self, x: Tensor) -> Tensor:
        rows = x.new_zeros(self.slots.size * self._block, x.shape[-1])
        rows = rows.index_copy(0, self._place, x.reshape(-1, x.shape[-1]))
        return rows.view(self.slots.size, self._block, x.shape[-1])

    def restore(self, y: Tensor) -> Tensor:
        return y.reshape(-1, y.shape[-1]).index_select(0, self._place).view(*self._lead, y.shape[-1])

    def restore_vector(self, v: Tensor) -> Tensor:
        return v[0] if v.shape[0] == 1 else self.restore(v[:, None].expand(-1, self._block, -1))

    def steps(self) -> Sequence[Rows]:
        owners = self._owner.view(self._lead[0], -1)
        agents = self._agent.view(self._lead[0], -1)

        def at(t: int) -> Rows:
            return SortedRows(owners[t], agents[t], self._num_owners, self._make_slots, self._lead[1:])

        if bool((owners == owners[0]).all()):  # owners do not change over time: sort once
            return [at(0)] * self._lead[0]
        return [at(t) for t in range(self._lead[0])]

    def table_in(self, table: Tensor) -> Tensor:
        return self.arrange(table[self._agent])

    def table_out(self, table: Tensor) -> Tensor:
        return table[self._agent].view(*self._lead, table.shape[-1])


class SlotMaker(Protocol):
    def __call__(self, owner_of_slot: Tensor) -> Slots: ...


class Router(torch.nn.Module):
    """Turns an owner table into layouts. Its index maps are non-persistent buffers, so they move with the module."""

    def __init__(self, owners: Owners):
        super().__init__()
        self.owners = owners
        self.num_agents = len(owners.backbone_of)
        self.by_role = owners.by_role
        if self.by_role and owners.num_backbones > 1:
            raise ValueError("adapters keyed by role need one shared backbone; this table has several.")
        self.register_buffer("_agents", torch.arange(self.num_agents), persistent=False)
        self.register_buffer("_backbones", _unless_identity(owners.backbone_of, owners.num_backbones), persistent=False)
        self.register_buffer("_adapters", _unless_identity(owners.adapter_of, owners.num_adapters), persistent=False)
        self._agents: Tensor
        self._backbones: Tensor | None
        self._adapters: Tensor | None
        self._team: Slots | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._team = None  # rebuilt from the moved buffers
        super()._apply(fn, recurse)  # returns this module
        return self

    def layout(self, x: Tensor, agent: Agent = None, roles: Tensor | None = None, adapters: bool = True) -> Rows:
        """Layout of rows x.

        x is [..., N, d] if `agent` is None, [..., n, d] for n agents (a tuple or `Some`), [..., d] for the int of one
        agent, and [..., d] in any order for a tensor int64 [...] with the agent of each row. `roles` (shape of x
        without its last axis) is needed if adapters are keyed by role and in use (`adapters`); rows with unknown roles
        use the plain backbone.
        """
        lead = x.shape[:-1]
        if self.by_role and adapters:
            agents = self._agents if agent is None else agent
            if isinstance(agents, tuple | Some):  # along the last axis
                agents = index_of(agents, x.device)
            agents = torch.as_tensor(agents, device=x.device)
            plain = self.owners.num_adapters
            owner = known_roles(roles_of(roles), plain, otherwise=plain).reshape(-1)
            return SortedRows(owner, agents.expand(lead).reshape(-1), plain + 1, self.slots_of_roles, lead)
        if agent is None:
            return TeamRows(self.slots_of_agents(slice(None)), lead[:-1])
        if isinstance(agent, tuple | Some):
            some = index_of(agent, x.device)
            return TeamRows(self.slots_of_agents(some), lead[:-1], some)
        if isinstance(agent, int):
            return AgentRows(self.slots_of_agents(slice(agent, agent + 1)), agent, lead)
        agent = agent.reshape(-1)
        return SortedRows(agent, agent, self.num_agents, self.slots_of_agents, lead)

    def slots_of_agents(self, owner_of_slot: Tensor | slice) -> Slots:
        """Slots of the given agents; `slice(None)`: the whole team in order."""
        whole = owner_of_slot == slice(None) if isinstance(owner_of_slot, slice) else False
        if whole:
            if self._team is None:
                self._team = Slots(self.num_agents, self._backbones, self._adapters, self._agents, team=True)
            return self._team
        agents = self._agents[owner_of_slot]

        def owner(table: Tensor | None) -> Tensor:
            return agents if table is None else table[owner_of_slot]

        return Slots(len(agents), owner(self._backbones), owner(self._adapters), agents)

    def slots_of_roles(self, owner_of_slot: Tensor) -> Slots:
        """Slots of the given roles; the entry `num_adapters` stands for the plain backbone."""
        adapted = owner_of_slot < self.owners.num_adapters
        return Slots(len(adapted), None, owner_of_slot.clamp(max=self.owners.num_adapters - 1), adapted=adapted)

    def slots_of_all(self) -> Slots:
        """One slot per agent, in order; if routed by role, one per role and a last one for the plain backbone."""
        if self.by_role:
            return self.slots_of_roles(torch.arange(self.owners.num_adapters + 1, device=self._agents.device))
        return self.slots_of_agents(slice(None))


def roles_of(column: Tensor | None) -> Tensor:
    """The roles column. Raises ValueError if there is none."""
    if column is None:
        raise ValueError("adapters are keyed by role, but the rows carry no roles column.")
    return column


def known_roles(roles: Tensor, num_roles: int, otherwise: int = -1) -> Tensor:
    """Roles, with those outside 0 .. num_roles - 1 replaced by `otherwise`."""
    return torch.where((roles >= 0) & (roles < num_roles), roles, otherwise)


def _unless_identity(table: tuple[int, ...], owners: int) -> Tensor | None:
    """The table as a tensor; None if it is empty, or if agent n has owner n and there are no further owners."""
    return None if tuple(table) in ((), tuple(range(owners))) else torch.tensor(table)


def index_of(indices: Several, device: torch.device) -> Tensor:
    """int64 [n]. On a GPU one tensor for all calls, as sending even a small one waits for all work before it."""
    if isinstance(indices, Some):
        return indices.index
    return torch.tensor(indices, device=device) if device.type != "cuda" else _index_on_gpu(indices, device)


@lru_cache(maxsize=4096)
def _index_on_gpu(indices: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(indices, device=device)
