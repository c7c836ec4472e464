"""What recurrent networks remember between the steps of E environment slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.base import TeamStep
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.policy import PolicyConfig


class Memory:
    """Hidden states of actor [E, N, h] and critic [E, V, h]; None where the network is feed-forward."""

    def __init__(self, config: PolicyConfig, num_envs: int, chunk_length: int):
        network, spec = config.network, config.spec
        self.recurrent = network.recurrent
        self.chunk_length = chunk_length
        self.num_values = 1 if config.critic_input == "state" else spec.num_agents
        sizes = {"actor": spec.num_agents, "critic": self.num_values}
        used = {"actor": network.recurrent, "critic": network.critic_recurrent}
        self._states = {name: torch.zeros(num_envs, sizes[name], network.hidden_size) for name in sizes if used[name]}

    @property
    def actor(self) -> Tensor | None:
        return self._states.get("actor")

    @property
    def critic(self) -> Tensor | None:
        return self._states.get("critic")

    def clear(self, slots: np.ndarray | None = None) -> None:
        """Forgets everything in the given slots, or in all of them: an episode begins there."""
        for state in self._states.values():
            state[slice(None) if slots is None else torch.from_numpy(slots)] = 0.0

    def keep(self, network: str, state: Tensor) -> None:
        """Remembers what "actor" or "critic" carries out of a step, [E, N or V, h]."""
        self._states[network].copy_(state)

    def columns(self, steps: int) -> dict[str, Any]:
        """Unfilled columns of a rollout of `steps` steps."""
        columns: dict[str, Any] = {}
        for name, state in self._states.items():
            shape = -(-steps // self.chunk_length), *state.shape
            columns[f"{name}_state"] = np.empty(shape, np.float32)
        if self.critic is not None:
            columns["values"] = np.empty((steps + 1, *self.critic.shape[:2]), np.float32)
            columns["final_values"] = np.empty((0, self.num_values), np.float32)
        return columns

    def note(self, rollout: TeamRollout, t: int) -> None:
        """Writes what is carried into step t, if a chunk begins there."""
        if t % self.chunk_length == 0:
            for name, state in self._states.items():
                getattr(rollout, f"{name}_state")[t // self.chunk_length] = state.numpy()


class RunningCritic:
    """Steps a recurrent critic beside the actor and writes its values; without one, does nothing.

    Normalised values: of every step's state, of the state after the last step, and of the true last states of
    episodes and agents that were truncated.
    """

    def __init__(self, critic: Any, memory: Memory):
        self._critic, self._memory = critic, memory
        self._final: list[np.ndarray] = []

    def look(self, rollout: TeamRollout, t: int, step: TeamStep) -> None:
        """Values the state of step t and remembers it; at t = T only values it: the next rollout begins there."""
        if self._critic is None:
            return
        with torch.inference_mode():
            values, hidden = self._critic.unroll(torch.from_numpy(step.state)[None], self._memory.critic)
            rollout.values[t] = values[0].numpy()
            if t < rollout.num_steps:
                self._memory.keep("critic", hidden[0])

    def end(self, last: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> None:
        """Values the true last states of slots where something was cut (slot, observations, state).

        Called before the memory is cleared.
        """
        if self._critic is None or not last:
            return
        with torch.inference_mode():
            hidden = self._memory.critic[torch.tensor([slot for slot, _, _ in last])]  # type: ignore[index]
            values, _ = self._critic.unroll(torch.from_numpy(np.stack([state for _, _, state in last]))[None], hidden)
        self._final.append(values[0].numpy())

    def finish(self, rollout: TeamRollout) -> None:
        if self._final:
            rollout.final_values = np.concatenate(self._final)
