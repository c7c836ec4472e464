"""The MAPPO update as pure functions: targets once per rollout, then epochs of minibatches with one backward each.

Several learners run the same code on their own environments. `all_sum` adds a tensor up over them; every quantity
that must be equal everywhere (advantage statistics, normaliser, gradients, live counts) goes through it before it is
divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.gae import gae
from lorasa_rllib.learning.losses import clipped_surrogate, clipped_value_loss
from lorasa_rllib.learning.owner_adam import OwnerAdam, finish_gradients
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.policy import TeamPolicy

AllSum = Callable[[Tensor], Tensor]
Optimisers = dict[str, OwnerAdam]


def alone(x: Tensor) -> Tensor:
    """`all_sum` of a single learner."""
    return x


@dataclass(frozen=True)
class MAPPOSettings:
    """Numbers of the update. Names and defaults of the config are documented in `MAPPOConfig.training`."""

    gamma: float = 0.99
    lambda_: float = 0.95
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coeff: float = 1.0
    huber_delta: float | None = 10.0
    entropy_coeff: float = 0.0
    max_grad_norm: float | None = 10.0
    joint_ratio: bool = False
    num_epochs: int = 5
    minibatch_size: int | None = None


@dataclass
class Batch:
    """Rows of one rollout, B environment steps: what the loss reads. Advantages are standardised, values normalised.

    obs [B, N, o]  state [B, S]  actions, log_probs [B, N, d]  active bool [B, N]  advantages [B, N]
    values, targets [B, V]  masks [B, N, a] or None  roles [B, N] or None
    """

    obs: Tensor
    state: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    advantages: Tensor
    values: Tensor
    targets: Tensor
    masks: Tensor | None = None
    roles: Tensor | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor) -> Batch:
        columns: dict[str, Any] = {name: None if c is None else c[rows] for name, c in vars(self).items()}
        return Batch(**columns)


def prepare(
    policy: TeamPolicy, rollout: TeamRollout, settings: MAPPOSettings, all_sum: AllSum = alone
) -> tuple[Batch, dict[str, Tensor]]:
    """Values, advantages and value targets of a rollout (tensors); takes the returns into the value normaliser.

    Advantages are standardised over all live entries of all learners, jointly over agents.
    """
    steps, envs, agents = rollout.num_steps, rollout.num_envs, rollout.num_agents
    values, next_values = state_values(policy, rollout)  # normalised [T, E, V]
    denormalise = policy.value_norm.denormalise
    ended = (rollout.terminated | rollout.truncated).unsqueeze(-1)
    raw = denormalise(values)
    advantages = gae(
        rollout.rewards.expand_as(raw),
        raw,
        denormalise(next_values),
        rollout.terminated.unsqueeze(-1),
        ended,
        settings.gamma,
        settings.lambda_,
    )
    returns = advantages + raw

    rows = torch.ones((), device=returns.device) * steps * envs
    moments = all_sum(
        torch.cat([returns.sum((0, 1)), returns.square().sum((0, 1)), advantages.square().sum((0, 1)), rows[None]])
    )
    mean, mean_sq, error_sq = (moments[:-1] / moments[-1]).chunk(3)
    policy.value_norm.update(mean, mean_sq)
    explained = 1 - (error_sq.mean() / (mean_sq - mean.square()).mean().clamp(min=1e-8))

    advantages = advantages.expand(steps, envs, agents)
    batch = Batch(
        obs=rollout.obs.flatten(0, 1),
        state=rollout.state[:-1].flatten(0, 1),
        actions=rollout.actions.flatten(0, 1),
        log_probs=rollout.log_probs.flatten(0, 1),
        active=rollout.active.flatten(0, 1),
        advantages=standardise(advantages, rollout.active, all_sum).flatten(0, 1),
        values=values.flatten(0, 1),
        targets=policy.value_norm.normalise(returns).flatten(0, 1),
        masks=None if rollout.masks is None else rollout.masks.flatten(0, 1),
        roles=None if rollout.roles is None else rollout.roles.flatten(0, 1),
    )
    return batch, {"vf_explained_var": explained}


@torch.no_grad()
def state_values(policy: TeamPolicy, rollout: TeamRollout) -> tuple[Tensor, Tensor]:
    """Normalised values [T, E, V] of every step's state, and of the state it led to (if truncated, the true last)."""
    values = policy.critic(rollout.state)  # [T + 1, E, V]
    next_values = values[1:]
    if len(rollout.final_index):
        next_values = next_values.clone()
        t, e = rollout.final_index.T
        next_values[t, e] = policy.critic(rollout.final_state)
    return values[:-1], next_values


