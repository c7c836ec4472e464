"""The MAPPO update as pure functions: epochs of minibatches of a prepared rollout with one backward each.

Several learners run the same code on their own environments. `all_sum` adds a tensor up over them; every quantity
that must be equal everywhere (advantage statistics, normaliser, gradients, live counts) goes through it before it is
divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import (
    AllSum,
    Batch,
    MAPPOSettings,
    alone,
    minibatches,
    prepare,
    take_in,
    targets_of,
    value_rows,
    with_targets,
)
from lorasa_rllib.learning.flat import gradients
from lorasa_rllib.learning.losses import clipped_surrogate, clipped_value_loss
from lorasa_rllib.learning.observed import take_in_observations
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.nn.rows import known_roles

Optimisers = dict[str, OwnerAdam]


def loss_sums(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of the loss (each owner's gradients are divided by its live rows later) and of statistics."""
    distribution = policy.distribution(
        batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.keep
    )
    loss, stats = policy_sums(distribution, batch, settings, policy.actor.real_actions(), generator)
    values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
    counted = value_rows(values, batch.active, settings)
    value_loss = value_sums(values, batch.values, policy.value_norm.normalise(batch.returns), counted, settings)
    return loss + settings.value_coeff * value_loss, stats | {"vf_loss": value_loss.detach().float()}


