"""A2PO's optimiser step as a function of tensors, to be compiled by `learning.compiled`.

One graph serves all units of one size: it reads the weights of the unit's owners and the indices of its agents.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from lorasa_rllib.learning.a2po.rows import CriticRows, UnitRows
from lorasa_rllib.learning.a2po.unit_step import named, unit_sums
from lorasa_rllib.learning.step_graph import Loss
from lorasa_rllib.nn.rows import Some


class UnitLoss(Loss):
    """The loss of a unit's step, of the critic alone or of actor and critic, with the sums that `unit_sums` returns.

    Columns: "clip" []; "critic.*", the fields of `CriticRows`; for a step of the actor "actor.*", those of `UnitRows`,
    "others", and "noise" for a sampled entropy. Agents are given by their indices, int64 [n].
    """

    def forward(self, columns: dict[str, Tensor], entropy_coeff: Tensor) -> tuple[Tensor, Tensor]:
        settings = replace(self.settings(entropy_coeff), clip=columns["clip"])  # type: ignore[arg-type]
        values = CriticRows(**_fields(CriticRows, named(columns, "critic."), "agents"))
        others = columns.get("others")
        rows = None if others is None else UnitRows(**_fields(UnitRows, named(columns, "actor."), "agent"))
        return unit_sums(self.policy, values, rows, others, settings, columns.get("noise"))


def _fields(kind: type, given: dict[str, Any], agents: str) -> dict[str, Any]:
    """All fields of a dataclass, None unless given. agents: the field that holds indices of agents."""
    found = {field.name: given.get(field.name) for field in fields(kind)}
    return found | {agents: Some(given[agents])} if agents in given else found
