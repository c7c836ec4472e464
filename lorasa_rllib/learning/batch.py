"""From a rollout to what losses read: values, advantages and returns, cut into sequences and minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.gae import gae
from lorasa_rllib.learning.quirks import Quirks
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.policy import TeamPolicy

AllSum = Callable[[Tensor], Tensor]


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
    value_active_only: bool = False
    huber_delta: float | None = 10.0
    entropy_coeff: float = 0.0
    max_grad_norm: float | None = 10.0
    joint_ratio: bool = False
    num_epochs: int = 5
    minibatch_size: int | None = None
    chunk_length: int = 10
    quirks: Quirks = field(default_factory=Quirks)


@dataclass
class Batch:
    """C sequences of L environment steps (L = 1 for feed-forward networks): what the loss reads.

    obs [L, C, N, o]  state [L, C, S] or [L, C, N, S]  actions, log_probs [L, C, N, d]  active bool [L, C, N]
    advantages [L, C, N], standardised  values [L, C, V], normalised  returns [L, C, V], in units of reward
    masks [L, C, N, a] or None  roles [L, C, N] or None
    Recurrent networks: actor_state [C, N, h], critic_state [C, V, h], carried into the first step; keep bool [L, C, 1],
    False where an episode begins within a sequence.
    """

    obs: Tensor
    state: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor
    masks: Tensor | None = None
    roles: Tensor | None = None
    actor_state: Tensor | None = None
    critic_state: Tensor | None = None
    keep: Tensor | None = None

    def __len__(self) -> int:
        """C."""
        return self.obs.shape[1]

    @property
    def env_steps(self) -> int:
        """L * C."""
        return self.obs.shape[0] * self.obs.shape[1]

    def __getitem__(self, sequences: Tensor) -> Batch:
        columns: dict[str, Any] = {}
        for name, column in vars(self).items():
            by_sequence = name in ("actor_state", "critic_state")
            columns[name] = None if column is None else column[sequences] if by_sequence else column[:, sequences]
        return Batch(**columns)


def prepare(
    policy: TeamPolicy, rollout: TeamRollout, settings: MAPPOSettings, all_sum: AllSum = alone
) -> tuple[Batch, dict[str, Tensor]]:
    """Values, advantages and returns of a rollout (tensors); takes the returns into the value normaliser.

    Advantages are standardised over all live entries of all learners, jointly over agents.
    """
    values, next_values = state_values(policy, rollout)  # normalised [T, E, V]
    raw = policy.value_norm.denormalise(values)
    terminated, ended = rollout.terminated.unsqueeze(-1), (rollout.terminated | rollout.truncated).unsqueeze(-1)
    if rollout.left is not None:
        terminated, ended = terminated | rollout.left, ended | rollout.left
    advantages = gae(
        rollout.rewards.expand_as(raw),
        raw,
        policy.value_norm.denormalise(next_values),
        terminated,
        ended,
        settings.gamma,
        settings.lambda_,
        zeroed=rollout.truncated.unsqueeze(-1) if settings.quirks.zero_time_limits else None,
    )
    returns = advantages + raw
    counted = value_rows(returns, rollout.active, settings)
    if not settings.quirks.norm_every_step:
        take_in(policy, returns, counted, all_sum)
    batch = _in_sequences(policy, rollout, settings.chunk_length)
    batch.values, batch.returns = (_sequences(x, batch.obs.shape[0]) for x in (values, returns))
    advantages = advantages.expand(rollout.active.shape)
    batch.advantages = _sequences(standardise(advantages, rollout.active, all_sum), batch.obs.shape[0])
    return batch, {"vf_explained_var": _explained(values=raw, returns=returns, all_sum=all_sum)}


def value_rows(values: Tensor, active: Tensor, settings: MAPPOSettings) -> Tensor:
    """bool [..., V]: the rows that count in value loss and normaliser. One value for the whole team always does."""
    everything = values.shape[-1] != active.shape[-1] or not settings.value_active_only
    return torch.ones_like(values, dtype=torch.bool) if everything else active


def take_in(policy: TeamPolicy, returns: Tensor, counted: Tensor, all_sum: AllSum = alone) -> None:
    """Updates the value normaliser with returns [..., V] in units of reward."""
    kept = torch.where(counted, returns, 0.0).flatten(0, -2)
    rows = counted.flatten(0, -2).sum(0).to(returns.dtype)
    total, square, rows = all_sum(torch.cat([kept.sum(0), kept.square().sum(0), rows])).chunk(3)
    policy.value_norm.update(total / rows.clamp(min=1), square / rows.clamp(min=1), rows > 0)


@torch.no_grad()
def state_values(policy: TeamPolicy, rollout: TeamRollout) -> tuple[Tensor, Tensor]:
    """Normalised values [T, E, V] of every step's state, and of the state it led to (if truncated, the true last)."""
    stored = rollout.values is not None  # a recurrent critic ran along with the actor
    values = rollout.values if stored else policy.critic(rollout.state)  # [T + 1, E, V]
    next_values = values[1:]
    if len(rollout.final_index):
        next_values = next_values.clone()
        t, e = rollout.final_index.T
        next_values[t, e] = rollout.final_values if stored else policy.critic(rollout.final_state)
    return values[:-1], next_values


