"""The A2PO update: units are updated in sequence, each with advantages and ratios corrected for the units updated
before it.

Ratios are evaluated only where they are read next: after a unit's turn for the rows that its steps changed, between its
passes for what the next pass reads. So unless units share trained weights, a turn costs one evaluation of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.advantages import Advantages
from lorasa_rllib.learning.a2po.compiled import CompilableUnitStep, UnitCompiler
from lorasa_rllib.learning.a2po.log import Corrected, Stepped, summary
from lorasa_rllib.learning.a2po.order import ORDERS, Pick
from lorasa_rllib.learning.a2po.ratios import Ratios
from lorasa_rllib.learning.a2po.rows import CriticRows, UnitRows
from lorasa_rllib.learning.a2po.settings import A2POSettings
from lorasa_rllib.learning.a2po.unit_step import ReplayedUnitStep, Step, UnitStep
from lorasa_rllib.learning.a2po.units import Unit, reaching_others, units_of
from lorasa_rllib.learning.batch import in_time, value_rows
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.normalisers import AllSum, alone, update_obs_norm
from lorasa_rllib.learning.passes import shuffled
from lorasa_rllib.learning.replayed import changed, key_of
from lorasa_rllib.learning.step import Optimisers, arrange, moved_far
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout[Tensor],
    settings: A2POSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
    compiler: StepCompiler | None = None,
) -> dict[str, Tensor]:
    """One A2PO iteration on one rollout. Returns means of statistics. All tensors are on the policy's device.

    compiler: compiles optimiser steps, which are used as soon as they are ready; on a GPU it replays them, and
    corrections, as CUDA graphs. None: they run one operation after the other.
    """

    def pick(choices: int) -> int:
        return int(torch.randint(choices, (1,), generator=generator, device=generator.device))

    # Noise has its own generator: learners may draw different amounts of noise but must agree on every pick.
    noise = torch.Generator(generator.device).manual_seed(pick(2**31))
    sequence = SequentialUpdate(policy, optimisers, rollout, settings, pick, noise, all_sum, compiler)
    steps = sequence.run()
    changed(optimisers)  # replayed steps count on the device only
    update_obs_norm(policy, rollout, settings.obs_norm_in_adapter_phase, all_sum)
    return sequence.log | summary(steps, settings, -(-rollout.num_agents // settings.units_per_step))


@dataclass(frozen=True)
class Turn:
    """A unit's turn in a sequence. position: counted from 1. clip: clip range of its ratios."""

    unit: Unit
    position: int
    clip: float


