"""The team rollout: the data of one sampling round for the learner, as columns `[T, E, N, ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Column = TypeVar("Column", np.ndarray, Tensor)
ALIGNED = 64
"""Alignment of columns in bytes, where they travel in one piece."""

_SPARSE = ("final_index", "final_obs", "final_state", "final_values")


@dataclass
class TeamRollout(Generic[Column]):
    """T steps of E environments with N agents.

    Columns are NumPy arrays, or tensors on the device of the environments or of the learner.

    obs         float32 [T, E, N, obs_size]            state        float32 [T + 1, E, S], the last for bootstrapping
                (state [T + 1, E, N, S] if every agent has its own view)
    actions     [T, E, N, d], as the policy drew them  log_probs    float32 [T, E, N, d], of those actions
    rewards     float32 [T, E, R], R = 1 or N          active       bool [T, E, N], False for dead agents
    terminated  bool [T, E], the episode ended here    truncated    bool [T, E], it was cut here by a time limit
    final_index int64 [F, 2], (t, e) of the steps at which the episode or an agent was truncated
    final_obs   float32 [F, N, obs_size] and final_state float32 [F, S] ([F, N, S]): the true last ones at those steps,
                where `state[t + 1]` is the first of the next episode or lacks agents that have left

    Optional columns: masks bool [T, E, N, action_size], available choices; roles int64 [T, E, N]; left bool [T, E, N],
    agents whose own return ended here (`TeamStep.left`); cut bool [T, E, N], agents with their own reward that were
    truncated while others continue (`TeamStep.cut`); values float32 [T + 1, E, V] and final_values float32 [F, V] of a
    recurrent critic; actor_state float32 [T / L, E, N, h] and critic_state [T / L, E, V, h]: hidden states before the
    first step of every chunk of L steps.
    """

    obs: Column
    state: Column
    actions: Column
    log_probs: Column
    rewards: Column
    terminated: Column
    truncated: Column
    active: Column
    final_index: Column
    final_obs: Column
    final_state: Column
    masks: Column | None = None
    roles: Any = None  # Column | None
    left: Column | None = None
    cut: Column | None = None
    values: Any = None  # Column | None
    actor_state: Column | None = None
    critic_state: Column | None = None
    final_values: Any = None  # Column | None

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.obs.shape[0])

    @property
    def num_envs(self) -> int:
        """E."""
        return int(self.obs.shape[1])

    @property
    def num_agents(self) -> int:
        """N."""
        return int(self.obs.shape[2])

    def env_steps(self) -> int:
        return self.num_steps * self.num_envs

    def agent_steps(self) -> int:
        """Number of steps taken by live agents."""
        return int(self.active.sum())

    def split(self, parts: int) -> list[TeamRollout[Column]]:
        """Splits along the environment axis into equal parts, as views."""
        if self.num_envs % parts:
            raise ValueError(f"{self.num_envs} environments cannot be split into {parts} equal parts.")
        if parts == 1:
            return [self]
        width = self.num_envs // parts
        return [self._environments(part * width, (part + 1) * width) for part in range(parts)]

    def _environments(self, start: int, stop: int) -> TeamRollout[Column]:
        mine = (self.final_index[:, 1] >= start) & (self.final_index[:, 1] < stop)
        columns = {
            name: column[mine] if name in _SPARSE else column[:, start:stop] for name, column in self._columns().items()
        }
        columns["final_index"][:, 1] -= start  # a copy
        return TeamRollout(**columns)

    @classmethod
    def concatenate(cls, parts: Sequence[TeamRollout[Column]]) -> TeamRollout[Column]:
        """Joins rollouts of equal length T along the environment axis."""
        if len(parts) == 1:
            return parts[0]
        columns: dict[str, Column] = {}
        for name in parts[0]._columns():
            columns[name] = _joined([getattr(part, name) for part in parts], axis=0 if name in _SPARSE else 1)
        first = 0  # row of final_index
        for before, part in zip(np.cumsum([0] + [part.num_envs for part in parts[:-1]]).tolist(), parts, strict=True):
            columns["final_index"][first : first + len(part.final_index), 1] += before
            first += len(part.final_index)
        return TeamRollout(**columns)

    def to(self, device: torch.device | str) -> TeamRollout[Tensor]:
        """The same columns as tensors on `device`; one transfer from the host to a GPU."""
        columns = self._columns()
        if torch.device(device).type == "cuda" and isinstance(self.obs, np.ndarray):
            return TeamRollout(**in_one_piece(columns, device))
        return TeamRollout(**{name: _tensor(column, device) for name, column in columns.items()})

    def on_host(self) -> TeamRollout[np.ndarray]:
        """The same columns as NumPy arrays; views where they are on the host."""
        columns = {
            name: column if isinstance(column, np.ndarray) else column.cpu().numpy()
            for name, column in self._columns().items()
        }
        return TeamRollout(**columns)

    def _columns(self) -> dict[str, Column]:
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: column for name, column in named.items() if column is not None}


def in_one_piece(columns: dict[str, np.ndarray], device: torch.device | str) -> dict[str, Tensor]:
    """Arrays as views of one tensor on `device`, copied in one transfer, from pinned memory if it is a GPU."""
    ends = np.cumsum([-(-column.nbytes // ALIGNED) * ALIGNED for column in columns.values()])
    pinned = torch.device(device).type == "cuda"
    staged = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=pinned)
    places = dict(zip(columns, [0, *ends[:-1].tolist()], strict=True))
    for name, column in columns.items():
        there = staged.numpy()[places[name] : places[name] + column.nbytes]
        np.copyto(there.view(column.dtype).reshape(column.shape), column)
    arrived = staged.to(device, non_blocking=True)
    return {
        name: arrived[places[name] : places[name] + column.nbytes]
        .view(torch.from_numpy(np.empty(0, column.dtype)).dtype)
        .view(column.shape)
        for name, column in columns.items()
    }


def _joined(parts: list[Column], axis: int) -> Column:
    return np.concatenate(parts, axis) if isinstance(parts[0], np.ndarray) else torch.cat(parts, axis)


def _tensor(column: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    if isinstance(column, np.ndarray) and not column.flags.writeable:
        column = column.copy()  # arrays from Ray's object store are read-only, which torch does not support
    return torch.as_tensor(column, device=device)
