"""MAPPO's optimiser step as a CUDA graph, and what it has in common with A2PO's."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch, MAPPOSettings
from lorasa_rllib.learning.cuda_graphs import Given, Graphs
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
        columns, absent = split_tensors(part.rows, "rows.")
        given = columns | {f"count.{group}": part.counts[group] for group in groups}
        given |= inputs_of(eager.policy, eager.optimisers, groups, eager.settings, part.rows.actions, noise)

        def function(given: Given) -> list[Tensor]:
            part = Minibatch(Batch(**absent, **tensors_in(given, "rows.")), tensors_in(given, "count."), everyone)
            settings = with_inputs(eager.settings, given)
            sums, norms = eager.take(part, given.get("step.noise"), settings, rates_in(given, groups))  # type: ignore[arg-type]
            return [sums, *norms.values()]

        sums, *norms = self._graphs.call((self._key, everyone), function, given)
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


def inputs_of(
    policy: TeamPolicy,
    optimisers: Optimisers,
    groups: Iterable[Group],
    settings: MAPPOSettings,
    actions: Tensor,
    noise: torch.Generator | None,
) -> dict[str, Tensor | float]:
    """Inputs of a step besides its rows: learning rates, the weight of the entropy and, if it is sampled, noise."""
    given: dict[str, Tensor | float] = {**rates_of(optimisers, groups)}
    if settings.entropy_coeff:
        given["step.entropy_coeff"] = settings.entropy_coeff
    head = policy.actor.head_type
    if head is not None and head.samples_entropy:
        given["step.noise"] = torch.empty_like(actions).normal_(generator=noise)
    return given


def rates_of(optimisers: Optimisers, groups: Iterable[Group]) -> dict[str, float]:
    """Learning rates as inputs of a step."""
    return {f"lr.{group}": float(optimisers[group].param_groups[0]["lr"]) for group in groups}


def with_inputs(settings: S, given: Given) -> S:
    """The settings with those of a step's inputs."""
    names = ("entropy_coeff", "clip")
    return replace(settings, **{name: given[f"step.{name}"] for name in names if f"step.{name}" in given})  # type: ignore[arg-type]


def rates_in(given: Given, groups: Iterable[Group]) -> Rates:
    """The learning rates among a step's inputs."""
    return {group: given[f"lr.{group}"] for group in groups}


def split_tensors(record: DataclassInstance, prefix: str) -> tuple[dict[str, Tensor | float], dict[str, Any]]:
    """The fields of a dataclass that are tensors, by name with a prefix, and the others."""
    tensors = {f"{prefix}{name}": x for name, x in vars(record).items() if isinstance(x, Tensor)}
    return tensors, {name: x for name, x in vars(record).items() if not isinstance(x, Tensor)}


def tensors_in(given: Given, prefix: str) -> dict[str, Any]:
    """The inputs whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in given.items() if name.startswith(prefix)}


def changed(optimisers: Optimisers) -> None:
    """Marks the optimisers' blocks as changed from outside."""
    for optimiser in optimisers.values():
        for block in optimiser.all_blocks:
            block.changed()
