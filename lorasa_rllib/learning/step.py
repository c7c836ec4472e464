"""One optimiser step, the same for MAPPO and A2PO: losses, gradients, sums over learners, clipping and Adam.

Losses and statistics are sums over live rows. Several learners run the same step on their own environments; `all_sum`
sums a tensor over them, and every quantity that must be equal on all of them is summed before it is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch, MAPPOSettings, value_rows
from lorasa_rllib.learning.flat import Leaves, gradients
from lorasa_rllib.learning.losses import LossRows, clipped_value_loss
from lorasa_rllib.learning.normalisers import AllSum, alone, sum_over_learners
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.passes import Counts, Minibatch
from lorasa_rllib.nn.distributions import ActionDistribution, Noise
from lorasa_rllib.nn.policy import Group, TeamPolicy

Optimisers = Mapping[Group, OwnerAdam]
"""One optimiser per parameter group: "backbone", "adapters" (if there are any) and "critic"."""
Norms = dict[Group, Tensor]
"""Gradient norms before clipping, per optimiser; NaN for owners that did not step, empty if nothing trains."""
Rates = Mapping[Group, float | Tensor]
"""Learning rates, per optimiser."""
STATISTICS = ("policy_loss", "entropy", "mean_kl_loss", "clip_fraction", "vf_loss")
"""Names of the statistics that `loss_sums` returns."""


class ActorRows(Protocol):
    """Rows as the policy loss reads them: columns of a `Batch`, [...] and [..., d]."""

    @property
    def actions(self) -> Tensor: ...
    @property
    def log_probs(self) -> Tensor: ...
    @property
    def active(self) -> Tensor: ...
    @property
    def advantages(self) -> Tensor: ...


def policy_sums(
    distribution: ActionDistribution,
    rows: ActorRows,
    settings: MAPPOSettings,
    real: Tensor | None = None,
    noise: Noise = None,
    others: Tensor | None = None,
    everyone: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of the policy loss with entropy bonus, and of statistics.

    distribution: of the rows under the current policy. real bool, broadcastable to actions, None: no padding; padded
    dimensions have ratio 1, so no gradient, but would count in the loss and statistics. others [...]: factor of the
    ratios, the product of the other agents' (A2PO). everyone: True if all rows are known to be live.
    """
    live = None if everyone else rows.active
    log_ratio = distribution.log_prob(rows.actions) - rows.log_probs
    if live is not None:  # before exp: an overflow in a dead row would make gradients NaN
        log_ratio = torch.where(live.unsqueeze(-1), log_ratio, 0.0)
    if settings.joint_ratio:
        log_ratio, real = log_ratio.sum(-1, keepdim=True), None
    ratio = log_ratio.exp()
    weight = ratio if others is None else ratio * others.unsqueeze(-1)
    read = LossRows(weight, rows.advantages, rows.actions, rows.log_probs, rows.active, real)
    losses = settings.policy_loss(distribution, read, settings)
    if losses.shape != rows.advantages.shape:
        raise ValueError(
            f"policy_loss returned a tensor of shape {list(losses.shape)}; it must return the loss of every row, "
            f"{list(rows.advantages.shape)} here."
        )
    policy_loss = loss = _sum(losses, live)
    paid = isinstance(settings.entropy_coeff, Tensor) or settings.entropy_coeff != 0
    with torch.enable_grad() if paid else torch.no_grad():
        entropy = distribution.entropy(noise)
        entropy = entropy.sum() if live is None else _sum(entropy.sum(-1), live)
    if paid:
        loss = loss - settings.entropy_coeff * entropy
    with torch.no_grad():
        clipped = (weight - 1).abs() > settings.clip
        clipped = clipped if live is None else clipped & live.unsqueeze(-1)
        share = 1 / clipped.shape[-1] if real is None else 1 / real.sum(-1, keepdim=True)
        stats = {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "mean_kl_loss": (ratio - 1).sub_(log_ratio).sum(),  # 0 in dead rows
            "clip_fraction": (clipped * share).sum(),
        }
    return loss, {name: value.detach().float() for name, value in stats.items()}


def value_sums(
    values: Tensor, old_values: Tensor, targets: Tensor, counted: Tensor | None, settings: MAPPOSettings
) -> Tensor:
    """Sum of the value loss over the rows in `counted` (None: all). All [..., V], values and targets normalised."""
    clip, delta, error = settings.value_clip, settings.huber_delta, settings.rules.value_error
    return _sum(clipped_value_loss(values, old_values, targets, clip, delta, error), counted)


