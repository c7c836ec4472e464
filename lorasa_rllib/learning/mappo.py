"""The MAPPO update as functions: epochs over minibatches of a prepared rollout, with one backward pass each.

Several learners run the same code on their own environments. `all_sum` sums a tensor over them; every quantity that
must be equal on all of them (advantage statistics, normaliser, gradients, live counts) is summed before it is divided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import (
    AllSum,
    Batch,
    MAPPOSettings,
    alone,
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
from lorasa_rllib.learning.passes import Counts, Minibatch, live_rows, passes
from lorasa_rllib.nn.distributions import Noise
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout

if TYPE_CHECKING:
    from lorasa_rllib.learning.compiled import CompiledStep, StepCompiler

Optimisers = dict[str, OwnerAdam]
STATISTICS = ("policy_loss", "entropy", "mean_kl_loss", "clip_fraction", "vf_loss")
"""Names of the statistics that `loss_sums` returns."""


def loss_sums(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, noise: Noise = None, everyone: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of the loss (each owner's gradients are divided by its live rows later) and of statistics.

    everyone: True if all rows are known to be live.
    """
    distribution = policy.distribution(
        batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.keep
    )
    loss, stats = policy_sums(distribution, batch, settings, policy.actor.real_actions(), noise, everyone=everyone)
    values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
    counted = None if everyone else value_rows(values, batch.active, settings)
    targets = policy.value_norm.normalise(batch.returns) if batch.targets is None else batch.targets
    value_loss = value_sums(values, batch.values, targets, counted, settings)
    return loss + settings.value_coeff * value_loss, stats | {"vf_loss": value_loss.detach().float()}


