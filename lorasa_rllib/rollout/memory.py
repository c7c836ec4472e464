"""Hidden states of recurrent networks between the steps of E environment slots."""

from __future__ import annotations

from typing import Generic

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.arrays import Arrays, arrays_of
from lorasa_rllib.envs.base import Array, TeamStep
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.rollout.columns import TeamRollout


class Memory:
    """Hidden states of actor [E, N, h] and critic [E, V, h]; None if the network is feed-forward.

    Agents that are absent forget: they begin with a hidden state of zeros when they join or return, as with
    `load_policy().act` by name; with `PolicyConfig.absent_forget=False`, their hidden states move on with observations
    of zeros. The critic, which is used in training only and reads the global state, remembers all steps.

    device: `VectorTeamEnv.device` of the environments.
    """

    def __init__(self, config: PolicyConfig, num_envs: int, chunk_length: int, device: torch.device | None = None):
        network, spec = config.network, config.spec
        self.recurrent = network.recurrent
        self.chunk_length, self._absent_forget = chunk_length, config.absent_forget
        self.num_values = 1 if config.critic_input == "state" else spec.num_agents
        sizes = {"actor": spec.num_agents, "critic": self.num_values}
        used = {"actor": network.recurrent, "critic": network.critic_recurrent}
        where = arrays_of(device).device
        self._states = {
            name: torch.zeros(num_envs, sizes[name], network.hidden_size, device=where) for name in sizes if used[name]
        }

    @property
    def actor(self) -> Tensor | None:
        return self._states.get("actor")

    @property
    def critic(self) -> Tensor | None:
        return self._states.get("critic")

    def clear(self, slots: np.ndarray | None = None) -> None:
        """Zeroes the hidden states of the given slots, or of all: an episode begins there."""
        for state in self._states.values():
            state[slice(None) if slots is None else torch.from_numpy(slots)] = 0.0

    def keep_actor(self, state: Tensor, active: Tensor) -> None:
        """Stores the actor's hidden state [E, N, h] after a step. active bool [E, N]: the agents that took it."""
        if self._absent_forget:
            torch.mul(state, active.unsqueeze(-1), out=self._states["actor"])
        else:
            self._states["actor"].copy_(state)

    def keep_critic(self, state: Tensor) -> None:
        """Stores the critic's hidden state [E, V, h] after a step."""
        self._states["critic"].copy_(state)

    def columns(self, steps: int, arrays: Arrays[Array]) -> dict[str, Array]:
        """The recurrent networks' columns of a rollout of `steps` steps, uninitialised."""
        columns: dict[str, Array] = {}
        for name in self._states:
            state: Tensor = self._states[name]
            shape: tuple[int, ...] = (-(-steps // self.chunk_length), *state.shape)
            columns[f"{name}_state"] = arrays.empty(shape, np.float32)
        critic: Tensor | None = self.critic
        if critic is not None:
            columns["values"] = arrays.empty((steps + 1, len(critic), self.num_values), np.float32)
            columns["final_values"] = arrays.empty((0, self.num_values), np.float32)
        return columns

    def write(self, rollout: TeamRollout[Array], t: int, arrays: Arrays[Array]) -> None:
        """Writes the hidden states before step t to the rollout, if a chunk begins there."""
        if t % self.chunk_length == 0:
            for name, state in self._states.items():
                getattr(rollout, f"{name}_state")[t // self.chunk_length] = arrays.of_tensor(state)


class RunningCritic(Generic[Array]):
    """Steps a recurrent critic along with the actor and records its values; a no-op if `critic` is None.

    Records normalised values of the global state at every step, after the last step, and of the true last global states
    of truncated episodes and agents.
    """

    def __init__(self, critic: MergedCritic | None, memory: Memory, arrays: Arrays[Array]):
        self._critic, self._memory = critic, memory
        self._arrays: Arrays[Array] = arrays
        self._final: list[Array] = []

    def record(self, rollout: TeamRollout[Array], t: int, step: TeamStep[Array]) -> None:
        """Records the values of step t and advances the hidden state; not at t = T, where the next rollout begins."""
        if self._critic is None:
            return
        with torch.inference_mode():
            values, hidden = self._critic.step(self._arrays.tensor(step.state), self._hidden())
            rollout.values[t] = self._arrays.of_tensor(values)
            if t < rollout.num_steps:
                self._memory.keep_critic(hidden)

    def record_final(self, slots: np.ndarray, state: Array) -> None:
        """Records the values of the true last global states [F, ...] of truncated slots [F].

        Must be called before the memory is cleared.
        """
        if self._critic is None or not len(slots):
            return
        with torch.inference_mode():
            hidden = self._hidden()[torch.from_numpy(slots)]
            values, _ = self._critic.step(self._arrays.tensor(state), hidden)
        self._final.append(self._arrays.of_tensor(values))

    def _hidden(self) -> Tensor:
        assert self._memory.critic is not None, "this memory is for a feed-forward critic"
        return self._memory.critic

    def finish(self, rollout: TeamRollout[Array]) -> None:
        if self._final:
            rollout.final_values = self._arrays.concatenate(self._final)