def policy_sums(
    distribution: Any,
    rows: Any,
    settings: MAPPOSettings,
    real: Tensor | None = None,
    generator: torch.Generator | None = None,
    others: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of policy loss with entropy bonus, and of statistics.

    distribution: of the rows under the current policy. rows: a `Batch` or anything with its `actions`, `log_probs`,
    `active` and `advantages`. real bool, broadcastable to actions: padded dimensions have ratio 1, so no gradient, but
    would count in statistics. others [...] multiplies ratios: the product of other agents' (A2PO).
    """
    live = rows.active.unsqueeze(-1)
    log_ratio = distribution.log_prob(rows.actions) - rows.log_probs
    log_ratio = torch.where(live, log_ratio, 0.0)  # before exp: an overflow in a dead row would reach the gradient
    if settings.joint_ratio:
        log_ratio, real = log_ratio.sum(-1, keepdim=True), None
    ratio = log_ratio.exp()
    weight = ratio if others is None else ratio * others.unsqueeze(-1)
    gain = clipped_surrogate(weight, rows.advantages, settings.clip, real)
    policy_loss = loss = -torch.where(rows.active, gain, 0.0).sum()
    with torch.no_grad() if settings.entropy_coeff == 0 else torch.enable_grad():
        entropy = torch.where(rows.active, distribution.entropy(generator).sum(-1), 0.0).sum()
    if settings.entropy_coeff:
        loss = loss - settings.entropy_coeff * entropy
    with torch.no_grad():
        clipped = (live & ((weight - 1).abs() > settings.clip)).float()
        stats = {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "mean_kl_loss": torch.where(live, ratio - 1 - log_ratio, 0.0).sum(),
            "clip_fraction": (clipped.mean(-1) if real is None else clipped.sum(-1) / real.sum(-1)).sum(),
        }
    return loss, {name: value.detach().float() for name, value in stats.items()}


def value_sums(values: Tensor, old_values: Tensor, targets: Tensor, counted: Tensor, settings: MAPPOSettings) -> Tensor:
    """Sum of the value loss over the rows that count. All [..., V], values and targets normalised, counted bool."""
    errors = clipped_value_loss(
        values, old_values, targets, settings.value_clip, settings.huber_delta, settings.quirks.one_sided_huber
    )
    return torch.where(counted, errors, 0.0).sum()


def live_rows(policy: TeamPolicy, batch: Batch, settings: MAPPOSettings) -> dict[str, Tensor]:
    """Live rows of every owner of every bank: "backbone" [G], "adapters" [K], "critic" [C]."""
    owners = policy.config.owners
    per_agent = batch.active.sum((0, 1)).float()  # [N]
    rows = {"backbone": per_owner(per_agent, owners.backbone_of, owners.num_backbones)}
    if owners.routed_by == "role":
        assert batch.roles is not None
        rows["adapters"] = rows_of_roles(batch.roles, batch.active, owners.num_adapters)
    elif owners.num_adapters:
        rows["adapters"] = per_owner(per_agent, owners.adapter_of, owners.num_adapters)
    counted = value_rows(batch.values, batch.active, settings).sum((0, 1)).float()  # [V]
    rows["critic"] = counted if len(counted) == 1 else per_owner(counted, owners.critic_of, owners.num_critics)
    return rows


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout,
    settings: MAPPOSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
) -> dict[str, Tensor]:
    """One MAPPO iteration on one rollout. Returns means of statistics. Everything is on the policy's device."""
    batch, log = prepare(policy, rollout, settings, all_sum)
    arrange(optimisers)
    one_pass, passes = replace(settings, num_epochs=1), 0
    steps: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    while passes < settings.num_epochs:
        if passes and settings.recompute_advantages:
            batch = with_targets(batch, rollout, targets_of(policy, rollout, settings), all_sum)
        parts = minibatches(batch, one_pass, generator)
        taken = [_take_step(policy, optimisers, part, settings, generator, all_sum) for part in parts]
        steps, passes = steps + taken, passes + 1
        if went_far([stats for stats, _ in taken], settings):
            break
    take_in_observations(policy, rollout, settings, all_sum)
    total = {name: torch.stack([stats[name] for stats, _ in steps]).sum(0) for name in steps[0][0]}
    live, rows = total.pop("live").clamp(min=1), total.pop("value_rows").clamp(min=1)
    log |= {name: value / (rows if name == "vf_loss" else live) for name, value in total.items()}
    log["passes"] = live.new_full((), passes)
    log |= {f"{name}_grad_norm": norm.nanmean().nan_to_num() for name, norm in steps[-1][1].items()}
    log["total_loss"] = (
        log["policy_loss"] + settings.value_coeff * log["vf_loss"] - settings.entropy_coeff * log["entropy"]
    )
    return log


def went_far(stats: Sequence[dict[str, Tensor]], settings: MAPPOSettings) -> bool:
    """Whether steps have moved the policy by more than `target_kl`. stats: their sums over all learners' live rows."""
    if settings.target_kl is None:
        return False
    kl, live = torch.stack([torch.stack([one["mean_kl_loss"], one["live"]]) for one in stats]).sum(0)
    return bool(kl > settings.target_kl * live)


def take_step(
    policy: TeamPolicy,
    optimisers: Optimisers,
    part: Batch,
    settings: MAPPOSettings,
    generator: torch.Generator | None = None,
    all_sum: AllSum = alone,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One optimiser step: one forward, one backward, one flat sum over learners.

    Then gradients become means over each owner's own live rows, are clipped per owner, and every owner with live rows
    takes its Adam step. Returns sums of statistics and gradient norms [O] of every optimiser, NaN for owners that did
    not move.
    """
    arrange(optimisers)
    return _take_step(policy, optimisers, part, settings, generator, all_sum)


def arrange(optimisers: Optimisers) -> None:
    """Prepares an update, see `OwnerAdam.arrange`."""
    for optimiser in optimisers.values():
        optimiser.arrange()


def _take_step(
    policy: TeamPolicy,
    optimisers: Optimisers,
    part: Batch,
    settings: MAPPOSettings,
    generator: torch.Generator | None,
    all_sum: AllSum,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if settings.quirks.norm_every_step:
        take_in(policy, part.returns, value_rows(part.returns, part.active, settings), all_sum)
    loss, stats = loss_sums(policy, part, settings, generator)
    grads = gradients(loss, [block for optimiser in optimisers.values() for block in optimiser.blocks])
    counts = live_rows(policy, part, settings)
    stats["live"] = part.active.sum().float()
    stats["value_rows"] = counts["critic"].sum()
    flat = torch.stack(list(stats.values()))
    sum_over_learners([*grads, *counts.values(), flat], all_sum)
    stats = dict(zip(stats, flat, strict=True))
    by_optimiser, start = {}, 0
    for name, optimiser in optimisers.items():
        by_optimiser[name] = grads[start : start + len(optimiser.blocks)]
        start += len(optimiser.blocks)
    return stats, _step(optimisers, by_optimiser, counts, settings.max_grad_norm)


def step(optimisers: Optimisers, counts: dict[str, Tensor], max_grad_norm: float | None) -> dict[str, Tensor]:
    """Finishes the gradients of parameters and steps every optimiser that trains in this phase.

    Returns norms [O] by optimiser, NaN: did not move.
    """
    grads = {name: optimiser.gather() for name, optimiser in optimisers.items()}
    return _step(optimisers, grads, counts, max_grad_norm)


def _step(
    optimisers: Optimisers, grads: dict[str, list[Tensor]], counts: dict[str, Tensor], max_grad_norm: float | None
) -> dict[str, Tensor]:
    norms = {}
    for name, optimiser in optimisers.items():
        if not grads[name]:  # frozen in this phase
            norms[name] = torch.zeros_like(counts[name][:1])
            continue
        moving = counts[name] > 0
        norm = optimiser.finish(grads[name], counts[name], max_grad_norm)
        optimiser.advance(grads[name], moving)
        norms[name] = torch.where(moving, norm, torch.nan)
    return norms


def sum_over_learners(tensors: list[Tensor], all_sum: AllSum) -> None:
    """Adds tensors up over learners, in place, as one flat vector."""
    if all_sum is alone:
        return
    summed = all_sum(torch.cat([t.flatten() for t in tensors]))
    for tensor, part in zip(tensors, summed.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def rows_of_roles(roles: Tensor, active: Tensor, num_roles: int) -> Tensor:
    """[num_roles]: live rows of every role. roles int64 and active bool of the same shape; other roles do not count."""
    counted = active & (known_roles(roles, num_roles) >= 0)
    rows = torch.zeros(num_roles, device=roles.device)
    return rows.index_add_(0, roles.clamp(0, num_roles - 1).flatten(), counted.flatten().float())


def per_owner(per_agent: Tensor, owner_of: Sequence[int], owners: int) -> Tensor:
    """[owners]: sums of per_agent [n] over the agents of each owner, owner_of [n]."""
    if owners == 1:
        return per_agent.sum(0, keepdim=True)
    index = torch.tensor(owner_of, device=per_agent.device)
    return torch.zeros(owners, device=per_agent.device).index_add_(0, index, per_agent)
