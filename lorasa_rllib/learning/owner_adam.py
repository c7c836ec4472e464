"""Adam over banks that behaves like one Adam per owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.flat import Block, Leaves, Part, finish


class OwnerAdam(torch.optim.Optimizer):
    """One Adam (Kingma and Ba 2015) per owner, over parameters whose first axis counts owners.

    Each owner has its own step counter. An owner that does not step keeps its parameters, moments and counter, so it
    does not drift through momentum. Parameters with one owner in a group of several are shared by all of them and step
    if any of them does.

    Parameters with the same number of owners become views of one buffer, see `learning.flat.Block`. `state` and state
    dicts hold "step" [O], "exp_avg" and "exp_avg_sq" per parameter, as views of its block.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
    ):
        self._group_of: dict[Block, dict[str, Any]] = {}  # all blocks, with their settings
        self._training: list[Block] = []
        self._parts: list[Part] = []
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @property
    def blocks(self) -> list[Block]:
        """The blocks that train, as of the last `arrange`."""
        return self._training

    @property
    def all_blocks(self) -> list[Block]:
        """The blocks of all parameters, including those that do not train."""
        return list(self._group_of)

    @property
    def parts(self) -> list[Part]:
        """The blocks that train, as leaves to differentiate, as of the last `arrange`."""
        return self._parts

    def arrange(self) -> None:
        """Lays parameters out in blocks.

        To be called before each update: it follows the phase (`requires_grad`), and rebuilds blocks whose parameters
        were moved, for example to another device.
        """
        self._arrange(lambda p: p.requires_grad)
        for block in self.blocks:
            block.compare_steps()
        if [part.block for part in self._parts] != self.blocks:
            self._parts = [Part(block) for block in self.blocks]

    def gather(self) -> list[Tensor]:
        """As `arrange`, but the parameters that train are those with a gradient. Returns the flat gradient per block.

        The parameters' gradients become views of these.
        """
        self._arrange(lambda p: p.grad is not None)
        grads = [block.flat([p.grad for p in block.parameters]) for block in self.blocks]  # type: ignore[misc]
        for block, flat in zip(self.blocks, grads, strict=True):
            for p, view in zip(block.parameters, block.views(flat), strict=True):
                p.grad = view
        return grads

    @torch.no_grad()
    def apply(
        self,
        leaves: Leaves,
        grads: Sequence[Tensor],
        counts: Tensor,
        max_norm: float | None,
        all_move: bool = False,
        lr: float | Tensor | None = None,
    ) -> Tensor:
        """Averages and clips gradients of sums over rows, in place, and steps the owners with live rows.

        grads: flat gradients of `leaves.parts`. counts [O]: live rows per owner. all_move: True if every owner is known
        to have live rows. lr: learning rate; None: that of the parameter group. Returns gradient norms before clipping,
        NaN for owners that did not step; empty if no leaf trains.
        """
        if not grads:
            return counts.new_zeros(0)
        moving = None if all_move else counts > 0
        norms = []
        if leaves.whole:
            blocks, whole = [part.block for part in leaves.whole], grads[: len(leaves.whole)]
            norm = self.finish(whole, counts, max_norm, blocks)
            self.advance(whole, moving, blocks, lr)
            norms.append(norm if moving is None else torch.where(moving, norm, torch.nan))
        for part, grad in zip(leaves.slices, grads[len(leaves.whole) :], strict=True):
            of_owner = counts[leaves.owner]
            norm = finish(grad, of_owner, max_norm)
            self._step(part.block, grad, of_owner > 0, leaves.owner, lr)
            norms.append(torch.where(of_owner > 0, norm, torch.nan))
        return norms[0] if len(norms) == 1 else torch.cat(norms)

    def finish(
        self, grads: Sequence[Tensor], rows: Tensor, max_norm: float | None, blocks: Sequence[Block] | None = None
    ) -> Tensor:
        """Turns gradients of sums over rows into each owner's mean gradients, clipped, in place.

        rows [O]: live rows per owner. blocks: those of `grads`; None: all that train. Returns norms [O] before
        clipping. Parameters with one owner in a group of several average over all rows and are clipped separately.
        """
        norms: Tensor | None = None
        own = False
        for block, grad in zip(self.blocks if blocks is None else blocks, grads, strict=True):
            if block.owners == len(rows):
                norms, own = finish(grad, rows, max_norm), True
            else:
                norm = finish(grad, rows.sum(0, keepdim=True), max_norm)
                norms = norms if own else norm.expand_as(rows)
        return torch.zeros_like(rows, dtype=torch.float32) if norms is None else norms

    def advance(
        self,
        grads: Sequence[Tensor],
        moving: Tensor | None = None,
        blocks: Sequence[Block] | None = None,
        lr: float | Tensor | None = None,
    ) -> None:
        """One step with the gradients of `blocks` (None: all that train). moving: as in `step`; lr: as in `apply`."""
        for block, grad in zip(self.blocks if blocks is None else blocks, grads, strict=True):
            who = moving if moving is None or block.owners == len(moving) else moving.any(0, keepdim=True)
            self._step(block, grad, who, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, moving: Tensor | None = None) -> None:  # type: ignore[override]
        """One step of the owners in `moving`, bool [O] (None: all). Parameters without a gradient do not change."""
        self.advance(self.gather(), moving)

    def _step(
        self,
        block: Block,
        grads: Tensor,
        moving: Tensor | None,
        owner: slice = slice(None),
        lr: float | Tensor | None = None,
    ) -> None:
        group = self._group_of[block]
        self.moments(block)
        block.step(grads, group["lr"] if lr is None else lr, group["betas"], group["eps"], moving, owner)

    def moments(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Both moments [O, numbers] and steps [O] of a block, made if needed and then also visible in `state`."""
        fresh = block.first is None
        found = block.moments()
        if fresh:
            self._publish(block)
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._group_of, self._training, self._parts = (
            {},
            [],
            [],
        )  # they refer to parameters and moments that `state` no longer holds

    def _arrange(self, trains: Callable[[Tensor], bool]) -> None:
        """Rebuilds blocks if needed: parameters with the same number of owners and counters, all or none training."""
        blocks = list(self._group_of)
        if not blocks or not all(block.holds() and len(set(map(trains, block.parameters))) == 1 for block in blocks):
            self._group_of = {}
            for group in self.param_groups:
                parts: dict[tuple[int, bool, tuple[float, ...]], list[Tensor]] = {}
                for p in group["params"]:
                    state = self.state.get(p)
                    counters = tuple(state["step"].tolist()) if state else (0.0,) * len(p)
                    parts.setdefault((len(p), trains(p), counters), []).append(p)
                self._group_of |= {self._block_of(parameters): group for parameters in parts.values()}
        self._training = [block for block in self._group_of if trains(block.parameters[0])]

    def _block_of(self, parameters: list[Tensor]) -> Block:
        block = Block(parameters)
        state = {p: self.state[p] for p in parameters if self.state.get(p)}
        if state:
            block.restore(state)
            self._publish(block)
        return block

    def _publish(self, block: Block) -> None:
        """Exposes the moments of a block in `state`, per parameter as in torch."""
        first, second, steps = block.moments()
        for p, one, other in zip(block.parameters, block.views(first), block.views(second), strict=True):
            self.state[p] = {"step": steps, "exp_avg": one, "exp_avg_sq": other}
