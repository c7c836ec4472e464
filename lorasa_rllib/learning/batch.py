"""Turns a rollout into a batch with values, advantages and returns, cut into sequences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lorasa_rllib.learning import recipe
from lorasa_rllib.learning.gae import gae, td_errors
from lorasa_rllib.learning.losses import PolicyLoss, clipped_policy_loss
from lorasa_rllib.learning.normalisers import AllSum, alone
from lorasa_rllib.learning.rules import Rules
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.nn.rows import known_roles
from lorasa_rllib.rollout.columns import TeamRollout


@dataclass(frozen=True)
class MAPPOSettings:
    """Settings of the update, which `TeamConfig.training` documents for users, under the config's names.

    Defaults are those of the published implementation; configs replace some by `learning.recipe`.
    """

    gamma: float = recipe.GAMMA
    lambda_: float = recipe.LAMBDA
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
    recompute_advantages: bool = False
    target_kl: float | None = None
    chunk_length: int = 10
    obs_norm_in_adapter_phase: bool = False
    policy_loss: PolicyLoss = clipped_policy_loss
    rules: Rules = field(default_factory=Rules)


@dataclass
class Batch:
    """C sequences of L environment steps (L = 1 for feed-forward networks), as the loss reads them.

    obs [L, C, N, o]  state [L, C, S] or [L, C, N, S]  actions, log_probs [L, C, N, d]  active bool [L, C, N]
    advantages [L, C, N], standardised  values [L, C, V], normalised  returns [L, C, V], in units of reward
    targets [L, C, V]: normalised returns
    masks bool [L, C, N, a] or None  roles int64 [L, C, N] or None, -1 for roles without an adapter
    Recurrent networks: actor_state [C, N, h], critic_state [C, V, h], hidden states before the first step; keep bool
    [L, C, 1], False where an episode begins within a sequence; actor_keep bool [L, C, N], also False where an agent
    was absent in the step before (unless `PolicyConfig.absent_forget` is off): it joins or returns without memory.
    """

    obs: Tensor
    state: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor
    targets: Tensor
    masks: Tensor | None = None
    roles: Tensor | None = None
    actor_state: Tensor | None = None
    critic_state: Tensor | None = None
    keep: Tensor | None = None
    actor_keep: Tensor | None = None

    def __len__(self) -> int:
        """C."""
        return self.obs.shape[1]

    @property
    def per_agent(self) -> bool:
        """Whether the critic has a value per agent."""
        return self.values.shape[2] == self.active.shape[2]

    @property
    def env_steps(self) -> int:
        """L * C."""
        return self.obs.shape[0] * self.obs.shape[1]

    def __getitem__(self, sequences: Tensor) -> Batch:
        return Batch(**{name: column.index_select(axis, sequences) for name, column, axis in self._columns()})

    def split(self, size: int) -> list[Batch]:
        """Parts of `size` sequences each, as views."""
        names = [name for name, _, _ in self._columns()]
        parts = zip(*(torch.split(column, size, axis) for _, column, axis in self._columns()), strict=True)
        return [Batch(**dict(zip(names, part, strict=True))) for part in parts]

    def _columns(self) -> list[tuple[str, Tensor, int]]:
        """Name, column and sequence axis of every column that is present."""
        by_sequence = ("actor_state", "critic_state")
        columns = [(name, column) for name, column in vars(self).items() if column is not None]
        return [(name, column, int(name not in by_sequence)) for name, column in columns]


@dataclass
class Targets:
    """Value estimates and advantages of a rollout, all [T, E, V].

    values: normalised  baseline: values in units of reward  errors: `td_errors`  gains: advantages, in units of reward
    ended: bool, broadcastable, terminated or truncated
    """

    values: Tensor
    baseline: Tensor
    errors: Tensor
    ended: Tensor
    gains: Tensor

    @property
    def returns(self) -> Tensor:
        """[T, E, V], in units of reward."""
        return self.gains + self.baseline


def targets_of(policy: TeamPolicy, rollout: TeamRollout[Tensor], settings: MAPPOSettings) -> Targets:
    """Values, TD errors and advantages of a rollout (tensors). No side effects."""
    values, next_values = state_values(policy, rollout)
    baseline = policy.value_norm.denormalise(values)
    terminated, ended = rollout.terminated.unsqueeze(-1), (rollout.terminated | rollout.truncated).unsqueeze(-1)
    if rollout.left is not None:
        terminated, ended = terminated | rollout.left, ended | rollout.left
    if rollout.cut is not None:
        ended = ended | rollout.cut
    errors = td_errors(
        rollout.rewards.expand_as(baseline),
        baseline,
        policy.value_norm.denormalise(next_values),
        terminated,
        settings.gamma,
    )
    errors = settings.rules.td_errors(errors, rollout.truncated.unsqueeze(-1))
    return Targets(values, baseline, errors, ended, gae(errors, ended, settings.gamma * settings.lambda_))


def prepare(
    policy: TeamPolicy, rollout: TeamRollout[Tensor], settings: MAPPOSettings, all_sum: AllSum = alone
) -> tuple[Batch, dict[str, Tensor]]:
    """The batch of a rollout, and metrics. Updates the value normaliser with the returns.

    Advantages are standardised over the live entries of all agents and learners.
    """
    return in_batch(policy, rollout, targets_of(policy, rollout, settings), settings, all_sum)


def in_batch(
    policy: TeamPolicy, rollout: TeamRollout[Tensor], targets: Targets, settings: MAPPOSettings, all_sum: AllSum = alone
) -> tuple[Batch, dict[str, Tensor]]:
    """As `prepare`, from precomputed targets."""
    counted = value_rows(targets.returns, rollout.active, settings)
    settings.rules.before_passes(policy, targets.returns, counted, all_sum)
    batch = _in_sequences(policy, rollout, targets, settings, all_sum)
    explained = _explained(values=targets.baseline, returns=targets.returns, all_sum=all_sum)
    return batch, {"vf_explained_var": explained}


def with_targets(
    policy: TeamPolicy, batch: Batch, rollout: TeamRollout[Tensor], targets: Targets, all_sum: AllSum = alone
) -> Batch:
    """The batch with the values, returns and standardised advantages of `targets`."""
    return replace(batch, **_learnt(policy, rollout, targets, len(batch.obs), all_sum))


def _learnt(
    policy: TeamPolicy, rollout: TeamRollout[Tensor], targets: Targets, length: int, all_sum: AllSum
) -> dict[str, Tensor]:
    """The columns of a batch that depend on the critic, in sequences of `length` steps."""
    gains = standardise(targets.gains.expand(rollout.active.shape), rollout.active, all_sum)
    returns = in_sequences(targets.returns, length)
    return {
        "advantages": in_sequences(gains, length),
        "values": in_sequences(targets.values, length),
        "returns": returns,
        "targets": policy.value_norm.normalise(returns),
    }


def value_rows(values: Tensor, active: Tensor, settings: MAPPOSettings) -> Tensor:
    """bool [..., V]: the values that count in value loss and normaliser. A single value for the team always counts."""
    everything = values.shape[-1] != active.shape[-1] or not settings.value_active_only
    return torch.ones_like(values, dtype=torch.bool) if everything else active


@torch.no_grad()
def state_values(policy: TeamPolicy, rollout: TeamRollout[Tensor]) -> tuple[Tensor, Tensor]:
    """Normalised values [T, E, V] of each step's state, and of its successor (if truncated, the true last state)."""
    stored = rollout.values is not None  # by env runners, which step recurrent critics
    values = rollout.values if stored else policy.critic(rollout.state)  # [T + 1, E, V]
    next_values = values[1:]
    if len(rollout.final_index):
        next_values = next_values.clone()
        t, e = rollout.final_index.T
        final = rollout.final_values if stored else policy.critic(rollout.final_state)
        if rollout.cut is None:
            next_values[t, e] = final
        else:  # if the episode continues, only for the agents that were truncated; no step has two entries
            whose = rollout.truncated[t, e].unsqueeze(-1) | rollout.cut[t, e]
            next_values[t, e] = torch.where(whose, final, next_values[t, e])
    return values[:-1], next_values


