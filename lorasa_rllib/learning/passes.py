"""The rows that every optimiser step of a pass reads, and how many live ones every owner has: found once, before the
first of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import AllSum, Batch, MAPPOSettings, alone, orders, value_rows
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.nn.rows import known_roles

Counts = dict[str, Tensor]
"""Live rows of every owner of every bank: "backbone" [G], "adapters" [K], "critic" [C]."""


@dataclass(frozen=True)
class Minibatch:
    """What an optimiser step reads.

    counts: of all learners.  everyone: whether all rows here are known to be live.  all_move: whether every owner of
    every bank is known to have live rows somewhere.
    """

    rows: Batch
    counts: Counts
    everyone: bool = False
    all_move: bool = False


@dataclass(frozen=True)
class Pass:
    """One pass over a batch in minibatches.

    order int64 [M * size]: sequences, in the order of minibatches; None: one minibatch of the whole batch.
    counts: of all learners, with a first axis [M] of minibatches. everyone: as in `Minibatch`.
    """

    order: Tensor | None
    size: int
    counts: Counts
    everyone: bool

    def __len__(self) -> int:
        """M, the number of minibatches."""
        return len(self.counts["critic"])

    def minibatches(self, batch: Batch) -> Iterator[Minibatch]:
        """What every step reads: views of one shuffled copy of the batch."""
        parts = [batch] if self.order is None else batch[self.order].split(self.size)
        by_part = zip(*(rows.unbind() for rows in self.counts.values()), strict=True)
        fewest = torch.stack([rows.amin(1) for rows in self.counts.values()]).amin(0)
        for part, rows, least in zip(parts, by_part, fewest.tolist(), strict=True):
            yield Minibatch(part, dict(zip(self.counts, rows, strict=True)), self.everyone, least > 0)

    def rows(self) -> Tensor:
        """[2]: live rows of all minibatches, for the policy and for the critic."""
        return torch.stack([self.counts["backbone"].sum(), self.counts["critic"].sum()])


def passes(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, generator: torch.Generator, all_sum: AllSum = alone
) -> Iterator[Pass]:
    """All passes of an update, as `learning.batch.orders` cuts them."""
    everyone = bool(batch.active.all())
    for order, size in orders(batch, settings, generator):
        counts = live_rows_of_parts(policy, batch, settings, order, size)
        if all_sum is not alone:
            flat = all_sum(torch.cat([rows.flatten() for rows in counts.values()]))
            parts = flat.split([rows.numel() for rows in counts.values()])
            counts = {name: part.view_as(rows) for (name, rows), part in zip(counts.items(), parts, strict=True)}
        yield Pass(order, size, counts, everyone)


def live_rows(policy: TeamPolicy, batch: Batch, settings: MAPPOSettings) -> Counts:
    """Live rows of a whole batch."""
    counts = live_rows_of_parts(policy, batch, settings, None, len(batch))
    return {name: rows[0] for name, rows in counts.items()}


def live_rows_of_parts(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, order: Tensor | None, size: int
) -> Counts:
    """Live rows with a first axis [M]: of minibatches of `size` sequences in `order` (None: of the batch)."""
    owners = policy.config.owners

    def parts(column: Tensor) -> Tensor:
        """[L, C, ...] -> [M, L * size, ...]"""
        column = column if order is None else column.index_select(1, order)
        return column.unflatten(1, (-1, size)).transpose(0, 1).flatten(1, 2)

    active = parts(batch.active)
    per_agent = active.sum(1).float()  # [M, N]
    rows = {"backbone": per_owner(per_agent, owners.backbone_of, owners.num_backbones)}
    if owners.routed_by == "role":
        assert batch.roles is not None
        rows["adapters"] = rows_of_roles(parts(batch.roles), active, owners.num_adapters)
    elif owners.num_adapters:
        rows["adapters"] = per_owner(per_agent, owners.adapter_of, owners.num_adapters)
    counted = parts(value_rows(batch.values, batch.active, settings)).sum(1).float()  # [M, V]
    one = counted.shape[-1] == 1
    rows["critic"] = counted if one else per_owner(counted, owners.critic_of, owners.num_critics)
    return rows


def rows_of_roles(roles: Tensor, active: Tensor, num_roles: int) -> Tensor:
    """[M, num_roles]: live rows of every role. roles int64 and active bool [M, ...]; other roles do not count."""
    counted = (active & (known_roles(roles, num_roles) >= 0)).flatten(1).float()
    rows = torch.zeros(len(roles), num_roles, device=roles.device)
    return rows.scatter_add_(1, roles.clamp(0, num_roles - 1).flatten(1), counted)


def per_owner(per_agent: Tensor, owner_of: Sequence[int], owners: int) -> Tensor:
    """[..., owners]: sums of per_agent [..., n] over the agents of each owner, owner_of [n]."""
    if owners == 1:
        return per_agent.sum(-1, keepdim=True)
    index = torch.tensor(owner_of, device=per_agent.device)
    rows = per_agent.new_zeros(*per_agent.shape[:-1], owners)
    return rows.index_add_(-1, index, per_agent)
