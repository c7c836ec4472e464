"""Parameters with the same number of owners as views of one buffer `[owners, numbers]`, like gradients and moments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Block:
    """Parameters in one flat buffer, which Adam updates in a few operations, however many parameters there are.

    parameters, each [O, ...], become views of `values` [O, numbers]. Adam's moments `first` and `second` [O, numbers]
    and `steps` [O] are None until first needed.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = list(parameters)
        self.owners = len(self.parameters[0])
        self._sizes = [p.numel() // self.owners for p in self.parameters]
        self.values = self.flat([p.detach() for p in self.parameters])
        views = self.views(self.values)
        self._places = [view.data_ptr() for view in views]
        for p, view in zip(self.parameters, views, strict=True):
            p.data = view
        self.first: Tensor | None = None
        self.second: Tensor | None = None
        self.steps: Tensor | None = None
        self._equal_steps: int | None = None  # steps of every owner, if known to be equal

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenates tensors shaped like the parameters, or like one owner's part, to [O or 1, numbers]."""
        return torch.cat([t.flatten(1) if t.dim() > 1 else t.unsqueeze(1) for t in tensors], dim=1)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat` [O or 1, numbers], shaped like the parameters or like one owner's part."""
        parts = torch.split(flat, self._sizes, dim=1)
        return [part.view(len(flat), *p.shape[1:]) for p, part in zip(self.parameters, parts, strict=True)]

    def holds(self) -> bool:
        """Whether the parameters are still views of this buffer; moving the module to another device breaks that."""
        return all(
            p.data_ptr() == place and p.dtype == self.values.dtype
            for p, place in zip(self.parameters, self._places, strict=True)
        )

    def restore(self, state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Copies "step", "exp_avg" and "exp_avg_sq" of the parameters in `state`; moments of all others stay 0."""
        first, second, steps = self.moments()
        for name, flat in (("exp_avg", first), ("exp_avg_sq", second)):
            for p, view in zip(self.parameters, self.views(flat), strict=True):
                if p in state:
                    view.copy_(state[p][name])
        steps.copy_(next(iter(state.values()))["step"])
        self._equal_steps = None

    def compare_steps(self) -> None:
        """Checks whether all owners have the same step count, which makes steps cheaper.

        This synchronises a GPU, so it is called only once per update.
        """
        if self.steps is not None and self._equal_steps is None:
            least, most = self.steps.aminmax()
            self._equal_steps = int(most) if bool(least == most) else None

    def changed(self) -> None:
        """To be called after steps were taken on these buffers from outside; step counts are compared again."""
        self._equal_steps = None

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Both moments [O, numbers] and steps [O], created as zeros if there are none yet."""
        if self.first is None or self.second is None or self.steps is None:
            self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
            self.steps = torch.zeros(self.owners, device=self.values.device)
            self._equal_steps = 0
        return self.first, self.second, self.steps

    def step(
        self,
        grads: Tensor,
        lr: float | Tensor,
        betas: tuple[float, float],
        eps: float,
        moving: Tensor | None = None,
        owner: slice = slice(None),
    ) -> None:
        """One step of every owner, or of those in `moving`, bool [O].

        owner: a slice of the owners to step; `grads` and `moving` then have only its rows.
        """
        first, second, steps = self.moments()
        if moving is None and self._equal_steps is not None and owner == slice(None) and not isinstance(lr, Tensor):
            self._equal_steps += 1
            steps.add_(1)
            adam_of_all(self.values, grads, first, second, self._equal_steps, lr, betas, eps)
            return
        self._equal_steps = None
        mine = (self.values[owner], grads, first[owner], second[owner], steps[owner], lr, betas, eps)
        # Reading `moving` would synchronise the GPU, so on CUDA all owners are computed and masked.
        if moving is None or (not moving.is_cuda and bool(moving.all())):
            adam(*mine)
        elif moving.is_cuda:
            adam(*mine, moving)
        elif bool(moving.any()):
            adam_of_some(*mine, moving)


class Part:
    """Leaves of a block for a backward pass: its parameters, or views [1, ...] of one owner's part.

    Each pass overwrites `grads` [O or 1, numbers].
    """

    def __init__(self, block: Block, leaves: Sequence[Tensor] | None = None):
        self.block = block
        self.leaves = block.parameters if leaves is None else list(leaves)
        self.grads = torch.empty_like(block.values[: len(self.leaves[0])])
        self._places = block.views(self.grads)

    def fill(self, found: tuple[Tensor, ...]) -> None:
        torch._foreach_copy_(self._places, found)


@dataclass(frozen=True)
class Leaves:
    """The weights of one optimiser that a step trains.

    whole: blocks that train with all their owners. slices: blocks of which only `owner` trains; forward, backward and
    Adam then cost as much as for a single owner. in_place: views [1, ...] of that owner's part of their parameters, by
    name, for `torch.func.functional_call`.
    """

    whole: list[Part]
    slices: list[Part] = field(default_factory=list)
    in_place: dict[str, Tensor] = field(default_factory=dict)
    owner: slice = field(default_factory=lambda: slice(None))

    @property
    def parts(self) -> list[Part]:
        return [*self.whole, *self.slices]


def gradients(loss: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    """The flat gradients of a loss with respect to each part, zero where the loss does not depend on it."""
    every = [leaf for part in parts for leaf in part.leaves]
    if not every:
        return []
    found = torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True)
    start = 0
    for part in parts:
        part.fill(found[start : start + len(part.leaves)])
        start += len(part.leaves)
    return [part.grads for part in parts]


def finish(grads: Tensor, rows: Tensor, max_norm: float | None) -> Tensor:
    """Turns gradients [O, numbers] of a sum over rows into each owner's mean gradient, clipped, in place.

    rows [O]: live rows per owner. Clipping scales an owner's gradient by min(1, max_norm / (norm + 1e-6)); None: no
    clipping. Returns norms [O] before clipping.
    """
    scale = rows.clamp(min=1).reciprocal()
    norm: Tensor = torch.linalg.vector_norm(grads, dim=1) * scale
    if max_norm is not None:
        scale = scale * (max_norm / (norm + 1e-6)).clamp_(max=1)
    grads.mul_(scale.unsqueeze(1))
    return norm


def adam(
    p: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    who: Tensor | None = None,
) -> None:
    """One Adam step (Kingma and Ba 2015), in place, of every owner, or of those in `who`, bool [O]; the others are
    computed but masked. p, grad, first, second [O, numbers]; steps [O].

        m <- lerp(m, g, 1 - beta1)     v <- lerp(v, g^2, 1 - beta2)
        p <- p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    if who is None:
        steps.add_(1)
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    else:
        steps.add_(who)
        those = who.to(p.dtype).unsqueeze(1)
        first.lerp_(grad, (1 - beta1) * those)
        second.lerp_(grad.square(), (1 - beta2) * those)
    root = _bias(beta2, steps, p).sqrt_()
    rate = root / _bias(beta1, steps, p)
    change = second.sqrt().add_(root.mul_(eps)).reciprocal_().mul_(first).mul_(rate.mul_(lr))
    p.sub_(change if who is None else torch.where(who.unsqueeze(1), change, 0.0))


def adam_of_all(
    p: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """`adam` for owners that all have the same step count, `step`, counted from 1."""
    beta1, beta2 = betas
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = math.sqrt(1 - beta2**step)
    p.addcdiv_(first, second.sqrt().add_(eps * root), value=-lr * root / (1 - beta1**step))


def adam_of_some(
    p: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    who: Tensor,
) -> None:
    """`adam` for the owners in `who`, bool [O]; computes nothing for the others."""
    some, m, v, t = p[who], first[who], second[who], steps[who]
    adam(some, grad[who], m, v, t, lr, betas, eps)
    p[who], first[who], second[who], steps[who] = some, m, v, t


def _bias(beta: float, steps: Tensor, p: Tensor) -> Tensor:
    """1 - beta^steps [O, 1] in the dtype of p, via expm1: the direct form loses three digits in the first steps."""
    return torch.expm1(steps.to(p.dtype) * (math.log(beta) if beta else -math.inf)).neg_().unsqueeze(1)
