"""The A2PO update: units are updated in sequence, each with advantages and ratios corrected for the units updated
before it.

Only rows that a step affects are re-evaluated, so unless units share trained weights, an epoch costs about one
evaluation per agent, not one per pair of agents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from lorasa_rllib.learning.a2po.advantages import Advantages
from lorasa_rllib.learning.a2po.log import Corrected, Stepped, summary
from lorasa_rllib.learning.a2po.order import ORDERS, Pick
from lorasa_rllib.learning.a2po.ratios import Ratios
from lorasa_rllib.learning.a2po.units import (
    CriticRows,
    Unit,
    UnitRows,
    critic_rows_of,
    leaves_of,
    product_of,
    reaching_others,
    rows_of,
    units_of,
)
from lorasa_rllib.learning.batch import MAPPOSettings, in_time, value_rows
from lorasa_rllib.learning.flat import Leaves
from lorasa_rllib.learning.normalisers import AllSum, alone, update_obs_norm, update_value_norm
from lorasa_rllib.learning.passes import Counts, per_owner, rows_of_roles, shuffled
from lorasa_rllib.learning.replay import actor_states, log_probs_of_single_steps
from lorasa_rllib.learning.step import Optimisers, arrange, moved_far, policy_sums, take_step, value_sums
from lorasa_rllib.nn.policy import Group, TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


@dataclass(frozen=True)
class A2POSettings(MAPPOSettings):
    """Settings of the update in addition to MAPPO's. `A2POConfig.training` documents them for users.

    agent_order:    a key of `ORDERS`.
    units_per_step: number of units (see `learning.a2po.units`) updated together.
    loop:           "agent": each unit runs all its epochs in turn. "epoch": every epoch goes through all units.
    two_stage:      precede each step of actor and critic with a step of the critic alone.
    correction:     a key of `CORRECTIONS`: how advantages are corrected for units updated before; None: not at all.
    others_clip:    the product of the others' ratios is clipped to 1 +- others_clip; None: half the unit's clip range.
    late:           rollouts come from an older policy, so ratios are not 1 at the start.
    clip_growth:    the clip range of position k of m is clip * (1 - clip_growth * (1 - k / m)).
    """

    agent_order: str = "semi_greedy"
    units_per_step: int = 1
    loop: Literal["agent", "epoch"] = "agent"
    two_stage: bool = True
    correction: str | None = "capped_factors"
    others_clip: float | None = 0.1
    clip_growth: float = 0.5
    late: bool = False

    def clip_at(self, position: int, steps: int) -> float:
        """Clip range at a position, counted from 1, in a sequence of `steps`."""
        return self.clip * (1 - self.clip_growth * (1 - position / steps))


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout,
    settings: A2POSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
) -> dict[str, Tensor]:
    """One A2PO iteration on one rollout. Returns means of statistics. All tensors are on the policy's device."""

    def pick(choices: int) -> int:
        return int(torch.randint(choices, (1,), generator=generator, device=generator.device))

    # Noise has its own generator: learners may draw different amounts of noise but must agree on every pick.
    noise = torch.Generator(generator.device).manual_seed(pick(2**31))
    sequence = SequentialUpdate(policy, optimisers, rollout, settings, pick, noise, all_sum)
    events = [event for event in sequence.events() if isinstance(event, Stepped)]
    update_obs_norm(policy, rollout, settings.obs_norm_in_adapter_phase, all_sum)
    return sequence.log | summary(events, settings, -(-rollout.num_agents // settings.units_per_step))


class SequentialUpdate:
    """One A2PO iteration; iterating over `events()` performs it.

    ratios:      of all rows, current once a unit is done
    advantages:  as last corrected
    order:       the units in their latest order
    """

    def __init__(
        self,
        policy: TeamPolicy,
        optimisers: Optimisers,
        rollout: TeamRollout,
        settings: A2POSettings,
        pick: Pick,
        noise: torch.Generator | None = None,
        all_sum: AllSum = alone,
    ):
        self._policy, self._optimisers, self._settings = policy, optimisers, settings
        arrange(optimisers.values())
        self._leaves: dict[tuple[Unit, Group], Leaves] = {}
        self._pick, self._noise, self._all_sum = pick, noise, all_sum
        self._num_envs = rollout.num_envs
        self.advantages = Advantages(policy, rollout, settings, all_sum)
        self.batch, self.log = self.advantages.batch, self.advantages.log
        self.ratios = Ratios(policy, self.batch, settings)
        if settings.late:
            self.ratios.refresh()
        self._counted = value_rows(self.batch.values, self.batch.active, settings)
        replays = settings.quirks.single_step_ratios and policy.actor.recurrent
        self._states = actor_states(policy, self.batch) if replays else None
        self._units = units_of(policy)
        self._scores = self.advantages.scores(self._units)
        self.order: list[Unit] = []
        self._turn: list[dict[str, Tensor]] = []  # sums of statistics per step, for one pass through all units

    def events(self) -> Iterator[Corrected | Stepped]:
        """Performs the update; yields an event after every correction and optimiser step. Must be exhausted."""
        if self._settings.loop == "agent":
            yield from self._through(self._settings.num_epochs)
            return
        for epoch in range(self._settings.num_epochs):
            if epoch and self._settings.recompute_advantages:
                self.batch = self.advantages.recompute()
            if epoch and self._settings.correction:
                yield self._correct(None)
            self._turn.clear()
            yield from self._through(1)
            if moved_far(self._turn, self._settings.target_kl):
                break

    def _through(self, epochs: int) -> Iterator[Corrected | Stepped]:
        """Goes through all units once, each with `epochs` epochs."""
        settings = self._settings
        indices = ORDERS[settings.agent_order](self._scores, self._pick)
        size = settings.units_per_step
        self.order = [
            Unit.joined([self._units[i] for i in indices[start : start + size]])
            for start in range(0, len(indices), size)
        ]
        before = torch.zeros_like(self.ratios.log_ratio[..., 0])  # log of the product of the done units' ratios, [L, C]
        reaching = reaching_others(self._policy, self.order)
        again = settings.recompute_advantages and settings.loop == "agent"
        for position, (unit, reaches_others) in enumerate(zip(self.order, reaching, strict=True), 1):
            done = self.order[: position - 1]
            if again and done:
                self.batch = self.advantages.recompute()
            if done and settings.correction:
                yield self._correct(unit, before, done)
            advantages: Tensor = self.advantages.of(unit)
            whole: tuple[UnitRows, CriticRows] | None = None  # without minibatches, rows are the same in every pass
            first = settings.loop == "epoch" and settings.quirks.first_position
            clip = settings.clip_at(1 if first else position, len(self.order))
            for number in range(epochs):
                if again and number:
                    self.batch = self.advantages.recompute()
                    if done and settings.correction:
                        yield self._correct(unit, before, done)
                    advantages, whole = self.advantages.of(unit), None
                taken = []
                for sequences in self._minibatches():
                    rows, values = whole or self._rows(unit, sequences, advantages)
                    whole = (rows, values) if sequences is None else None
                    if settings.two_stage:
                        yield self._step(unit, None, values, position, clip)
                    rows.others = self._others(unit, rows, before, clip, sequences)
                    stepped = self._step(unit, rows, values, position, clip)
                    taken.append(stepped.stats)
                    yield stepped
                self._turn += taken
                if reaches_others:  # including those that are done
                    self.ratios.refresh(unit)
                    before = self._product(done)
                if moved_far(taken, settings.target_kl):
                    break
            if not reaches_others:
                self.ratios.refresh(unit)
            before = before + self.ratios.product(unit)

    def _minibatches(self) -> Sequence[Tensor | None]:
        """The sequences of each minibatch of one pass; None: all of them."""
        order, size = shuffled(self.batch, self._settings, self._noise)
        return (None,) if order is None else order.split(size)

    def _rows(self, unit: Unit, sequences: Tensor | None, advantages: Tensor) -> tuple[UnitRows, CriticRows]:
        """The rows for actor and critic in a step of the unit; `others` is not yet set."""
        part, counted = self.batch, self._counted
        if sequences is not None:
            part, counted, advantages = part[sequences], counted[:, sequences], advantages[:, sequences]
        rows = rows_of(part, unit)
        if rows.sequences is not None:
            advantages = advantages.flatten(1, 2).index_select(1, rows.sequences)
        rows.advantages = advantages
        return rows, critic_rows_of(part, unit, counted)

    # One step

    def _step(self, unit: Unit, rows: UnitRows | None, values: CriticRows, position: int, clip: float) -> Stepped:
        """One optimiser step of the critic and, unless `rows` is None, the actor."""
        policy, settings = self._policy, replace(self._settings, clip=clip)
        if settings.quirks.norm_every_step:
            update_value_norm(policy, values.returns, values.counted, self._all_sum, values.agents)
            outputs = slice(None) if values.agents is None else list(values.agents)
            values = replace(values, targets=policy.value_norm.normalise(values.returns, outputs))
        groups: tuple[Group, ...] = ("critic",) if rows is None else ("backbone", "adapters", "critic")
        leaves = {group: self._leaves_of(unit, group) for group in groups if group in self._optimisers}
        value_loss = self._value_loss(values, leaves["critic"], settings)
        loss = settings.value_coeff * value_loss / len(self.order)
        stats = {"vf_loss": value_loss.detach().float(), "value_rows": values.counted.sum().float()}
        counts: Counts = {"critic": self._critic_counts(values)}
        if rows is not None:
            policy_loss, more = self._policy_loss(rows, leaves, settings)
            loss = loss + policy_loss
            others = torch.where(rows.active, rows.others, 0.0).sum().float()
            stats |= {**more, "others_ratio": others, "live": rows.active.sum().float()}
            counts |= self._actor_counts(unit, rows)
        flat = torch.stack(list(stats.values()))
        sums = [*counts.values(), flat]
        norms = take_step(loss, leaves, self._optimisers, counts, settings.max_grad_norm, self._all_sum, sums)
        return Stepped(unit, position, clip, rows is None, dict(zip(stats, flat, strict=True)), norms)

    def _leaves_of(self, unit: Unit, group: Group) -> Leaves:
        key = unit, group
        if key not in self._leaves:
            self._leaves[key] = leaves_of(self._policy, self._optimisers[group], unit, group)
        return self._leaves[key]

    def _value_loss(self, rows: CriticRows, leaves: Leaves, settings: A2POSettings) -> Tensor:
        inputs = rows.state, rows.hidden, rows.keep, rows.agents
        values = functional_call(self._policy.critic, leaves.in_place, inputs)
        return value_sums(values, rows.values, rows.targets, rows.counted, settings)

    def _policy_loss(
        self, rows: UnitRows, leaves: Mapping[Group, Leaves], settings: A2POSettings
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actor = self._policy.actor
        swapped = {name: leaf for group in leaves if group != "critic" for name, leaf in leaves[group].in_place.items()}
        inputs = {"adapters": self._policy.adapters_on, **rows.inputs()}
        distribution = functional_call(actor, swapped, (rows.obs,), inputs)
        real = actor.real_actions(rows.agent)
        return policy_sums(distribution, rows, settings, real, self._noise, rows.others)

    def _actor_counts(self, unit: Unit, rows: UnitRows) -> Counts:
        """Live rows of the unit per owner: "backbone" [G], "adapters" [K]."""
        owners = self._policy.config.owners
        counts: Counts = {}
        if unit.roles:
            assert rows.roles is not None
            counts["backbone"] = rows.active.sum().float()[None]
            counts["adapters"] = rows_of_roles(rows.roles[None], rows.active[None], owners.num_adapters)[0]
            return counts
        live = rows.active.sum((0, 1)).float()
        counts["backbone"] = per_owner(live, [owners.backbone_of[a] for a in unit.agents], owners.num_backbones)
        if owners.routed_by == "role":
            counts["adapters"] = rows_of_roles(rows.roles[None], rows.active[None], owners.num_adapters)[0]  # type: ignore[index]
        elif owners.num_adapters:
            counts["adapters"] = per_owner(live, [owners.adapter_of[a] for a in unit.agents], owners.num_adapters)
        return counts

    def _critic_counts(self, rows: CriticRows) -> Tensor:
        """Number of the unit's values in the value loss, per critic [C]."""
        owners = self._policy.config.owners
        counted = rows.counted.sum((0, 1)).float()
        agents = range(len(owners.critic_of)) if rows.agents is None else rows.agents
        return per_owner(counted, [owners.critic_of[a] for a in agents], owners.num_critics)

    # Ratios of the others

    def _product(self, units: list[Unit]) -> Tensor:
        """[L, C]: log of the product of several units' ratios."""
        if not units:
            return torch.zeros_like(self.ratios.log_ratio[..., 0])
        return self.ratios.product(Unit.joined(units))

    def _others(
        self, unit: Unit, rows: UnitRows, before: Tensor, clip: float, sequences: Tensor | None = None
    ) -> Tensor:
        """Clipped product of other units' ratios for each row of the unit.

        `loop="agent"`: of the units updated before it (`before`, [L, C]); "epoch": of all other agents.
        """
        if self._settings.loop == "epoch":
            before = self.ratios.log_ratio.sum(-1) - self.ratios.product(unit)
        width = clip / 2 if self._settings.others_clip is None else self._settings.others_clip
        others = before.exp().clamp(1 - width, 1 + width).unsqueeze(-1)
        others = others if sequences is None else others[:, sequences]
        if rows.sequences is None:
            return others.expand(rows.active.shape)
        return others.expand(-1, -1, self.batch.active.shape[-1]).flatten(1, 2).index_select(1, rows.sequences)

    def _correct(self, unit: Unit | None, before: Tensor | None = None, done: Sequence[Unit] = ()) -> Corrected:
        """Corrects a unit's advantages for itself and the units `done`, whose log product is `before`.

        `unit=None`: corrects all agents for all units.
        """
        if self._states is not None:
            log_probs = log_probs_of_single_steps(self._policy, self.batch, self._states)
            table = self.ratios.log_ratio_of(log_probs)
            product = table.sum(-1) if unit is None else product_of(table, self.batch, Unit.joined([*done, unit]))
        elif unit is None:
            product = self.ratios.log_ratio.sum(-1)
        else:
            assert before is not None
            product = before + self.ratios.product(unit)
        log_ratios = in_time(product, self._num_envs)
        assert self._settings.correction is not None
        self.advantages.correct(unit, log_ratios, self._settings.correction)
        return Corrected(unit, log_ratios)