def _sum(x: Tensor, counted: Tensor | None) -> Tensor:
    return x.sum() if counted is None else torch.where(counted, x, 0.0).sum()


def loss_sums(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, noise: Noise = None, everyone: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of MAPPO's loss and of statistics. Each owner's gradients are divided by its live rows later.

    everyone: True if all rows are known to be live.
    """
    distribution = policy.distribution(
        batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.actor_keep
    )
    loss, stats = policy_sums(distribution, batch, settings, policy.actor.real_actions(), noise, everyone=everyone)
    values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
    counted = None if everyone else value_rows(values, batch.active, settings)
    value_loss = value_sums(values, batch.values, batch.targets, counted, settings)
    return loss + settings.value_coeff * value_loss, stats | {"vf_loss": value_loss.detach().float()}


def take_step(
    loss: Tensor,
    leaves: Mapping[Group, Leaves],
    optimisers: Optimisers,
    counts: Counts,
    max_grad_norm: float | None,
    all_sum: AllSum = alone,
    sums: Sequence[Tensor] = (),
    all_move: bool = False,
    rates: Rates | None = None,
) -> Norms:
    """One optimiser step from a loss summed over this learner's rows.

    leaves: what trains, per optimiser. counts: live rows per owner, per optimiser. sums: tensors that are summed over
    learners together with the gradients, in place, `counts` among them if they are not yet. all_move: True if every
    owner is known to have live rows. rates: learning rates; None: those of the optimisers.
    """
    grads = gradients(loss, [part for mine in leaves.values() for part in mine.parts])
    sum_over_learners([*grads, *sums], all_sum)
    left = iter(grads)
    return {
        name: optimisers[name].apply(
            mine,
            list(islice(left, len(mine.parts))),
            counts[name],
            max_grad_norm,
            all_move,
            None if rates is None else rates[name],
        )
        for name, mine in leaves.items()
    }


class Step(Protocol):
    """Takes MAPPO's optimiser steps: `EagerStep`, or `learning.compiled.CompiledStep`."""

    def __call__(self, part: Minibatch, noise: torch.Generator | None) -> tuple[Tensor, Norms]:
        """One step on a minibatch. Returns sums of `STATISTICS` [5] over all learners, and gradient norms."""
        ...

    def finish(self) -> None:
        """To be called after the last step of an update."""
        ...


class EagerStep:
    """MAPPO's optimiser step, one operation after the other: one forward and one backward pass.

    Prepares the optimisers for an update, see `OwnerAdam.arrange`.
    """

    def __init__(self, policy: TeamPolicy, optimisers: Optimisers, settings: MAPPOSettings, all_sum: AllSum = alone):
        arrange(optimisers.values())
        self.policy, self.optimisers, self.settings, self.all_sum = policy, optimisers, settings, all_sum
        self._leaves = {name: Leaves(optimiser.parts) for name, optimiser in optimisers.items()}

    def __call__(self, part: Minibatch, noise: torch.Generator | None) -> tuple[Tensor, Norms]:
        return self.take(part, noise, self.settings)

    def take(
        self, part: Minibatch, noise: Noise, settings: MAPPOSettings, rates: Rates | None = None
    ) -> tuple[Tensor, Norms]:
        """One step with settings of its own; rates: as in `take_step`."""
        rows = part.rows
        targets = settings.rules.targets_of_step(
            self.policy,
            rows.targets,
            rows.returns,
            lambda: value_rows(rows.returns, rows.active, settings),
            self.all_sum,
        )
        if targets is not rows.targets:
            rows = replace(rows, targets=targets)
        loss, stats = loss_sums(self.policy, rows, settings, noise, part.everyone)
        sums = torch.stack([stats[name] for name in STATISTICS])
        norms = take_step(
            loss,
            self._leaves,
            self.optimisers,
            part.counts,
            settings.max_grad_norm,
            self.all_sum,
            [sums],
            part.all_move,
            rates,
        )
        return sums, norms

    def finish(self) -> None:
        """Nothing to do."""


def arrange(optimisers: Iterable[OwnerAdam]) -> None:
    """Prepares optimisers for an update, see `OwnerAdam.arrange`."""
    for optimiser in optimisers:
        optimiser.arrange()


def moved_far(stats: Sequence[Mapping[str, Tensor]], target_kl: float | None) -> bool:
    """True if the mean KL of the steps exceeds `target_kl`. stats: their sums over the live rows of all learners."""
    if target_kl is None:
        return False
    kl, live = torch.stack([torch.stack([one["mean_kl_loss"], one["live"]]) for one in stats]).sum(0)
    return bool(kl > target_kl * live)