def moments(advantages: Tensor, active: Tensor) -> Tensor:
    """[3]: sum, sum of squares and count of live entries."""
    live = torch.where(active, advantages, 0.0)
    return torch.stack([live.sum(), live.square().sum(), active.sum().to(live.dtype)])


def standardise(advantages: Tensor, active: Tensor, all_sum: AllSum = alone, sums: Tensor | None = None) -> Tensor:
    """(A - mean) / (std + 1e-5), with mean and population std over the live entries of all learners; both [..., N].

    sums: `moments` to standardise with; None: those of `advantages`.
    """
    total, square, count = all_sum(moments(advantages, active) if sums is None else sums.clone())
    mean = total / count.clamp(min=1)
    std = (square / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    standard: Tensor = (advantages - mean) / (std + 1e-5)
    return standard


def _in_sequences(
    policy: TeamPolicy, rollout: TeamRollout[Tensor], targets: Targets, settings: MAPPOSettings, all_sum: AllSum
) -> Batch:
    """A rollout and its targets, cut into sequences."""
    recurrent = policy.config.network.recurrent or policy.config.network.critic_recurrent
    length = settings.chunk_length if recurrent else 1
    if rollout.num_steps % length:
        raise ValueError(f"{rollout.num_steps} steps cannot be cut into chunks of chunk_length={length}.")
    keep = actor_keep = None
    if recurrent:
        ended = (rollout.terminated | rollout.truncated).unsqueeze(-1)
        keep = _into_next(~ended, length)
        if policy.config.network.recurrent:
            remembers = rollout.active if policy.config.absent_forget else torch.ones_like(rollout.active)
            actor_keep = _into_next(~ended & remembers, length)
    roles = rollout.roles
    return Batch(
        obs=in_sequences(rollout.obs, length),
        state=in_sequences(rollout.state[:-1], length),
        actions=in_sequences(rollout.actions, length),
        log_probs=in_sequences(rollout.log_probs, length),
        active=in_sequences(rollout.active, length),
        **_learnt(policy, rollout, targets, length, all_sum),
        masks=None if rollout.masks is None else in_sequences(rollout.masks, length),
        roles=None if roles is None else in_sequences(known_roles(roles, policy.config.owners.num_adapters), length),
        actor_state=None if rollout.actor_state is None else rollout.actor_state.flatten(0, 1),
        critic_state=None if rollout.critic_state is None else rollout.critic_state.flatten(0, 1),
        keep=keep,
        actor_keep=actor_keep,
    )


def _into_next(after: Tensor, length: int) -> Tensor:
    """bool [T, E, ...], whether memory outlasts each step -> [L, C, ...]: whether it reaches the step.

    True in the first steps of sequences, whose stored hidden states already account for it.
    """
    kept = in_sequences(after.roll(1, 0), length)
    kept[0] = True
    return kept


def in_sequences(column: Tensor, length: int) -> Tensor:
    """[T, E, ...] -> [length, T / length * E, ...]: sequences of consecutive steps of one environment."""
    steps, envs = column.shape[:2]
    cut = column.reshape(steps // length, length, envs, *column.shape[2:]).transpose(0, 1)
    return cut.reshape(length, -1, *column.shape[2:])


def in_time(sequences: Tensor, num_envs: int) -> Tensor:
    """[L, C, ...] -> [T, E, ...]: the inverse of `in_sequences`."""
    length = len(sequences)
    cut = sequences.reshape(length, -1, num_envs, *sequences.shape[2:]).transpose(0, 1)
    return cut.reshape(-1, *cut.shape[2:])


def _explained(values: Tensor, returns: Tensor, all_sum: AllSum) -> Tensor:
    """Explained variance of returns under values, over all learners; 1 is perfect."""
    count = torch.ones_like(returns).sum()
    sums = torch.stack([returns.sum(), returns.square().sum(), (returns - values).square().sum(), count])
    total, square, error, rows = all_sum(sums)
    variance = (square / rows - (total / rows).square()).clamp(min=1e-8)
    explained: Tensor = 1 - error / rows / variance
    return explained
