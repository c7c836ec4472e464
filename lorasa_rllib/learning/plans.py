"""Plans of compiled steps, and the inputs of their graphs, made from a policy and its optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.flat import Block
from lorasa_rllib.learning.step import Optimisers
from lorasa_rllib.learning.step_graph import PREFIX, BlockPlan, StepPlan, statistics_of
from lorasa_rllib.nn.policy import Group, TeamPolicy


def blocks_of(optimisers: Optimisers) -> list[tuple[Group, Block]]:
    """All blocks with the names of their optimisers, including blocks that do not train."""
    return [(group, block) for group, optimiser in optimisers.items() for block in optimiser.all_blocks]


def samples_noise(policy: TeamPolicy) -> bool:
    """Whether steps estimate the entropy from noise, shaped like the actions."""
    head = policy.actor.head_type
    return head is not None and head.samples_entropy


def dtype_of(policy: TeamPolicy) -> str:
    """The dtype of the weights, such as "float32"."""
    return str(next(policy.parameters()).dtype).removeprefix("torch.")


def shapes_of(columns: Mapping[str, Tensor | None]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Name, shape and dtype of the columns that are there."""
    given = [(name, column) for name, column in columns.items() if column is not None]
    return tuple((name, tuple(column.shape), str(column.dtype).removeprefix("torch.")) for name, column in given)


def blocks_in_plan(policy: TeamPolicy, optimisers: Optimisers, owners: Mapping[Group, int]) -> tuple[BlockPlan, ...]:
    """The plans of all blocks. owners: number of owners of each optimiser's counts."""
    names = {p: f"{PREFIX[group]}{name}" for group in PREFIX for name, p in policy.parameters_of(group).items()}
    blocks = []
    for group, block in blocks_of(optimisers):
        (entry,) = optimisers[group].param_groups
        its_names = tuple(names[p] for p in block.parameters)  # type: ignore[index]
        trains = block in optimisers[group].blocks
        blocks.append(BlockPlan(group, owners[group], its_names, trains, entry["betas"], entry["eps"]))
    return tuple(blocks)


def inputs_of(
    plan: StepPlan,
    policy: TeamPolicy,
    optimisers: Optimisers,
    settings: MAPPOSettings,
    owners: Mapping[Group, slice] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """All inputs of a plan's graphs by name, in order; columns and counts are still empty.

    optimisers: those of the plan's blocks. owners: the owner of sliced blocks, per optimiser.
    """
    given: dict[str, Tensor] = {}
    dtype = getattr(torch, plan.dtype)
    for n, ((group, block), of_plan) in enumerate(zip(blocks_of(optimisers), plan.blocks, strict=True)):
        owner = owners[group] if of_plan.sliced else slice(None)
        given[f"values.{n}"] = block.values[owner]
        if of_plan.trains:
            moments = [moment[owner] for moment in optimisers[group].moments(block)]
            given |= dict(zip((f"first.{n}", f"second.{n}", f"steps.{n}"), moments, strict=True))
    for group in plan.groups:
        (lr,) = {entry["lr"] for entry in optimisers[group].param_groups}
        given |= {f"lr.{group}": torch.tensor(float(lr), dtype=dtype), f"counts.{group}": torch.empty(0)}
    given |= dict.fromkeys((name for name, _, _ in plan.columns), torch.empty(0))
    given["entropy_coeff"] = torch.tensor(float(settings.entropy_coeff), dtype=dtype)
    return given | {f"buffer.{name}": buffer for name, buffer in statistics_of(policy).items()}


def read_by_steps(settings: MAPPOSettings) -> MAPPOSettings:
    """The settings that a step reads; the others have their defaults, so that they do not cause another graph."""
    return MAPPOSettings(
        clip=settings.clip,
        value_clip=settings.value_clip,
        value_coeff=settings.value_coeff,
        value_active_only=settings.value_active_only,
        huber_delta=settings.huber_delta,
        entropy_coeff=float(settings.entropy_coeff != 0),
        max_grad_norm=settings.max_grad_norm,
        joint_ratio=settings.joint_ratio,
        rules=settings.rules.of_loss(),
    )
