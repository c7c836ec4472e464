"""MAPPO's optimiser step as a CUDA graph, and what it has in common with A2PO's."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch, MAPPOSettings
from lorasa_rllib.learning.cuda_graphs import Graphs, Numbers, Tensors
from lorasa_rllib.learning.losses import clipped_policy_loss
from lorasa_rllib.learning.passes import Minibatch
from lorasa_rllib.learning.step import EagerStep, Norms, Optimisers, Rates
from lorasa_rllib.nn.policy import Group, TeamPolicy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound=MAPPOSettings)


class ReplayedStep:
    """`EagerStep` as a CUDA graph."""

    def __init__(self, graphs: Graphs, eager: EagerStep):
        self._graphs, self._eager = graphs, eager
        self._groups = tuple(eager.optimisers)
        self._key = key_of(eager.policy, eager.optimisers, eager.settings)

    def __call__(self, part: Minibatch, noise: torch.Generator | None) -> tuple[Tensor, Norms]:
        eager, everyone, groups = self._eager, part.everyone, self._groups
        columns, absent = split_tensors(part.rows)
        given = columns | {f"count.{group}": part.counts[group] for group in groups}
        given |= noise_of(eager.policy, part.rows.actions, noise)

        def function(given: Tensors, numbers: Numbers) -> list[Tensor]:
            rows = Batch(**absent, **{name: given[name] for name in names})
            part = Minibatch(rows, {group: given[f"count.{group}"] for group in groups}, everyone)
            settings = with_numbers(eager.settings, numbers)
            sums, norms = eager.take(part, given.get("noise"), settings, rates_in(numbers, groups))
            return [sums, *norms.values()]

        names, numbers = tuple(columns), numbers_of(eager.optimisers, groups, eager.settings)
        sums, *norms = self._graphs.call((self._key, everyone), function, given, numbers)
        return sums, dict(zip(groups, norms, strict=True))

    def finish(self) -> None:
        """Marks the optimisers' blocks as changed."""
        changed(self._eager.optimisers)


def why_not_recorded(policy: TeamPolicy, settings: MAPPOSettings) -> str | None:
    """Why steps of this policy cannot be recorded, neither as a CUDA graph nor as machine code; None: they can."""
    if policy.config.owners.by_role and policy.adapters_on:
        return "adapters by role are not"
    if settings.policy_loss is not clipped_policy_loss:
        return "policy_loss is a function of your own"
    return settings.rules.why_not_compiled


def key_of(policy: TeamPolicy, optimisers: Optimisers, settings: MAPPOSettings) -> Hashable:
    """What decides a step besides its inputs: phase, settings, and where weights and moments are."""
    kept = [*policy.buffers()]
    for optimiser in optimisers.values():
        kept += [block.values for block in optimiser.all_blocks]
        kept += [moment for block in optimiser.blocks for moment in optimiser.moments(block)]
    places = tuple(tensor.data_ptr() for tensor in kept)
    return policy.phase, replace(settings, entropy_coeff=float(settings.entropy_coeff != 0)), places


def noise_of(policy: TeamPolicy, actions: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
    """The input "noise" of a step, shaped like the actions; none unless the entropy is estimated from noise."""
    head = policy.actor.head_type
    if head is None or not head.samples_entropy:
        return {}
    return {"noise": torch.empty_like(actions).normal_(generator=generator)}


def numbers_of(optimisers: Optimisers, groups: Iterable[Group], settings: MAPPOSettings) -> dict[str, float]:
    """The numbers that a step reads: learning rates, and the weight of the entropy."""
    rates = {f"lr.{group}": float(optimisers[group].param_groups[0]["lr"]) for group in groups}
    return rates | ({"entropy_coeff": float(settings.entropy_coeff)} if settings.entropy_coeff else {})


def with_numbers(settings: S, numbers: Numbers) -> S:
    """The settings with those among a step's numbers."""
    names = ("entropy_coeff", "clip")
    return replace(settings, **{name: numbers[name] for name in names if name in numbers})  # type: ignore[arg-type]


def rates_in(numbers: Numbers, groups: Iterable[Group]) -> Rates:
    """The learning rates among a step's numbers."""
    return {group: numbers[f"lr.{group}"] for group in groups}


def split_tensors(record: DataclassInstance) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The fields of a dataclass that are tensors, by name, and the others."""
    tensors = {name: x for name, x in vars(record).items() if isinstance(x, Tensor)}
    return tensors, {name: x for name, x in vars(record).items() if not isinstance(x, Tensor)}


def changed(optimisers: Optimisers) -> None:
    """Marks the optimisers' blocks as changed from outside."""
    for optimiser in optimisers.values():
        for block in optimiser.all_blocks:
            block.changed()
