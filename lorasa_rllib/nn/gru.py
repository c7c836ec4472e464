"""A gated recurrent unit whose two projections are bank layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear, Banks
from lorasa_rllib.nn.rows import Rows


class BankGRU(nn.Module):
    """GRU (Cho et al. 2014, in PyTorch's form) over sequences of rows, then LayerNorm (optional), here `norm`.

        r, z = sigmoid(x_rz + h_rz)     n = tanh(x_n + r h_n)     h' = (1 - z) n + z h

    x_* and h_* are thirds of `input(x)` and `hidden(h)`: bank layers with one adapter each for all three gates
    (published form). The input projection of all steps is one product before the time loop.
    """

    def __init__(self, size: int, banks: Banks, layer_norm: bool):
        super().__init__()
        self.size = size
        self.input = BankLinear("gru.input", size, 3 * size, banks.of("gru.input"), gain=1.0)
        self.hidden = BankLinear("gru.hidden", size, 3 * size, banks.of("gru.hidden"), gain=1.0)
        self.norm = BankLayerNorm("gru.norm", size, banks.of("gru.norm")) if layer_norm else None

    def forward(
        self, x: Tensor, rows: Rows, state: Tensor | None, keep: Tensor | None, adapters: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x [S, T * B, size] of rows whose first leading axis is time -> y [S, T * B, size], states [T, ..., size].

        state [..., size], in the caller's layout without time: what is carried into the first step; None: zeros.
        keep bool [T, ...], broadcastable to the rows: False where an episode begins; None: nowhere.
        States are those after every step.
        """
        gates = rows.restore(self.input(x, rows.slots, adapters))  # [T, ..., 3 size]
        if state is None:
            state = gates.new_zeros(*gates.shape[1:-1], self.size)
        carried = None if keep is None else keep.unsqueeze(-1)
        project: Any = None
        made_for, states = None, []
        # Unbound once: indexing would give every step a gradient of the whole sequence.
        for t, (step, of_input) in enumerate(zip(rows.steps(), gates.unbind(), strict=True)):
            if carried is not None:
                state = torch.where(carried[t], state, 0.0)
            if step.slots is not made_for:
                project, made_for = self.hidden.product(step.slots, adapters, rows=x.shape[1]), step.slots
            h = step.arrange(state)
            state = step.restore(gru_cell(step.arrange(of_input), project(h), h))
            states.append(state)
        after = torch.stack(states)
        y = rows.arrange(after)
        return (y if self.norm is None else self.norm(y, rows.slots, adapters=adapters)), after


def gru_cell(of_input: Tensor, of_hidden: Tensor, h: Tensor) -> Tensor:
    """The next hidden state [..., h] from both projections [..., 3 h], gates in the order r, z, n."""
    size = h.shape[-1]
    r, z = torch.sigmoid(of_input[..., : 2 * size] + of_hidden[..., : 2 * size]).chunk(2, -1)
    n = torch.tanh(torch.addcmul(of_input[..., 2 * size :], r, of_hidden[..., 2 * size :]))
    return torch.lerp(n, h, z)
