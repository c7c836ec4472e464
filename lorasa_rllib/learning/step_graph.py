"""An optimiser step as a function of tensors, to be compiled by `learning.compiled`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lorasa_rllib.learning.batch import Batch, MAPPOSettings
from lorasa_rllib.learning.flat import adam, finish
from lorasa_rllib.learning.step import STATISTICS, loss_sums
from lorasa_rllib.nn.policy import Group, Phase, PolicyConfig, TeamPolicy

PREFIX: dict[Group, str] = {"backbone": "actor.", "adapters": "actor.", "critic": "critic."}


@dataclass(frozen=True)
class BlockPlan:
    """A block of parameters (`learning.flat.Block`).

    group:        name of its optimiser.
    group_owners: number of owners of that optimiser.
    names:        names of its parameters in the policy.
    trains:       whether it trains in this phase.
    sliced:       True for one owner's part of the block, [1, numbers], which the rows of a unit of A2PO use.
    """

    group: Group
    group_owners: int
    names: tuple[str, ...]
    trains: bool
    betas: tuple[float, float]
    eps: float
    sliced: bool = False


@dataclass(frozen=True)
class StepPlan:
    """Everything that determines a graph. Plain data.

    kind:     "team": MAPPO's step; "unit": the step of a unit of A2PO, the same graph for all units of one size.
    settings: entropy_coeff is 0, or 1 if it is an input of the graph; settings that a step does not read have their
              defaults.
    columns:  name, shape and dtype of each tensor of the minibatch. "team": the columns of `Batch` that the loss reads,
              without `active` if all rows are live, and `noise` for a sampled entropy. "unit": see `a2po.unit_graph`.
    dtype:    dtype of the parameters.
    split:    True for several learners: two graphs, before and after the sum of gradients.
    threads:  number of torch threads.
    """

    policy: PolicyConfig
    phase: Phase
    settings: MAPPOSettings
    blocks: tuple[BlockPlan, ...]
    columns: tuple[tuple[str, tuple[int, ...], str], ...]
    dtype: str
    split: bool
    threads: int
    kind: Literal["team", "unit"] = "team"

    def to_dict(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        settings.pop("policy_loss")  # a function; only the default is compiled
        return {**asdict(self), "policy": self.policy.to_dict(), "settings": settings}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StepPlan:
        from lorasa_rllib.learning.reference import rules_from_dict  # here: it imports A2PO, and that this

        settings = {**data["settings"], "rules": rules_from_dict(data["settings"]["rules"])}
        blocks = [{**b, "names": tuple(b["names"]), "betas": tuple(b["betas"])} for b in data["blocks"]]
        return cls(
            PolicyConfig.from_dict(data["policy"]),
            data["phase"],
            MAPPOSettings(**settings),
            tuple(BlockPlan(**block) for block in blocks),
            tuple((name, tuple(shape), dtype) for name, shape, dtype in data["columns"]),
            data["dtype"],
            data["split"],
            data["threads"],
            data["kind"],
        )

    @property
    def groups(self) -> dict[Group, int]:
        """Optimisers that train, with their number of owners."""
        return {block.group: block.group_owners for block in self.blocks if block.trains}

    @property
    def training(self) -> dict[int, BlockPlan]:
        """The blocks that train, by index."""
        return {n: block for n, block in enumerate(self.blocks) if block.trains}


class StepGraph(nn.Module):
    """The step as functions of named tensors (for the names, see `example`).

    `forward` is `gradients`, up to the tensors that learners sum, followed by `advance`. Values, moments and steps of
    the blocks are updated in place.

    loss: of the plan's kind.
    """

    def __init__(self, plan: StepPlan, loss: Loss):
        super().__init__()
        self.plan = plan
        self._loss = loss
        parameters = dict(loss.policy.named_parameters())
        self._shapes = [
            [
                torch.Size([1, *shape[1:]]) if block.sliced else shape
                for shape in (parameters[n].shape for n in block.names)
            ]
            for block in plan.blocks
        ]

    def example(self) -> dict[str, Tensor]:
        """A tensor of the right shape for every input."""
        plan, dtype = self.plan, getattr(torch, self.plan.dtype)
        given: dict[str, Tensor] = {}
        for n, shapes in enumerate(self._shapes):
            owners = shapes[0][0]
            numbers = sum(shape.numel() for shape in shapes) // owners
            given[f"values.{n}"] = torch.zeros(owners, numbers, dtype=dtype)
            if n in plan.training:
                given |= {f"{name}.{n}": torch.zeros(owners, numbers, dtype=dtype) for name in ("first", "second")}
                given[f"steps.{n}"] = torch.ones(owners)
        for group, owners in plan.groups.items():
            given[f"lr.{group}"], given[f"counts.{group}"] = torch.zeros((), dtype=dtype), torch.ones(owners)
        for name, shape, kind in plan.columns:
            given[name] = torch.zeros(shape, dtype=getattr(torch, kind))
        given["entropy_coeff"] = torch.zeros((), dtype=dtype)
        return given | {f"buffer.{name}": buffer.clone() for name, buffer in statistics_of(self._loss.policy).items()}

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Sums of statistics, and gradient norms per optimiser that trains, NaN without a step."""
        sums, *grads = self.gradients(given)
        return (sums, *self.advance(given, grads))

    def gradients(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Sums of statistics, and the flat gradient of each block that trains."""
        values = [given[f"values.{n}"].detach() for n in range(len(self.plan.blocks))]
        leaves = [values[n].requires_grad_() for n in self.plan.training]
        swapped = {
            f"policy.{name.removeprefix('buffer.')}": t for name, t in given.items() if name.startswith("buffer.")
        }
        for block, shapes, flat in zip(self.plan.blocks, self._shapes, values, strict=True):
            parts = torch.split(flat, [shape.numel() // len(flat) for shape in shapes], dim=1)
            views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
            swapped |= {f"policy.{name}": view for name, view in zip(block.names, views, strict=True)}
        columns = {name: given[name] for name, _, _ in self.plan.columns}
        loss, sums = functional_call(self._loss, swapped, (columns, given["entropy_coeff"]))
        return (sums.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))

    def advance(self, given: Mapping[str, Tensor], grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Averages and clips gradients, and steps every owner with live rows. Returns gradient norms."""
        norms: dict[Group, Tensor] = {}
        for (n, block), grad in zip(self.plan.training.items(), grads, strict=True):
            rows = every = given[f"counts.{block.group}"]
            grad, own = grad.clone(), len(grad) == block.group_owners
            if not own:
                rows = every.sum(0, keepdim=True)
            norm = finish(grad, rows, self.plan.settings.max_grad_norm)
            values, first, second, steps = (given[f"{name}.{n}"] for name in ("values", "first", "second", "steps"))
            adam(values, grad, first, second, steps, given[f"lr.{block.group}"], block.betas, block.eps, rows > 0)
            norm = torch.where(every > 0, norm.expand_as(every), torch.nan)
            if self.plan.kind == "unit" and block.group in norms:
                norms[block.group] = torch.cat([norms[block.group], norm])
            elif own or block.group not in norms:
                norms[block.group] = norm
        return tuple(norms.values())


class Loss(nn.Module):
    """A step's loss as a module whose weights are those of `policy`."""

    def __init__(self, plan: StepPlan):
        super().__init__()
        self.policy = TeamPolicy(plan.policy).to(getattr(torch, plan.dtype))
        self.policy.set_phase(plan.phase)
        self._settings = plan.settings

    def settings(self, entropy_coeff: Tensor) -> MAPPOSettings:
        """The plan's settings with this weight of the entropy, unless it is always 0."""
        given = self._settings
        return replace(given, entropy_coeff=entropy_coeff) if given.entropy_coeff else given  # type: ignore[arg-type]

    def forward(self, columns: dict[str, Tensor], entropy_coeff: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over the rows of a minibatch, and sums of statistics."""
        raise NotImplementedError


class TeamLoss(Loss):
    """MAPPO's loss, with sums of `STATISTICS`."""

    def forward(self, columns: dict[str, Tensor], entropy_coeff: Tensor) -> tuple[Tensor, Tensor]:
        columns = dict(columns)
        noise = columns.pop("noise", None)
        active = columns.pop("active", None)
        everyone = active is None
        if active is None:
            active = torch.ones((), dtype=torch.bool)
        batch = Batch(**columns, active=active, returns=columns["targets"])
        loss, stats = loss_sums(self.policy, batch, self.settings(entropy_coeff), noise, everyone)
        return loss, torch.stack([stats[name] for name in STATISTICS])


def statistics_of(policy: TeamPolicy) -> dict[str, Tensor]:
    """Buffers that the loss reads and that weights include, by name."""
    parts = ("obs_norm", "encoder")
    return {name: buffer for name, buffer in policy.named_buffers() if set(name.split(".")) & set(parts)}
