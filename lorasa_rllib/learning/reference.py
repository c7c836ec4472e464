"""The published implementation's quirks (arXiv 2502.05573): off by default, on to compare like with like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.settings import A2PORules, Revaluation
from lorasa_rllib.learning.a2po.units import AgentUnit, Unit
from lorasa_rllib.learning.batch import Batch, MAPPOSettings, Targets, targets_of
from lorasa_rllib.learning.losses import huber
from lorasa_rllib.learning.normalisers import AllSum, update_value_norm
from lorasa_rllib.learning.rules import Rules
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout

NARROW_STD = 0.1
"""Standard deviation of a fresh value normaliser with `narrow_fresh_norm`."""


@dataclass(frozen=True)
class Quirks(A2PORules):
    """One switch per quirk of the published code (arXiv 2502.05573).

    one_sided_huber:       value errors below -huber_delta cost nothing. Off: the Huber loss is symmetric.
    zero_time_limits:      a step truncated by a time limit gets advantage 0, so its return is its value.
                           Off: it is bootstrapped with the value of the true last state.
    narrow_fresh_norm:     the value normaliser starts with standard deviation 0.1. Off: 1.
    norm_every_step:       the value normaliser is updated with the returns at every optimiser step, just before they
                           are normalised. Off: once per rollout.
    absent_memory:         the hidden states of absent and dead agents move on with observations of zeros, in training,
                           evaluation and `load_policy().act` by name. Off: agents begin without memory when they join
                           or return.

    A2PO only:

    lambda_twice:          `capped_factors` applies lambda twice. Off: once.
    first_position:        in the epoch loop every agent has the clip range of position 1. Off: that of its own.
    score_over_value:      the score that orders agents is the mean |A / V| over all rows, with standardised A and
                           normalised values V. Off: |A| over live rows.
    dead_ratios:           ratios of dead agents count in corrections and in the others' product. Off: they are 1.
    fresh_bootstrap:       corrections value the state after the last step with the current critic. Off: all values are
                           those of the rollout.
    single_step_ratios:    corrections of recurrent policies evaluate single steps from the hidden states at sampling
                           time. Off: the same chunks as the losses.
    """

    one_sided_huber: bool = False
    zero_time_limits: bool = False
    narrow_fresh_norm: bool = False
    norm_every_step: bool = False
    absent_memory: bool = False
    lambda_twice: bool = False
    first_position: bool = False
    score_over_value: bool = False
    dead_ratios: bool = False
    fresh_bootstrap: bool = False
    single_step_ratios: bool = False

    def value_error(self, values: Tensor, targets: Tensor, delta: float | None) -> Tensor:
        error = one_sided_huber if self.one_sided_huber else huber
        return error(values, targets, delta)

    def td_errors(self, errors: Tensor, truncated: Tensor) -> Tensor:
        return torch.where(truncated, 0.0, errors) if self.zero_time_limits else errors

    def before_passes(self, policy: TeamPolicy, returns: Tensor, counted: Tensor, all_sum: AllSum) -> None:
        if not self.norm_every_step:
            update_value_norm(policy, returns, counted, all_sum)

    def targets_of_step(
        self,
        policy: TeamPolicy,
        targets: Tensor,
        returns: Tensor,
        counted: Callable[[], Tensor],
        all_sum: AllSum,
        agents: tuple[int, ...] | None = None,
    ) -> Tensor:
        if not self.norm_every_step:
            return targets
        update_value_norm(policy, returns, counted(), all_sum, agents)
        return policy.value_norm.normalise(returns, slice(None) if agents is None else list(agents))

    @property
    def why_not_compiled(self) -> str | None:
        return "reference=True changes the value normaliser within steps" if self.norm_every_step else None

    def of_loss(self) -> Rules:
        return Quirks(one_sided_huber=True) if self.one_sided_huber else Rules()

    def position_of_clip(self, position: int, loop: str) -> int:
        return 1 if self.first_position and loop == "epoch" else position

    def correction_decay(self, gamma: float, lambda_: float, form: str) -> float:
        twice = self.lambda_twice and form == "capped_factors"
        return gamma * lambda_ * lambda_ if twice else gamma * lambda_

    def corrected_ratios(self, log_ratio: Tensor, active: Tensor) -> Tensor:
        return log_ratio if self.dead_ratios else torch.where(active, log_ratio, 0.0)

    def scored(
        self, gains: Tensor, values: Tensor, active: Tensor, standardised: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        if not self.score_over_value:
            return super().scored(gains, values, active, standardised)
        return (standardised(gains) / values).abs(), torch.ones_like(active)

    def revaluation(
        self, policy: TeamPolicy, rollout: TeamRollout[Tensor], batch: Batch, targets: Targets, settings: MAPPOSettings
    ) -> Revaluation | None:
        if self.norm_every_step or self.fresh_bootstrap:
            return _FreshValues(policy, rollout, batch, targets, settings, self.fresh_bootstrap)
        return None

    def log_probs_of_corrections(self, policy: TeamPolicy, batch: Batch) -> Callable[[], Tensor] | None:
        return _SingleSteps(policy, batch) if self.single_step_ratios and policy.actor.recurrent else None


REFERENCE = Quirks(**dict.fromkeys((field.name for field in fields(Quirks)), True))
"""The published implementation. Dead agents count in its value loss: `vf_active_only=False`, also our default."""


def rules_of(setting: bool | Quirks) -> A2PORules:
    """The rules that `.training(reference=True | False | Quirks(...))` selects."""
    if isinstance(setting, Quirks):
        return setting
    if not isinstance(setting, bool):
        raise ValueError(f"reference={setting!r} must be True, False or Quirks(...), see `lorasa_rllib.Quirks`.")
    return REFERENCE if setting else A2PORules()


def rules_from_dict(data: Mapping[str, bool]) -> A2PORules:
    """The rules of which `data` are the fields."""
    return Quirks(**data) if data else A2PORules()


def fresh_norm_std(setting: bool | Quirks) -> float:
    """Standard deviation of the value normaliser before its first update, for a value of `reference`."""
    rules = rules_of(setting)
    return NARROW_STD if isinstance(rules, Quirks) and rules.narrow_fresh_norm else 1.0


def absent_forget(setting: bool | Quirks) -> bool:
    """Whether absent agents lose their memory (`PolicyConfig.absent_forget`), for a value of `reference`."""
    rules = rules_of(setting)
    return not (isinstance(rules, Quirks) and rules.absent_memory)


def one_sided_huber(values: Tensor, targets: Tensor, delta: float | None) -> Tensor:
    """The Huber loss, 0 where a target is more than delta below its value."""
    loss = huber(values, targets, delta)
    return loss if delta is None else torch.where(targets - values < -delta, 0.0, loss)


class _FreshValues:
    """Values with the current normaliser; if `bootstrap`, the last one of the rollout also with the current critic.

    Recurrent critics continue from their hidden state after the last step, recomputed before the first optimiser step.
    """

    def __init__(
        self,
        policy: TeamPolicy,
        rollout: TeamRollout[Tensor],
        batch: Batch,
        targets: Targets,
        settings: MAPPOSettings,
        bootstrap: bool,
    ):
        self._policy, self._settings, self._bootstrap = policy, settings, bootstrap
        self.rollout = _with_values(rollout, targets.values, policy)
        replays = bootstrap and policy.critic.recurrent
        self._hidden = _last_critic_hidden(policy, batch, rollout) if replays else None

    def __call__(self, unit: Unit) -> Targets:
        rollout = self.rollout
        if self._bootstrap:
            last = self._policy.critic.unroll(rollout.state[-1:], self._hidden)[0][0]  # [E, V]
            if isinstance(unit, AgentUnit) and last.shape[-1] > 1:
                unit.put(rollout.values[-1], unit.columns(last), None)
            else:
                rollout.values[-1] = last
        return targets_of(self._policy, rollout, self._settings)


class _SingleSteps:
    """Log-probabilities of the actions taken under the current actor, one step at a time from stored hidden states."""

    @torch.no_grad()
    def __init__(self, policy: TeamPolicy, batch: Batch):
        self._policy, self._batch = policy, batch
        keep = _present(batch.actor_keep)
        _, after = policy.actor.unroll(
            batch.obs,
            roles=batch.roles,
            masks=batch.masks,
            adapters=policy.adapters_on,
            state=batch.actor_state,
            keep=keep,
        )
        into = torch.cat([_present(batch.actor_state)[None], _present(after)[:-1]])
        self._hidden = torch.where(keep.unsqueeze(-1), into, 0.0)  # [L, C, N, h], before each step

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """[L, C, N, d]."""
        batch = self._batch
        distribution = self._policy.distribution(
            batch.obs.flatten(0, 1)[None],
            roles=None if batch.roles is None else batch.roles.flatten(0, 1)[None],
            masks=None if batch.masks is None else batch.masks.flatten(0, 1)[None],
            state=self._hidden.flatten(0, 1),
        )
        log_probs: Tensor = distribution.log_prob(batch.actions.flatten(0, 1)[None])
        return log_probs.reshape(batch.log_probs.shape)


@torch.no_grad()
def _last_critic_hidden(policy: TeamPolicy, batch: Batch, rollout: TeamRollout[Tensor]) -> Tensor:
    """[E, V, h]: hidden states of a recurrent critic after the last step, zero if the episode ended there."""
    last = slice(len(batch) - rollout.num_envs, len(batch))  # the last chunk of every environment
    hidden, keep = _present(batch.critic_state)[last], _present(batch.keep)[:, last]
    _, after = policy.critic.unroll(batch.state[:, last], hidden, keep)
    ended = (rollout.terminated | rollout.truncated)[-1]
    return torch.where(ended[:, None, None], 0.0, _present(after)[-1])


@torch.no_grad()
def _with_values(rollout: TeamRollout[Tensor], values: Tensor, policy: TeamPolicy) -> TeamRollout[Tensor]:
    """The rollout with the critic's current values stored, `values` [T, E, V] given, for use after it has changed."""
    if rollout.values is not None:
        return rollout
    last, final = policy.critic(rollout.state[-1:]), policy.critic(rollout.final_state)
    return replace(rollout, values=torch.cat([values, last]), final_values=final)


def _present(column: Tensor | None) -> Tensor:
    """A column that recurrent policies always have."""
    if column is None:
        raise ValueError("a recurrent policy needs hidden states and `keep` in its batch.")
    return column
