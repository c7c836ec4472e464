"""Spaces as network modules: flattening an agent's observations, and turning the head's output into its actions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lorasa_rllib.spaces import AgentView, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from lorasa_rllib.spec import TeamSpec, in_units


class Flatten(nn.Module):
    """Flattens one agent's observations, one tensor per part of its space, to rows float32 [B, size].

    names:  of the parts: "obs", or "obs.<key>" in a Dict and "obs.<index>" in a Tuple, nested like the space.
    Parts have their space's shape, [B, *shape], and type.
    """

    def __init__(self, space: Space, size: int):
        super().__init__()
        found = leaves("obs", space)
        self.names = [name for name, _ in found]
        self.parts = nn.ModuleList(_Part(leaf) for _, leaf in found)
        self._padding = size - space.size  # for an empty observation space

    def forward(self, obs: Tensor | tuple[Tensor, ...]) -> Tensor:
        given = obs if isinstance(obs, tuple | list) else (obs,)
        rows = [part(x) for part, x in zip(self.parts, given, strict=True)]
        row = rows[0] if len(rows) == 1 else torch.cat(rows, -1)
        return nn.functional.pad(row, (0, self._padding)) if self._padding else row

    def example(self, rows: int, rng: torch.Generator | None = None) -> Tensor | tuple[Tensor, ...]:
        """Example input of `forward`: random with a generator, else zeros."""
        found = tuple(part.example(rows, rng) for part in self.parts)  # type: ignore[operator]
        return found[0] if len(found) == 1 else found


class _Part(nn.Module):
    """Flattens one part of a space: numbers unchanged, Discrete and MultiDiscrete one-hot."""

    def __init__(self, space: Space):
        super().__init__()
        self.shape: tuple[int, ...] = () if isinstance(space, Discrete) else space.shape  # type: ignore[union-attr]
        self.dtype = _torch_type(getattr(space, "dtype", "int8" if isinstance(space, MultiBinary) else "int64"))
        self.nvec: tuple[int, ...] = ()
        self.binary = isinstance(space, MultiBinary)
        if isinstance(space, Discrete | MultiDiscrete):
            nvec, start = ((space.n,), (space.start,)) if isinstance(space, Discrete) else (space.nvec, space.start)
            self.nvec, self.start = nvec, start
            component = np.repeat(np.arange(len(nvec)), nvec)
            value = np.concatenate([first + np.arange(n) for first, n in zip(start, nvec, strict=True)])
            self.register_buffer("component", torch.as_tensor(component))
            self.register_buffer("value", torch.as_tensor(value))
        self.component: Tensor
        self.value: Tensor

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], int(np.prod(self.shape)))
        if self.nvec:
            return (flat.to(torch.int64)[:, self.component] == self.value).to(torch.float32)
        return flat.to(torch.float32)

    def example(self, rows: int, rng: torch.Generator | None) -> Tensor:
        shape = (rows, *self.shape)
        if rng is None:
            return torch.zeros(shape, dtype=self.dtype)
        if self.nvec:
            draws = torch.rand(rows, len(self.nvec), generator=rng) * torch.tensor(self.nvec)
            return (draws.long() + torch.tensor(self.start)).reshape(shape).to(self.dtype)
        if self.binary or not self.dtype.is_floating_point:
            return torch.randint(0, 2, shape, generator=rng).to(self.dtype)
        return torch.randn(shape, generator=rng).to(self.dtype)


class Actions(nn.Module):
    """The most likely actions in the agent's space, from the head's output, [B, its own action size]."""

    def __init__(self, spec: TeamSpec, agent: int, squashed: bool):
        super().__init__()
        view: AgentView | None = spec.views[agent] if spec.views else None
        self.squashed, self.continuous = squashed, spec.continuous
        self.shape: tuple[int, ...] = (spec.action_sizes[agent],) if spec.continuous else ()
        self.dtype = torch.float32 if spec.continuous else torch.int64
        self.choices = spec.choices[agent] if spec.choices else spec.action_sizes[agent : agent + 1]
        if spec.choices:
            self.shape = (len(self.choices),)
        if view is not None:
            self.shape = () if isinstance(view.acts, Discrete) else view.acts.shape
        if view is not None and not isinstance(view.acts, Discrete):
            self.dtype = _torch_type("int8" if isinstance(view.acts, MultiBinary) else view.acts.dtype)
        start = 0 if view is None else getattr(view.acts, "start", 0)
        self.register_buffer("start", torch.as_tensor(np.atleast_1d(start), dtype=torch.int64))
        self.start: Tensor
        if spec.continuous:
            low, high = (torch.tensor(bound[agent], dtype=torch.float64).to(self.dtype)
                         for bound in (spec.action_low, spec.action_high))  # fmt: skip
            for name, table in spec.action_scale._asdict().items():
                self.register_buffer(f"unit_{name}", torch.tensor(table[agent, : len(low)]))
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self.unit_centre: Tensor
        self.unit_half: Tensor
        self.unit_low: Tensor
        self.unit_high: Tensor
        self.low: Tensor
        self.high: Tensor

    def forward(self, output: Tensor, mask: Tensor | None) -> Tensor:
        if not self.continuous:
            output = output if mask is None else output.masked_fill(~mask, -torch.inf)
            choices = torch.stack([part.argmax(-1) for part in output.split(self.choices, -1)], -1)
            return (choices + self.start).reshape(-1, *self.shape).to(self.dtype)
        mode = torch.tanh(output) if self.squashed else output
        actions = in_units(mode, self.unit_centre, self.unit_half, self.unit_low, self.unit_high).to(self.dtype)
        return torch.minimum(torch.maximum(actions, self.low), self.high).reshape(-1, *self.shape)


def leaves(name: str, space: Space) -> list[tuple[str, Space]]:
    """The parts of a space, down to those that are not a Dict or Tuple, with their paths."""
    if isinstance(space, Dict | Tuple):
        keys = space.keys if isinstance(space, Dict) else range(len(space.spaces))
        parts = [leaves(f"{name}.{key}", part) for key, part in zip(keys, space.spaces, strict=True)]
        return [leaf for part in parts for leaf in part]
    return [(name, space)]


def _torch_type(dtype: str) -> torch.dtype:
    """The torch dtype for a numpy dtype; unsigned types that torch barely supports become int64."""
    kept = torch.from_numpy(np.zeros(0, dtype)).dtype
    return torch.int64 if kept in (torch.uint16, torch.uint32, torch.uint64) else kept
