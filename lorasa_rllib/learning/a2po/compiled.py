"""A2PO's optimiser steps as machine code, see `learning.compiled`."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.rows import CriticRows, UnitRows
from lorasa_rllib.learning.a2po.unit_step import UnitStep
from lorasa_rllib.learning.a2po.units import owner_of
from lorasa_rllib.learning.compiled import Graph, StepCompiler, why_not
from lorasa_rllib.learning.normalisers import alone
from lorasa_rllib.learning.plans import (
    blocks_in_plan,
    blocks_of,
    dtype_of,
    inputs_of,
    read_by_steps,
    samples_noise,
    shapes_of,
)
from lorasa_rllib.learning.replayed import noise_of, split_tensors
from lorasa_rllib.learning.step import Norms, Optimisers
from lorasa_rllib.learning.step_graph import StepPlan
from lorasa_rllib.nn.policy import Group
from lorasa_rllib.nn.rows import index_of

Columns = dict[str, Tensor]


class UnitCompiler:
    """Compiled steps of an update. Two graphs for each kind of units: one for steps of the critic alone, one for steps
    of actor and critic. Units are of a kind if they have as many members, and one owner in the same optimisers."""

    def __init__(self, compiler: StepCompiler):
        self._compiler = compiler
        self._found: dict[Hashable, tuple[StepPlan, Graph] | None] = {}

    def graph(self, eager: UnitStep, columns: Columns, both: bool) -> tuple[StepPlan, Graph] | None:
        """The plan of a unit's step on columns shaped like these, and its graph; None if that is not ready."""
        key = len(eager.unit.members), frozenset(_owners_of(eager)), both
        if key not in self._found:
            plan = plan_of(eager, columns, both)
            graphs = self._compiler.graphs_of(plan, _why_not(eager))
            self._found[key] = None if graphs is None else (plan, graphs[0])
        return self._found[key]

    def took(self, seconds: float) -> None:
        """Records the time spent on eager steps."""
        self._compiler.took(seconds)


class CompilableUnitStep:
    """`UnitStep` as machine code where it is ready, in place on the optimisers' buffers."""

    def __init__(self, compiler: UnitCompiler, eager: UnitStep):
        self._compiler, self._eager = compiler, eager
        self._compiled: dict[bool, _Compiled | None] = {}

    def __call__(
        self,
        clip: float,
        values: CriticRows,
        rows: UnitRows | None,
        others: Tensor | None,
        noise: torch.Generator | None,
    ) -> tuple[Tensor, Norms]:
        eager, both = self._eager, rows is not None
        if both not in self._compiled:
            found = self._compiler.graph(eager, columns_of(eager, clip, values, rows, others), both)
            self._compiled[both] = None if found is None else _Compiled(*found, eager, both)
        compiled = self._compiled[both]
        if compiled is not None:
            columns = columns_of(eager, clip, values, rows, others)
            if rows is not None:
                columns |= noise_of(eager.policy, rows.actions, noise)
            return compiled(columns, values, rows)
        began = time.perf_counter()
        taken = eager(clip, values, rows, others, noise)
        self._compiler.took(time.perf_counter() - began)
        return taken


class _Compiled:
    """One unit's steps by a graph."""

    def __init__(self, plan: StepPlan, graph: Graph, eager: UnitStep, both: bool):
        self._plan, self._graph = plan, graph
        mine = _optimisers(eager, both)
        self._given = inputs_of(plan, eager.policy, mine, eager.settings, _owners_of(eager))
        self._blocks = [block for _, block in blocks_of(mine)]
        self._frozen = {group: torch.zeros(0) for group in mine if group not in plan.groups}

    def __call__(self, columns: Columns, values: CriticRows, rows: UnitRows | None) -> tuple[Tensor, Norms]:
        given = self._given
        for name, _, _ in self._plan.columns:
            given[name] = columns[name]
        counted = {"critic": values.counted} if rows is None else {"critic": values.counted, "actor": rows.active}
        live = {name: which.sum(dtype=torch.float32).view(1) for name, which in counted.items()}
        for group in self._plan.groups:
            given[f"counts.{group}"] = live["critic" if group == "critic" else "actor"]
        sums, *norms = self._graph(list(given.values()))
        for block in self._blocks:
            block.changed()
        return sums, self._frozen | dict(zip(self._plan.groups, norms, strict=True))


def columns_of(
    eager: UnitStep,
    clip: float,
    values: CriticRows,
    rows: UnitRows | None,
    others: Tensor | None,
) -> Columns:
    """The columns of `unit_graph.UnitLoss`; "noise" has its shape only."""
    index = index_of(eager.unit.members, values.values.device)
    given = {"clip": torch.tensor(clip, dtype=values.values.dtype)}
    given |= {f"critic.{name}": column for name, column in split_tensors(values)[0].items()}
    if values.agents is not None:
        given["critic.agents"] = index
    if rows is not None and others is not None:
        given |= {f"actor.{name}": column for name, column in split_tensors(rows)[0].items()}
        given |= {"actor.agent": index, "others": others}
        if samples_noise(eager.policy):
            given["noise"] = rows.actions
    return {name: column.contiguous() for name, column in given.items()}


def plan_of(eager: UnitStep, columns: Columns, both: bool) -> StepPlan:
    """Everything that determines a unit's steps on columns shaped like these."""
    policy, settings = eager.policy, replace(eager.settings, clip=0.0)
    mine = _optimisers(eager, both)
    blocks = blocks_in_plan(policy, mine, dict.fromkeys(mine, 1))
    sliced = [block.owners > 1 and group in _owners_of(eager) for group, block in blocks_of(mine)]
    return StepPlan(
        policy.config,
        policy.phase,
        read_by_steps(settings),
        tuple(replace(block, sliced=one) for block, one in zip(blocks, sliced, strict=True)),
        shapes_of(columns),
        dtype_of(policy),
        split=False,
        threads=torch.get_num_threads(),
        kind="unit",
    )


def _optimisers(eager: UnitStep, both: bool) -> Optimisers:
    return {group: eager.optimisers[group] for group in eager.groups(both)}


def _owners_of(eager: UnitStep) -> dict[Group, slice]:
    """The owner of a unit's rows in every optimiser, where they have one."""
    owners = {group: owner_of(eager.policy, eager.unit, group) for group in eager.optimisers}
    return {group: owner for group, owner in owners.items() if owner is not None}


def _why_not(eager: UnitStep) -> str | None:
    """Why steps of this unit cannot be compiled; None if they can."""
    several = {group for group, one in eager.optimisers.items() for block in one.blocks if block.owners > 1}
    if not several <= set(_owners_of(eager)):
        return "units of A2PO that train several owners at once are not"
    if eager.all_sum is not alone:
        return "those of A2PO with several learners are not"
    return why_not(eager.policy, eager.settings)
