"""One optimiser step of a unit: of the critic alone, or of actor and critic."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from lorasa_rllib.learning.a2po.rows import CriticRows, UnitRows
from lorasa_rllib.learning.a2po.settings import A2POSettings
from lorasa_rllib.learning.a2po.units import Unit, leaves_of
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.cuda_graphs import Graphs, Numbers, Tensors
from lorasa_rllib.learning.flat import Leaves
from lorasa_rllib.learning.normalisers import AllSum
from lorasa_rllib.learning.passes import Counts, per_owner
from lorasa_rllib.learning.replayed import noise_of, numbers_of, rates_in, split_tensors, with_numbers
from lorasa_rllib.learning.step import Norms, Optimisers, Rates, policy_sums, take_step, value_sums
from lorasa_rllib.nn.distributions import Noise
from lorasa_rllib.nn.policy import Group, TeamPolicy

OF_CRITIC = ("vf_loss", "value_rows")
OF_BOTH = (*OF_CRITIC, "policy_loss", "entropy", "mean_kl_loss", "clip_fraction", "others_ratio", "live")
"""Statistics of a step, sums over rows: of the critic alone, and of actor and critic."""


class Step(Protocol):
    """Takes optimiser steps of one unit: `UnitStep`, `ReplayedUnitStep`, or `a2po.compiled.CompilableUnitStep`."""

    def __call__(
        self,
        clip: float,
        values: CriticRows,
        rows: UnitRows | None,
        others: Tensor | None,
        noise: torch.Generator | None,
    ) -> tuple[Tensor, Norms]:
        """One step of the critic and, with `rows`, of the actor.

        others: for each of the rows, the product of the other units' ratios. Returns sums over all learners, of
        `OF_CRITIC` or `OF_BOTH`, and gradient norms.
        """
        ...


def unit_sums(
    policy: TeamPolicy,
    values: CriticRows,
    rows: UnitRows | None,
    others: Tensor | None,
    settings: MAPPOSettings,
    noise: Noise = None,
    of_critic: Mapping[str, Tensor] = MappingProxyType({}),
    of_actor: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[Tensor, Tensor]:
    """The loss of a step, summed over rows, and sums of `OF_CRITIC` or, with `rows`, of `OF_BOTH`.

    of_critic, of_actor: weights in place of the policy's, by name.
    """
    new = functional_call(policy.critic, dict(of_critic), (values.state, values.hidden, values.keep, values.agents))
    value_loss = value_sums(new, values.values, values.targets, values.counted, settings)
    loss = settings.value_coeff * value_loss
    stats = {"vf_loss": value_loss.detach().float(), "value_rows": values.counted.sum().float()}
    if rows is not None and others is not None:
        inputs = {"adapters": policy.adapters_on, **rows.inputs()}
        distribution = functional_call(policy.actor, dict(of_actor), (rows.obs,), inputs)
        real = policy.actor.real_actions(rows.agent)
        policy_loss, more = policy_sums(distribution, rows, settings, real, noise, others)
        loss = loss + policy_loss
        product = torch.where(rows.active, others, 0.0).sum().float()
        stats |= {**more, "others_ratio": product, "live": rows.active.sum().float()}
    return loss, torch.stack([stats[name] for name in (OF_CRITIC if rows is None else OF_BOTH)])


class UnitStep:
    """A unit's optimiser step, one operation after the other."""

    def __init__(
        self,
        policy: TeamPolicy,
        optimisers: Optimisers,
        settings: A2POSettings,
        unit: Unit,
        all_sum: AllSum,
    ):
        self.policy, self.optimisers, self.settings, self.unit = policy, optimisers, settings, unit
        self.all_sum = all_sum
        self._leaves: dict[Group, Leaves] = {}

    def __call__(
        self,
        clip: float,
        values: CriticRows,
        rows: UnitRows | None,
        others: Tensor | None,
        noise: torch.Generator | None,
    ) -> tuple[Tensor, Norms]:
        return self.take(replace(self.settings, clip=clip), values, rows, others, noise)

    def take(
        self,
        settings: A2POSettings,
        values: CriticRows,
        rows: UnitRows | None,
        others: Tensor | None,
        noise: Noise,
        rates: Rates | None = None,
    ) -> tuple[Tensor, Norms]:
        """One step with settings of its own. rates: learning rates; None: those of the optimisers."""
        policy = self.policy
        targets = settings.rules.targets_of_step(
            policy, values.targets, values.returns, lambda: values.counted, self.all_sum, self._valued(values)
        )
        leaves = {group: self._leaves_of(group) for group in self.groups(rows is not None)}
        of_actor = {
            name: leaf for group in leaves if group != "critic" for name, leaf in leaves[group].in_place.items()
        }
        if targets is not values.targets:
            values = replace(values, targets=targets)
        loss, flat = unit_sums(policy, values, rows, others, settings, noise, leaves["critic"].in_place, of_actor)
        counts: Counts = {"critic": self._critic_counts(values)}
        if rows is not None:
            counts |= self.unit.counts(rows, policy.config.owners)
        sums = [*counts.values(), flat]
        most = settings.max_grad_norm
        return flat, take_step(loss, leaves, self.optimisers, counts, most, self.all_sum, sums, rates=rates)

    def groups(self, both: bool) -> tuple[Group, ...]:
        """The optimisers of a step of actor and critic (`both`) or of the critic alone."""
        names: tuple[Group, ...] = ("backbone", "adapters", "critic") if both else ("critic",)
        return tuple(group for group in names if group in self.optimisers)

    def _leaves_of(self, group: Group) -> Leaves:
        if group not in self._leaves:
            self._leaves[group] = leaves_of(self.policy, self.optimisers[group], self.unit, group)
        return self._leaves[group]

    def _valued(self, rows: CriticRows) -> tuple[int, ...] | None:
        """The agents whose values the rows hold; None: all."""
        return None if rows.agents is None else self.unit.members

    def _critic_counts(self, rows: CriticRows) -> Tensor:
        """Number of the unit's values in the value loss, per critic [C]."""
        owners = self.policy.config.owners
        counted = rows.counted.sum((0, 1)).float()
        agents = self._valued(rows) or range(len(owners.critic_of))
        return per_owner(counted, [owners.critic_of[a] for a in agents], owners.num_critics)


