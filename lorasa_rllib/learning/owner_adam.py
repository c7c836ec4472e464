"""Adam over stacked banks that behaves like one Adam for each owner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class OwnerAdam(torch.optim.Optimizer):
    """One Adam (Kingma and Ba 2015) per owner, over parameters whose first axis counts owners.

    Every owner has its own step counter. An owner that does not move in a step keeps parameters, moments and counter:
    it does not drift through momentum. Parameters with one owner in a group of several belong to all of them and move
    if any of them does.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None, *, moving: Tensor | None = None) -> None:  # type: ignore[override]
        """moving: bool [O], the owners that take this step; all of them if None. Parameters without gradient rest."""
        # Looking at `moving` would make a GPU wait for all that was asked of it: there, everybody computes.
        masked = moving is not None and moving.is_cuda
        everyone = moving is None or (not masked and bool(moving.all()))
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self._state_of(p)
                who = None if everyone else moving if p.shape[0] > 1 else moving.any(0, keepdim=True)  # type: ignore
                if who is None:
                    _adam(p, p.grad, state, group["lr"], beta1, beta2, group["eps"])
                elif masked:
                    _adam(p, p.grad, state, group["lr"], beta1, beta2, group["eps"], who)
                elif bool(who.any()):
                    _adam_of_some(p, p.grad, state, who, group["lr"], beta1, beta2, group["eps"])

    @torch.no_grad()
    def step_owner(self, owner: int, grads: Mapping[Tensor, Tensor], *, moving: Tensor | None = None) -> None:
        """Only `owner` moves, by the gradients [1, ...] of its slices of the parameters named in `grads`.

        Costs as much as that owner has numbers, whatever the size of the bank. moving: bool [1], False: not even it.
        """
        if moving is not None and not moving.is_cuda:
            if not bool(moving):
                return
            moving = None
        mine = slice(owner, owner + 1)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p in grads:
                    state = {name: value[mine] for name, value in self._state_of(p).items()}  # views
                    _adam(p[mine], grads[p], state, group["lr"], beta1, beta2, group["eps"], moving)

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(p.shape[0], device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        return state


def _adam(
    p: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    who: Tensor | None = None,
) -> None:
    """One step of every owner, or of those in who [O], bool; the others compute, too, and stay where they are."""
    first, second = state["exp_avg"], state["exp_avg_sq"]
    step = state["step"].add_(1 if who is None else who)
    if who is None:
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    else:
        those = _owners(who.to(p.dtype), p)
        first.lerp_(grad, (1 - beta1) * those)
        second.lerp_(grad.square(), (1 - beta2) * those)
    rate = _owners(lr / _bias(beta1, step, p), p)
    spread = second.sqrt().mul_(_owners(_bias(beta2, step, p).rsqrt(), p)).add_(eps)
    change = first.mul(rate).div_(spread)
    p.sub_(change if who is None else torch.where(_owners(who, p), change, 0.0))


def _bias(beta: float, step: Tensor, p: Tensor) -> Tensor:
    """1 - beta^step [O] in the precision of p; written as it stands, it would lose three digits at first."""
    return -torch.expm1(step.to(p.dtype) * (math.log(beta) if beta else -math.inf))


def _adam_of_some(
    p: Tensor, grad: Tensor, state: dict[str, Tensor], who: Tensor, lr: float, beta1: float, beta2: float, eps: float
) -> None:
    part = {name: value[who] for name, value in state.items()}
    some = p[who]
    _adam(some, grad[who], part, lr, beta1, beta2, eps)
    p[who] = some
    for name, value in part.items():
        state[name][who] = value


@torch.no_grad()
def finish_gradients(params: Iterable[Tensor], rows: Tensor, max_norm: float | None) -> Tensor:
    """Turns gradients of a sum over rows into clipped gradients of each owner's mean. Returns norms [O] before that.

    rows [O]: live rows of every owner. Parameters with one owner in a group of several average over all rows and are
    clipped on their own. Clipping scales an owner's gradients by min(1, max_norm / (norm + 1e-6)).
    """
    with_grad = [p for p in params if p.grad is not None]
    norms, own = torch.zeros_like(rows, dtype=torch.float32), False
    for owners in {p.shape[0] for p in with_grad}:
        same = [p for p in with_grad if p.shape[0] == owners]
        count = rows if owners == len(rows) else rows.sum(0, keepdim=True)
        mean = 1.0 / count.clamp(min=1)
        square = torch.stack([p.grad.square().flatten(1).sum(1) for p in same]).sum(0)  # type: ignore[union-attr]
        norm = square.sqrt() * mean
        scale = mean if max_norm is None else mean * (max_norm / (norm + 1e-6)).clamp(max=1)
        for p in same:
            p.grad.mul_(_owners(scale, p))  # type: ignore[union-attr]
        if owners == len(rows):
            norms, own = norm, True
        elif not own:
            norms = norm.expand_as(rows)
    return norms


def _owners(per_owner: Tensor, p: Tensor) -> Tensor:
    return per_owner.view(-1, *[1] * (p.dim() - 1))
