"""A gated recurrent unit whose two projections are bank layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.bank import Affine, BankLayerNorm, BankLinear, Banks, Factored
from lorasa_rllib.nn.rows import Rows


class BankGRU(nn.Module):
    """GRU (Cho et al. 2014, in PyTorch's form) over sequences of rows, with an optional LayerNorm, `norm`, after it.

        r, z = sigmoid(x_rz + h_rz)     n = tanh(x_n + r h_n)     h' = (1 - z) n + z h

    x_* and h_* are thirds of `input(x)` and `hidden(h)`, bank layers whose adapters span all three gates, as
    published. The input projection is computed for all steps at once before the time loop.
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
        """x [S, T * B, size], rows whose first leading axis is time -> y [S, T * B, size], states [T, ..., size].

        state [..., size], in the caller's layout without time: hidden states before the first step; None: zeros.
        keep bool [T, ...], broadcastable to the rows: False where an episode begins; None: True everywhere.
        The returned states are the hidden states after each step.
        """
        gates = self.input(x, rows.slots, adapters)
        if rows.alike:
            y = self._alike(gates, rows, state, keep, adapters)
            after = rows.restore(y)
        else:
            after = self._one_by_one(gates, rows, state, keep, adapters)
            y = rows.arrange(after)
        return (y if self.norm is None else self.norm(y, rows.slots, adapters=adapters)), after

    def step(self, x: Tensor, rows: Rows, state: Tensor | None, adapters: bool = True) -> tuple[Tensor, Tensor]:
        """One step, rows without a time axis: x [S, B, size] -> y [S, B, size], hidden state [..., size] after it.

        state [..., size], in the caller's layout: hidden state before the step; None: zeros.
        """
        gates = self.input(x, rows.slots, adapters)
        h = gates.new_zeros(*gates.shape[:-1], self.size) if state is None else rows.arrange(state)
        h = gru_cell(gates, self.hidden.product(rows.slots, adapters, rows=gates.shape[1])(h), h)
        return (h if self.norm is None else self.norm(h, rows.slots, adapters=adapters)), rows.restore(h)

    # Steps are unbound once: indexing each would allocate a gradient of the whole sequence per step.

    def _alike(self, gates: Tensor, rows: Rows, state: Tensor | None, keep: Tensor | None, adapters: bool) -> Tensor:
        """Hidden states [S, T * B, size] from gates [S, T * B, 3 size], for steps that share one layout."""
        step, time = rows.steps()[0], len(rows.steps())
        of_steps = gates.unflatten(1, (time, -1)).unbind(1)
        h = gates.new_zeros(*of_steps[0].shape[:-1], self.size) if state is None else step.arrange(state)
        kept: Sequence[Tensor | None] = [None] * time
        if keep is not None:
            shape = rows.restore(gates.detach()[..., :1]).shape
            kept = rows.arrange(keep.unsqueeze(-1).expand(shape).to(gates.dtype)).unflatten(1, (time, -1)).unbind(1)
        project = self.hidden.product(step.slots, adapters, rows=gates.shape[1])
        states = []
        for of_input, goes_on in zip(of_steps, kept, strict=True):
            h = h if goes_on is None else h * goes_on
            h = gru_cell(of_input, project(h), h)
            states.append(h)
        return torch.stack(states, 1).flatten(1, 2)

    def _one_by_one(
        self, gates: Tensor, rows: Rows, state: Tensor | None, keep: Tensor | None, adapters: bool
    ) -> Tensor:
        """Hidden states [T, ..., size] from gates [S, B, 3 size], where rows may change slots between steps."""
        per_slot = gates.shape[1]
        gates = rows.restore(gates)  # [T, ..., 3 size]
        state = gates.new_zeros(*gates.shape[1:-1], self.size) if state is None else state
        carried: Sequence[Tensor | None] = [None] * len(gates) if keep is None else keep.unsqueeze(-1).unbind()
        project: Affine | Factored | None = None
        made_for, states = None, []
        for step, of_input, goes_on in zip(rows.steps(), gates.unbind(), carried, strict=True):
            state = state if goes_on is None else torch.where(goes_on, state, 0.0)
            if project is None or step.slots is not made_for:
                project, made_for = self.hidden.product(step.slots, adapters, rows=per_slot), step.slots
            h = step.arrange(state)
            state = step.restore(gru_cell(step.arrange(of_input), project(h), h))
            states.append(state)
        return torch.stack(states)


def gru_cell(of_input: Tensor, of_hidden: Tensor, h: Tensor) -> Tensor:
    """The next hidden state [..., size] from both projections [..., 3 size], gates in the order r, z, n."""
    size = h.shape[-1]
    (input_rz, input_n), (hidden_rz, hidden_n) = (x.split((2 * size, size), -1) for x in (of_input, of_hidden))
    r, z = torch.sigmoid(input_rz + hidden_rz).chunk(2, -1)
    n = torch.tanh(torch.addcmul(input_n, r, hidden_n))
    return torch.lerp(n, h, z)
