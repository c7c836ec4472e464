"""The rows of each optimiser step of a pass and their live counts per owner, computed before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch, MAPPOSettings, value_rows
from lorasa_rllib.learning.normalisers import AllSum, alone, sum_over_learners
from lorasa_rllib.nn.policy import Group, TeamPolicy
from lorasa_rllib.nn.rows import index_of, known_roles, roles_of
from lorasa_rllib.spec import Owners

Counts = dict[Group, Tensor]
"""Live rows per owner: "backbone" [G], "adapters" [K], "critic" [C]."""


@dataclass(frozen=True)
class Minibatch:
    """The data of one optimiser step.

    counts: over all learners.  everyone: True if all rows of this learner are known to be live.  all_move: True if
    every owner is known to have live rows on some learner.
    """

    rows: Batch
    counts: Counts
    everyone: bool = False
    all_move: bool = False


@dataclass(frozen=True)
class Pass:
    """One pass over a batch in minibatches.

    order int64 [M * size]: sequences in minibatch order; None: one minibatch, the whole batch.
    counts: over all learners, with M minibatches as the first axis. everyone: True if the whole batch is live.
    """

    order: Tensor | None
    size: int
    counts: Counts
    everyone: bool

    def __len__(self) -> int:
        """M, the number of minibatches."""
        return len(self.counts["critic"])

    def minibatches(self, batch: Batch) -> Iterator[Minibatch]:
        """The minibatches, as views of one shuffled copy of the batch."""
        parts = [batch] if self.order is None else batch[self.order].split(self.size)
        by_part = zip(*(rows.unbind() for rows in self.counts.values()), strict=True)
        fewest = torch.stack([rows.amin(1) for rows in self.counts.values()]).amin(0)
        for part, rows, least in zip(parts, by_part, fewest.tolist(), strict=True):
            yield Minibatch(part, dict(zip(self.counts, rows, strict=True)), self.everyone, least > 0)

    def rows(self) -> Tensor:
        """[2]: total counts over all minibatches, for the policy and for the critic."""
        return torch.stack([self.counts["backbone"].sum(), self.counts["critic"].sum()])


def passes(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, generator: torch.Generator, all_sum: AllSum = alone
) -> Iterator[Pass]:
    """All passes of an update. Orders are drawn lazily."""
    everyone = bool(batch.active.all())
    for _ in range(settings.num_epochs):
        order, size = shuffled(batch, settings, generator)
        counts = live_rows_of_parts(policy, batch, settings, order, size)
        sum_over_learners(list(counts.values()), all_sum)
        yield Pass(order, size, counts, everyone)


def shuffled(batch: Batch, settings: MAPPOSettings, generator: torch.Generator | None) -> tuple[Tensor | None, int]:
    """The sequences of one pass in minibatch order, and the number of sequences per minibatch.

    Minibatches are whole sequences of about `minibatch_size` environment steps in total. The order is None if one
    minibatch is the whole batch. All minibatches have the same size, so all learners take the same number of steps;
    the sequences left over in a shuffled pass, fewer than one minibatch, are dropped.
    """
    whole = len(batch)
    if settings.minibatch_size is None:
        return None, whole
    size = max(1, settings.minibatch_size // batch.obs.shape[0])
    if size >= whole:
        return None, whole
    order = torch.randperm(whole, generator=generator, device=batch.obs.device)
    return order[: whole - whole % size], size


def live_rows(policy: TeamPolicy, batch: Batch, settings: MAPPOSettings) -> Counts:
    """Live rows per owner of a whole batch."""
    counts = live_rows_of_parts(policy, batch, settings, None, len(batch))
    return {name: rows[0] for name, rows in counts.items()}


def live_rows_of_parts(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, order: Tensor | None, size: int
) -> Counts:
    """Live rows per owner of M minibatches (first axis): `size` sequences each, in `order` (None: as in the batch)."""
    owners = policy.config.owners

    def parts(column: Tensor) -> Tensor:
        """[L, C, ...] -> [M, L * size, ...]"""
        column = column if order is None else column.index_select(1, order)
        return column.reshape(len(column), -1, size, *column.shape[2:]).transpose(0, 1).flatten(1, 2)

    active = parts(batch.active)
    roles = None if batch.roles is None else parts(batch.roles)
    rows = live_rows_of(owners, active, roles, range(active.shape[-1]))
    counted = parts(value_rows(batch.values, batch.active, settings)).sum(1).float()  # [M, V]
    one = counted.shape[-1] == 1
    rows["critic"] = counted if one else per_owner(counted, owners.critic_of, owners.num_critics)
    return rows


def live_rows_of(owners: Owners, active: Tensor, roles: Tensor | None, agents: Sequence[int]) -> Counts:
    """Live rows per owner of M sets of rows: "backbone" [M, G], and "adapters" [M, K] if there are any.

    active bool and roles int64 [M, R, n], None without roles: R rows of each of n agents.
    """
    per_agent = active.sum(1).float()  # [M, n]
    rows: Counts = {"backbone": per_owner(per_agent, [owners.backbone_of[a] for a in agents], owners.num_backbones)}
    if owners.by_role:
        rows["adapters"] = rows_of_roles(roles_of(roles), active, owners.num_adapters)
    elif owners.num_adapters:
        rows["adapters"] = per_owner(per_agent, [owners.adapter_of[a] for a in agents], owners.num_adapters)
    return rows


def rows_of_roles(roles: Tensor, active: Tensor, num_roles: int) -> Tensor:
    """[M, num_roles]: live rows per role. roles int64 and active bool [M, ...]; roles out of range do not count."""
    counted = (active & (known_roles(roles, num_roles) >= 0)).flatten(1).float()
    rows = torch.zeros(len(roles), num_roles, device=roles.device)
    return rows.scatter_add_(1, roles.clamp(0, num_roles - 1).flatten(1), counted)


def per_owner(per_agent: Tensor, owner_of: Sequence[int], owners: int) -> Tensor:
    """[..., owners]: sums of per_agent [..., n] over each owner's agents. owner_of: [n] owner indices."""
    if owners == 1:
        return per_agent.sum(-1, keepdim=True)
    index = index_of(tuple(owner_of), per_agent.device)
    rows = per_agent.new_zeros(*per_agent.shape[:-1], owners)
    return rows.index_add_(-1, index, per_agent)