class ReplayedUnitStep:
    """`UnitStep` as CUDA graphs, one for the critic alone and one for actor and critic.

    state: `replayed.key_of` of the policy and the step's settings but for `clip`.
    """

    def __init__(self, graphs: Graphs, eager: UnitStep, state: Hashable):
        self._graphs, self._eager = graphs, eager
        self._key = "unit", eager.unit, state

    def __call__(
        self,
        clip: float,
        values: CriticRows,
        rows: UnitRows | None,
        others: Tensor | None,
        noise: torch.Generator | None,
    ) -> tuple[Tensor, Norms]:
        eager = self._eager
        groups = eager.groups(rows is not None)
        columns, of_values = split_tensors(values)
        given = {f"critic.{name}": column for name, column in columns.items()}
        of_rows: dict[str, Any] | None = None
        if rows is not None and others is not None:
            columns, of_rows = split_tensors(rows)
            given |= {f"actor.{name}": column for name, column in columns.items()}
            given |= {"others": others, **noise_of(eager.policy, rows.actions, noise)}

        def function(given: Tensors, numbers: Numbers) -> list[Tensor]:
            values = CriticRows(**of_values, **named(given, "critic."))
            rows = None if of_rows is None else UnitRows(**of_rows, **named(given, "actor."))
            settings, rates = with_numbers(eager.settings, numbers), rates_in(numbers, groups)
            flat, norms = eager.take(settings, values, rows, given.get("others"), given.get("noise"), rates)
            return [flat, *norms.values()]

        numbers = {"clip": clip, **numbers_of(eager.optimisers, groups, eager.settings)}
        flat, *norms = self._graphs.call((self._key, rows is None), function, given, numbers)
        return flat, dict(zip(groups, norms, strict=True))


def named(given: Tensors, prefix: str) -> dict[str, Any]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in given.items() if name.startswith(prefix)}