class SequentialUpdate:
    """One A2PO iteration; `run()` performs it.

    ratios:      of all rows, current once a unit is done
    advantages:  as last corrected
    order:       the units in their latest order
    """

    def __init__(
        self,
        policy: TeamPolicy,
        optimisers: Optimisers,
        rollout: TeamRollout[Tensor],
        settings: A2POSettings,
        pick: Pick,
        noise: torch.Generator | None = None,
        all_sum: AllSum = alone,
        compiler: StepCompiler | None = None,
    ):
        self._policy, self._optimisers, self._settings = policy, optimisers, settings
        arrange(optimisers.values())
        # Joined units seldom come back in another iteration, so graphs of them would not pay.
        replays = compiler is not None and settings.units_per_step == 1 and compiler.replays(policy, settings, all_sum)
        self._graphs = compiler.graphs if compiler is not None and replays else None
        self._compiler = None if compiler is None or replays else UnitCompiler(compiler)
        self._steps_of: dict[Unit, Step] = {}
        self._pick, self._noise, self._all_sum = pick, noise, all_sum
        self._num_envs = rollout.num_envs
        self.advantages = Advantages(policy, rollout, settings, all_sum, self._graphs)
        self.batch, self.log = self.advantages.batch, self.advantages.log
        self.ratios = Ratios(policy, self.batch, settings)
        if settings.late:
            self.ratios.refresh()
        self._counted = value_rows(self.batch.values, self.batch.active, settings)
        self._log_probs_now = settings.rules.log_probs_of_corrections(policy, self.batch)
        self._units = units_of(policy)
        self._scores = self.advantages.scores(self._units)
        self.order: list[Unit] = []
        self._steps: list[Stepped] = []
        self._watch: Callable[[Corrected | Stepped], None] | None = None

    def run(self, watch: Callable[[Corrected | Stepped], None] | None = None) -> list[Stepped]:
        """Performs the update. Returns all optimiser steps. watch: called after every correction and optimiser step."""
        settings, self._watch = self._settings, watch
        if settings.loop == "agent":
            self._through(settings.num_epochs)
            return self._steps
        for epoch in range(settings.num_epochs):
            if epoch and settings.recompute_advantages:
                self.batch = self.advantages.recompute()
            if epoch and settings.correction:
                self._correct(None, self._product_of_all())
            begin = len(self._steps)
            self._through(1)
            if self._moved_far(begin):
                break
        return self._steps

    def _through(self, epochs: int) -> None:
        """Goes through all units once, each with `epochs` epochs."""
        settings = self._settings
        indices = ORDERS[settings.agent_order](self._scores, self._pick)
        size = settings.units_per_step
        self.order = [
            Unit.joined([self._units[i] for i in indices[start : start + size]])
            for start in range(0, len(indices), size)
        ]
        before = self._product([])
        reaching = reaching_others(self._policy, self.order)
        again = settings.recompute_advantages and settings.loop == "agent"
        for position, (unit, reaches_others) in enumerate(zip(self.order, reaching, strict=True), 1):
            done = self.order[: position - 1]
            clip = settings.clip_at(settings.rules.position_of_clip(position, settings.loop), len(self.order))
            turn = Turn(unit, position, clip)
            fixed: tuple[UnitRows, CriticRows] | None = None  # without minibatches, rows are the same in every pass
            for epoch in range(epochs):
                if again and (done or epoch):
                    self.batch = self.advantages.recompute()
                if again or not epoch:
                    if done and settings.correction:
                        self._correct(unit, before + self.ratios.product(unit), done)
                    advantages, fixed = self.advantages.of(unit), None
                begin = len(self._steps)
                for sequences in self._minibatches():
                    rows, values = fixed or self._rows(unit, sequences, advantages)
                    fixed = (rows, values) if sequences is None else None
                    if settings.two_stage:
                        self._step(turn, values)
                    self._step(turn, values, rows, self._others(turn, rows, before, sequences))
                if epoch + 1 == epochs or self._moved_far(begin):
                    break
                # What the next pass reads and this one changed.
                corrects = again and done and settings.correction
                stale = [*(done if reaches_others else ()), *((unit,) if corrects else ())]
                if stale:
                    self.ratios.evaluate(Unit.joined(stale))
                    before = self._product(done)
            self.ratios.refresh(unit)
            before = self._product([*done, unit])

    def _moved_far(self, begin: int) -> bool:
        """Whether the mean KL of all steps from `begin` on exceeds `target_kl`."""
        acted = [step.stats for step in self._steps[begin:] if not step.critic_only]
        return moved_far(acted, self._settings.target_kl)

    def _minibatches(self) -> Sequence[Tensor | None]:
        """The sequences of each minibatch of one pass; None: all of them."""
        order, size = shuffled(self.batch, self._settings, self._noise)
        return (None,) if order is None else torch.split(order, size)

    def _rows(self, unit: Unit, sequences: Tensor | None, advantages: Tensor) -> tuple[UnitRows, CriticRows]:
        """The rows for actor and critic in a step of the unit. advantages [L, C, n]: in the unit's columns."""
        part, counted = self.batch, self._counted
        if sequences is not None:
            part, counted, advantages = part[sequences], counted[:, sequences], advantages[:, sequences]
        rows = unit.rows(part)
        return replace(rows, advantages=rows.place.take_columns(advantages)), unit.values(part, counted)

    # One step

    def _step(self, turn: Turn, values: CriticRows, rows: UnitRows | None = None, others: Tensor | None = None) -> None:
        """One optimiser step of the critic and, with `rows` and the product of the `others`' ratios, of the actor."""
        sums, norms = self._step_of(turn.unit)(turn.clip, values, rows, others, self._noise)
        step = Stepped(turn.unit, turn.position, turn.clip, sums, norms)
        self._steps.append(step)
        if self._watch is not None:
            self._watch(step)

    def _step_of(self, unit: Unit) -> Step:
        if unit not in self._steps_of:
            policy, optimisers, settings = self._policy, self._optimisers, self._settings
            settings = replace(settings, value_coeff=settings.value_coeff / len(self.order))
            step = UnitStep(policy, optimisers, settings, unit, self._all_sum)
            self._steps_of[unit] = step
            if self._compiler is not None:
                self._steps_of[unit] = CompilableUnitStep(self._compiler, step)
            if self._graphs is not None:
                state = key_of(policy, optimisers, replace(settings, clip=0.0))
                self._steps_of[unit] = ReplayedUnitStep(self._graphs, step, state)
        return self._steps_of[unit]

    # Ratios of the others

    def _product(self, units: Sequence[Unit]) -> Tensor:
        """[L, C]: log of the product of several units' ratios."""
        if not units:
            return torch.zeros_like(self.ratios.log_ratio[..., 0])
        return self.ratios.product(Unit.joined(units))

    def _product_of_all(self) -> Tensor:
        return self.ratios.log_ratio.sum(-1)

    def _others(self, turn: Turn, rows: UnitRows, before: Tensor, sequences: Tensor | None = None) -> Tensor:
        """Clipped product of other units' ratios for each row of the unit.

        `loop="agent"`: of the units updated before it (`before`, [L, C]); "epoch": of all other agents.
        """
        if self._settings.loop == "epoch":
            before = self._product_of_all() - self.ratios.product(turn.unit)
        width = turn.clip / 2 if self._settings.others_clip is None else self._settings.others_clip
        others = before.exp().clamp(1 - width, 1 + width)
        return rows.place.spread(others if sequences is None else others[:, sequences])

    def _correct(self, unit: Unit | None, product: Tensor, done: Sequence[Unit] = ()) -> None:
        """Corrects a unit's advantages for itself and the units `done`; product: log of their ratios' product, [L, C].

        `unit=None`: corrects all agents for all units.
        """
        form = self._settings.correction
        if form is None:
            return
        if self._log_probs_now is not None:
            table = self.ratios.log_ratio_of(self._log_probs_now())
            joined = None if unit is None else Unit.joined([*done, unit])
            product = table.sum(-1) if joined is None else joined.log_product(table, self.batch.roles)
        log_ratios = in_time(product, self._num_envs)
        self.advantages.correct(unit, log_ratios, form)
        if self._watch is not None:
            self._watch(Corrected(unit, log_ratios))