def standardise(advantages: Tensor, active: Tensor, all_sum: AllSum = alone) -> Tensor:
    """(A - mean) / (std + 1e-5) with mean and population std over live entries; both [..., N]."""
    live = torch.where(active, advantages, 0.0)
    total, square, count = all_sum(torch.stack([live.sum(), live.square().sum(), active.sum().to(live.dtype)]))
    mean = total / count.clamp(min=1)
    std = (square / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    return (advantages - mean) / (std + 1e-5)


def minibatches(batch: Batch, settings: MAPPOSettings, generator: torch.Generator) -> Iterator[Batch]:
    """Every minibatch of every epoch: whole sequences, `minibatch_size` environment steps.

    Sizes are equal, so that all learners take the same number of steps; up to a minibatch less one sequence of a
    shuffled epoch is left over.
    """
    size = None if settings.minibatch_size is None else max(1, settings.minibatch_size // batch.obs.shape[0])
    for _ in range(settings.num_epochs):
        if size is None or size >= len(batch):
            yield batch
            continue
        order = torch.randperm(len(batch), generator=generator, device=generator.device)
        for sequences in order[: len(batch) - len(batch) % size].split(size):
            yield batch[sequences]


def _in_sequences(policy: TeamPolicy, rollout: TeamRollout, chunk_length: int) -> Batch:
    """The columns of a rollout cut into sequences; values, returns and advantages are still to come."""
    recurrent = policy.config.network.recurrent or policy.config.network.critic_recurrent
    length = chunk_length if recurrent else 1
    if rollout.num_steps % length:
        raise ValueError(f"{rollout.num_steps} steps cannot be cut into chunks of chunk_length={length}.")
    keep = None
    if recurrent:
        begins = torch.zeros_like(rollout.terminated)
        begins[1:] = (rollout.terminated | rollout.truncated)[:-1]
        keep = _sequences(~begins, length).unsqueeze(-1)
        keep[0] = True  # the stored states are those after the reset

    def cut(column: Tensor | None) -> Any:
        return None if column is None else _sequences(column, length)

    def first(states: Tensor | None) -> Tensor | None:
        return None if states is None else states.flatten(0, 1)

    empty = rollout.obs.new_empty(0)
    return Batch(
        obs=cut(rollout.obs),
        state=cut(rollout.state[:-1]),
        actions=cut(rollout.actions),
        log_probs=cut(rollout.log_probs),
        active=cut(rollout.active),
        advantages=empty,
        values=empty,
        returns=empty,
        masks=cut(rollout.masks),
        roles=cut(rollout.roles),
        actor_state=first(rollout.actor_state),
        critic_state=first(rollout.critic_state),
        keep=keep,
    )


def _sequences(column: Tensor, length: int) -> Tensor:
    """[T, E, ...] -> [length, T / length * E, ...], sequences of consecutive steps of one environment."""
    steps, envs = column.shape[:2]
    cut = column.reshape(steps // length, length, envs, *column.shape[2:]).transpose(0, 1)
    return cut.reshape(length, -1, *column.shape[2:])


def _explained(values: Tensor, returns: Tensor, all_sum: AllSum) -> Tensor:
    """Share of the variance of returns that values explain, over all learners; 1 is perfect."""
    count = torch.ones_like(returns).sum()
    sums = torch.stack([returns.sum(), returns.square().sum(), (returns - values).square().sum(), count])
    total, square, error, rows = all_sum(sums)
    variance = (square / rows - (total / rows).square()).clamp(min=1e-8)
    return 1 - error / rows / variance