def standardise(advantages: Tensor, active: Tensor, all_sum: AllSum = alone) -> Tensor:
    """(A - mean) / (std + 1e-5) with mean and population std over live entries; both [..., N]."""
    live = torch.where(active, advantages, 0.0)
    total, square, count = all_sum(torch.stack([live.sum(), live.square().sum(), active.sum().to(live.dtype)]))
    mean = total / count.clamp(min=1)
    std = (square / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    return (advantages - mean) / (std + 1e-5)


def minibatches(rows: int, settings: MAPPOSettings, generator: torch.Generator) -> Iterator[Tensor | None]:
    """Row indices of every minibatch of every epoch; None stands for all rows in order.

    Sizes are equal, so that all learners take the same number of steps; up to `minibatch_size - 1` rows of a shuffled
    epoch are left over.
    """
    size = settings.minibatch_size
    for _ in range(settings.num_epochs):
        if size is None or size >= rows:
            yield None
            continue
        order = torch.randperm(rows, generator=generator, device=generator.device)
        yield from order[: rows - rows % size].split(size)


def loss_sums(
    policy: TeamPolicy, batch: Batch, settings: MAPPOSettings, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums over live rows of the loss (each owner's gradients are divided by its live rows later) and of statistics."""
    distribution = policy.distribution(batch.obs, roles=batch.roles, masks=batch.masks)
    live = batch.active.unsqueeze(-1)
    real = (
        policy.actor.real_actions()
    )  # padded dimensions have ratio 1: no gradient, but they would count in statistics
    log_ratio = distribution.log_prob(batch.actions) - batch.log_probs
    log_ratio = torch.where(live, log_ratio, 0.0)  # before exp: an overflow in a dead row would reach the gradient
    if settings.joint_ratio:
        log_ratio, real = log_ratio.sum(-1, keepdim=True), None
    ratio = log_ratio.exp()
    gain = clipped_surrogate(ratio, batch.advantages, settings.clip, real)
    policy_loss = -torch.where(batch.active, gain, 0.0).sum()
    values = policy.critic(batch.state)
    value_loss = clipped_value_loss(
        values, batch.values, batch.targets, settings.value_clip, settings.huber_delta
    ).sum()
    loss = policy_loss + settings.value_coeff * value_loss
    with torch.no_grad() if settings.entropy_coeff == 0 else torch.enable_grad():
        entropy = torch.where(batch.active, distribution.entropy(generator).sum(-1), 0.0).sum()
    if settings.entropy_coeff:
        loss = loss - settings.entropy_coeff * entropy
    with torch.no_grad():
        clipped = (live & ((ratio - 1).abs() > settings.clip)).float()
        stats = {
            "policy_loss": policy_loss,
            "vf_loss": value_loss,
            "entropy": entropy,
            "mean_kl_loss": torch.where(live, ratio - 1 - log_ratio, 0.0).sum(),
            "clip_fraction": (clipped.mean(-1) if real is None else clipped.sum(-1) / real.sum(-1)).sum(),
        }
    return loss, {name: value.detach().float() for name, value in stats.items()}


def live_rows(policy: TeamPolicy, batch: Batch) -> dict[str, Tensor]:
    """Live rows of every owner of every bank: "backbone" [G], "adapters" [K], "critic" [C]."""
    owners = policy.config.owners
    per_agent = batch.active.sum(0).float()  # [N]
    rows = {"backbone": _per_owner(per_agent, owners.backbone_of, owners.num_backbones)}
    if owners.routed_by == "role":
        assert batch.roles is not None
        rows["adapters"] = torch.bincount(batch.roles[batch.active], minlength=owners.num_adapters).float()
    elif owners.num_adapters:
        rows["adapters"] = _per_owner(per_agent, owners.adapter_of, owners.num_adapters)
    whole = torch.full_like(per_agent, float(len(batch)))
    if policy.critic.num_values == 1:
        rows["critic"] = whole[:1]
    else:
        rows["critic"] = _per_owner(whole, owners.critic_of, owners.num_critics)
    return rows


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout,
    settings: MAPPOSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
) -> dict[str, Tensor]:
    """One MAPPO iteration on one rollout. Returns means of statistics. Everything is on the policy's device.

    Per optimiser step: one forward, one backward, one flat sum over learners; then gradients become means over each
    owner's own live rows, are clipped per owner, and every owner with live rows takes its Adam step.
    """
    batch, log = prepare(policy, rollout, settings, all_sum)
    sums: list[Tensor] = []
    names: list[str] = []
    for rows in minibatches(len(batch), settings, generator):
        part = batch if rows is None else batch[rows]
        for optimiser in optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        loss, stats = loss_sums(policy, part, settings, generator)
        loss.backward()
        counts = live_rows(policy, part)
        stats["live"], stats["steps"] = part.active.sum().float(), stats["vf_loss"].new_tensor(part.values.numel())
        names = list(stats)
        flat = torch.stack(list(stats.values()))
        sum_over_learners(optimisers, counts, flat, all_sum)
        for name, norm in step(policy, optimisers, counts, settings.max_grad_norm).items():
            log[f"{name}_grad_norm"] = norm
        sums.append(flat)
    total = dict(zip(names, torch.stack(sums).sum(0), strict=True))
    live, value_rows = total.pop("live").clamp(min=1), total.pop("steps").clamp(min=1)
    log |= {name: value / (value_rows if name == "vf_loss" else live) for name, value in total.items()}
    log["total_loss"] = (
        log["policy_loss"] + settings.value_coeff * log["vf_loss"] - settings.entropy_coeff * log["entropy"]
    )
    return log


def step(
    policy: TeamPolicy, optimisers: Optimisers, counts: dict[str, Tensor], max_grad_norm: float | None
) -> dict[str, Tensor]:
    """Finishes gradients and steps every optimiser that trains in this phase. Returns mean gradient norms."""
    norms = {}
    for name, optimiser in optimisers.items():
        params = [p for group in optimiser.param_groups for p in group["params"]]
        if all(p.grad is None for p in params):  # frozen in this phase
            norms[name] = torch.zeros_like(counts[name].sum())
            continue
        moving = counts[name] > 0
        norm = finish_gradients(params, counts[name], max_grad_norm)
        optimiser.step(moving=moving)
        norms[name] = norm[moving].mean() if moving.any() else norm.sum()
    return norms


def sum_over_learners(optimisers: Optimisers, counts: dict[str, Tensor], stats: Tensor, all_sum: AllSum) -> None:
    """Adds gradients, live rows and statistics up over learners, in place, as one flat vector."""
    if all_sum is alone:
        return
    grads = [
        p.grad for o in optimisers.values() for group in o.param_groups for p in group["params"] if p.grad is not None
    ]
    tensors = [*grads, *counts.values(), stats]
    summed = all_sum(torch.cat([t.flatten() for t in tensors]))
    for tensor, part in zip(tensors, summed.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _per_owner(per_agent: Tensor, owner_of: tuple[int, ...], owners: int) -> Tensor:
    if owners == 1:
        return per_agent.sum(0, keepdim=True)
    index = torch.tensor(owner_of, device=per_agent.device)
    return torch.zeros(owners, device=per_agent.device).index_add_(0, index, per_agent)
