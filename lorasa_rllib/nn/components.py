"""Discrete actions with several components: splits the head's output into logits per component."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lorasa_rllib.spec import TeamSpec


class Components(nn.Module):
    """Spreads rows of choices [..., action_size] over components [..., d, m], padded to the largest d and m.

    Components that an agent lacks get a single choice, so they contribute nothing to losses. Tables have one row per
    agent and are non-persistent buffers.
    """

    def __init__(self, spec: TeamSpec):
        super().__init__()
        place, real = (torch.as_tensor(table) for table in spec.choice_table())
        empty = torch.full(real.shape, -torch.inf)
        empty[..., 0] = 0.0  # used only by components that an agent lacks
        self.shape = real.shape[1:]
        self.register_buffer("place", place.flatten(1), persistent=False)
        self.register_buffer("real", real.flatten(1), persistent=False)
        self.register_buffer(
            "empty", torch.where(real.any(-1, keepdim=True), -torch.inf, empty).flatten(1), persistent=False
        )
        lacking = not spec.dims_mask().all()
        self.register_buffer("dims", torch.as_tensor(spec.dims_mask()) if lacking else None, persistent=False)
        self.place: Tensor
        self.real: Tensor
        self.empty: Tensor
        self.dims: Tensor | None  # bool [N, d], the components each agent has; None if all have all

    def logits(self, output: Tensor, masks: Tensor | None, of_rows: Callable[[Tensor], Tensor]) -> Tensor:
        """[..., action_size] -> [..., d, m], -inf for unavailable choices and padding.

        masks: bool [..., action_size], available choices; None: all. of_rows: maps a table [N, x] to the entries of
        the agents behind the rows of `output`.
        """
        if masks is not None:
            output = output.masked_fill(~masks, -torch.inf)
        place = of_rows(self.place)
        spread = output.gather(-1, place.expand(*output.shape[:-1], place.shape[-1]))
        choices = torch.where(of_rows(self.real), spread, of_rows(self.empty).to(spread.dtype))
        return choices.view(*choices.shape[:-1], *self.shape)