def policy_sums(
    distribution: Any,
    rows: Any,
    settings: MAPPOSettings,
    real: Tensor | None = None,
    noise: Noise = None,
    others: Tensor | None = None,
    everyone: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of the policy loss with entropy bonus, and of statistics.

    distribution: of the rows under the current policy. rows: a `Batch`, or any record with its `actions`, `log_probs`,
    `active` and `advantages`. real bool, broadcastable to actions, None: no padding; padded dimensions have ratio 1, so
    no gradient, but would count in the loss and statistics. others [...]: factor of the ratios, the product of the
    other agents' (A2PO). everyone: True if all rows are known to be live.
    """
    live = None if everyone else rows.active
    log_ratio = distribution.log_prob(rows.actions) - rows.log_probs
    if live is not None:  # before exp: an overflow in a dead row would make gradients NaN
        log_ratio = torch.where(live.unsqueeze(-1), log_ratio, 0.0)
    if settings.joint_ratio:
        log_ratio, real = log_ratio.sum(-1, keepdim=True), None
    ratio = log_ratio.exp()
    weight = ratio if others is None else ratio * others.unsqueeze(-1)
    policy_loss = loss = -_sum(clipped_surrogate(weight, rows.advantages, settings.clip, real), live)
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
    errors = clipped_value_loss(
        values, old_values, targets, settings.value_clip, settings.huber_delta, settings.quirks.one_sided_huber
    )
    return _sum(errors, counted)


def _sum(x: Tensor, counted: Tensor | None) -> Tensor:
    return x.sum() if counted is None else torch.where(counted, x, 0.0).sum()


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout,
    settings: MAPPOSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
    compiler: StepCompiler | None = None,
) -> dict[str, Tensor]:
    """One MAPPO iteration on one rollout. Returns means of statistics. All tensors are on the policy's device.

    compiler: compiles optimiser steps, which are used as soon as they are ready; None: steps run eagerly.
    """
    batch, log = prepare(policy, rollout, settings, all_sum)
    arrange(optimisers)
    total: Any = 0.0
    rows: Any = 0.0
    norms: dict[str, Tensor] = {}
    compiled: CompiledStep | None = None
    for done, one in enumerate(passes(policy, batch, settings, generator, all_sum), 1):
        if done > 1 and settings.recompute_advantages:
            batch = with_targets(batch, rollout, targets_of(policy, rollout, settings), all_sum)
        batch.targets = None if settings.quirks.norm_every_step else policy.value_norm.normalise(batch.returns)
        taken, parts = [], list(one.minibatches(batch))
        if done == 1 and compiler is not None:
            compiled = compiler.step(policy, optimisers, parts[0], settings, all_sum)
        began = time.perf_counter()
        for part in parts:
            if compiled is None:
                sums, norms = _take_step(policy, optimisers, part, settings, generator, all_sum)
            else:
                sums, norms = compiled(part, generator)
            taken.append(sums)
        if compiler is not None and compiled is None:
            compiler.took(time.perf_counter() - began)
        of_pass = torch.stack(taken).sum(0)
        total, rows = total + of_pass, rows + one.rows()
        log["passes"] = of_pass.new_full((), done)
        if went_far([{**dict(zip(STATISTICS, of_pass, strict=True)), "live": one.rows()[0]}], settings):
            break
    if compiled is not None:
        compiled.finish()
    take_in_observations(policy, rollout, settings, all_sum)
    live, counted = rows.clamp(min=1)
    means = dict(zip(STATISTICS, total, strict=True))
    log |= {name: value / (counted if name == "vf_loss" else live) for name, value in means.items()}
    log |= {f"{name}_grad_norm": norm.nanmean().nan_to_num() for name, norm in norms.items()}
    log["total_loss"] = (
        log["policy_loss"] + settings.value_coeff * log["vf_loss"] - settings.entropy_coeff * log["entropy"]
    )
    return log


def went_far(stats: Sequence[dict[str, Tensor]], settings: MAPPOSettings) -> bool:
    """True if the mean KL of the steps exceeds `target_kl`. stats: their sums over the live rows of all learners."""
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
    """One optimiser step: one forward and one backward pass, and flat sums over learners.

    Gradients then become means over each owner's live rows and are clipped per owner; each owner with live rows takes
    an Adam step. Returns sums of statistics, and gradient norms [O] per optimiser, NaN for owners that did not step.
    """
    arrange(optimisers)
    counts = live_rows(policy, part, settings)
    sum_over_learners(list(counts.values()), all_sum)
    all_move = all(bool((rows > 0).all()) for rows in counts.values())
    minibatch = Minibatch(part, counts, all_move=all_move)
    sums, norms = _take_step(policy, optimisers, minibatch, settings, generator, all_sum)
    stats = dict(zip(STATISTICS, sums, strict=True))
    return stats | {"live": counts["backbone"].sum(), "value_rows": counts["critic"].sum()}, norms


def arrange(optimisers: Optimisers) -> None:
    """Prepares all optimisers for an update, see `OwnerAdam.arrange`."""
    for optimiser in optimisers.values():
        optimiser.arrange()


def _take_step(
    policy: TeamPolicy,
    optimisers: Optimisers,
    part: Minibatch,
    settings: MAPPOSettings,
    generator: torch.Generator | None,
    all_sum: AllSum,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `take_step`, for rows already counted; returns the sums as one tensor [5] in the order of `STATISTICS`."""
    rows = part.rows
    if settings.quirks.norm_every_step:
        take_in(policy, rows.returns, value_rows(rows.returns, rows.active, settings), all_sum)
    loss, stats = loss_sums(policy, rows, settings, generator, part.everyone)
    grads = gradients(loss, [part for optimiser in optimisers.values() for part in optimiser.parts])
    sums = torch.stack([stats[name] for name in STATISTICS])
    sum_over_learners([*grads, sums], all_sum)
    by_optimiser, start = {}, 0
    for name, optimiser in optimisers.items():
        by_optimiser[name] = grads[start : start + len(optimiser.parts)]
        start += len(optimiser.parts)
    return sums, _step(optimisers, by_optimiser, part.counts, settings.max_grad_norm, part.all_move)


def step(optimisers: Optimisers, counts: dict[str, Tensor], max_grad_norm: float | None) -> dict[str, Tensor]:
    """Averages and clips the parameters' gradients and steps every optimiser that trains in this phase.

    counts: live rows per owner, of every optimiser. Returns gradient norms [O] per optimiser, NaN for owners that did
    not step.
    """
    grads = {name: optimiser.gather() for name, optimiser in optimisers.items()}
    return _step(optimisers, grads, counts, max_grad_norm, all_move=False)


def _step(
    optimisers: Optimisers,
    grads: dict[str, list[Tensor]],
    counts: Counts,
    max_grad_norm: float | None,
    all_move: bool,
) -> dict[str, Tensor]:
    """As `step`, from flat gradients. all_move: True if every owner is known to have live rows."""
    norms = {}
    for name, optimiser in optimisers.items():
        if not grads[name]:  # frozen in this phase
            norms[name] = torch.zeros_like(counts[name][:1])
            continue
        moving = None if all_move else counts[name] > 0
        norm = optimiser.finish(grads[name], counts[name], max_grad_norm)
        optimiser.advance(grads[name], moving)
        norms[name] = norm if moving is None else torch.where(moving, norm, torch.nan)
    return norms


def sum_over_learners(tensors: list[Tensor], all_sum: AllSum) -> None:
    """Sums tensors over learners, in place, as one flat vector."""
    if all_sum is alone:
        return
    summed = all_sum(torch.cat([t.flatten() for t in tensors]))
    for tensor, part in zip(tensors, summed.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
