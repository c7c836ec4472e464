"""The actor: one network class for all sharing methods. The owner table decides which weights a row uses."""

from __future__ import annotations

from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.nn.bank import BankLinear, Banks, BankVector, LoRAConfig
from lorasa_rllib.nn.components import Components
from lorasa_rllib.nn.distributions import CONTINUOUS, ActionDistribution, Categorical, Categoricals, ContinuousHead
from lorasa_rllib.nn.network import NetworkConfig, Trunk
from lorasa_rllib.nn.rows import Agent, Router, Some, index_of
from lorasa_rllib.spec import Owners, TeamSpec


class RowInputs(TypedDict, total=False):
    """What a policy reads beside observations, see `Actor.unroll`."""

    roles: Tensor | None
    masks: Tensor | None
    agent: Agent
    state: Tensor | None
    keep: Tensor | None


class ActorInputs(RowInputs, total=False):
    """What an actor reads beside observations, see `Actor.unroll`."""

    adapters: bool


class Actor(Trunk):
    """Observations to action distributions, for all agents of a team at once.

    Layers: encoder (if any), feature_norm, mlp.0 .., gru and post.0 .. if recurrent, head, log_std (continuous teams).
    Padded observation entries are ignored; padded action dimensions sample 0 with log-probability and entropy 0; padded
    choices have probability 0.
    """

    def __init__(self, spec: TeamSpec, owners: Owners, lora: LoRAConfig, config: NetworkConfig):
        banks = Banks(owners, lora)
        ids = spec.id_capacity if config.uses_ids(owners) else 0
        parts = (1, *spec.obs_shape) if config.encoder is not None else ()
        super().__init__(spec.obs_size, banks, config, ids, config.recurrent, spec.num_agents, parts)
        self.router = Router(owners)
        self.head = BankLinear("head", config.hidden_size, spec.action_size, banks.of("head"), config.head_gain)
        self.head_type = CONTINUOUS[config.distribution] if spec.continuous else None
        if self.head_type is not None:
            start = self.head_type.initial_log_std if config.initial_log_std is None else config.initial_log_std
            self.log_std = BankVector("log_std", spec.action_size, banks.of("log_std"), start)
        self.register_buffer("obs_mask", _mask_if_unequal(spec.obs_sizes, spec.obs_mask()), persistent=False)
        self.register_buffer("real_entries", _mask_if_unequal(spec.action_sizes, spec.action_mask()), persistent=False)
        self.obs_mask: Tensor | None
        self.real_entries: Tensor | None
        self.components = Components(spec) if spec.choices else None

    def forward(self, obs: Tensor, **rows: Unpack[ActorInputs]) -> ActionDistribution:
        """Action distribution of each row; arguments as for `unroll`."""
        return self.unroll(obs, **rows)[0]

    def unroll(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        masks: Tensor | None = None,
        agent: Agent = None,
        adapters: bool = True,
        state: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """Action distribution of each row, and the hidden states after each step (None if feed-forward).

        obs [..., N, obs_size]; with `agent` given: [..., n, obs_size] of n agents (tuple or `Some`), [..., obs_size] of
        one (int), or rows [..., obs_size] in any order with their agent indices (Tensor [...]). If recurrent, the
        first axis is time.
        roles int64 (obs without its last axis): adapter of each row, if routed by role; -1 and roles without an
            adapter: the plain backbone.
        masks bool [..., action_size]: available choices of discrete teams.
        state (obs without time and last axis, hidden_size): hidden states before the first step; None: zeros.
        keep bool, broadcastable to obs without its last axis: False where an episode begins; None: True everywhere.
        """
        return self._evaluate(obs, roles, masks, agent, adapters, state, keep)

    def step(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        available: Tensor | None = None,
        hidden: Tensor | None = None,
        agents: tuple[int, ...] | None = None,
        adapters: bool = True,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """One step of `Acting.step`. adapters: whether they are in use."""
        return self._evaluate(obs, roles, available, agents, adapters, hidden, None, one_step=True)

    def _evaluate(
        self,
        obs: Tensor,
        roles: Tensor | None,
        masks: Tensor | None,
        agent: Agent,
        adapters: bool,
        state: Tensor | None,
        keep: Tensor | None,
        one_step: bool = False,
    ) -> tuple[ActionDistribution, Tensor | None]:
        if self.obs_norm is not None:
            obs = self.obs_norm(obs, agent)
        rows = self.router.layout(obs, agent, roles, adapters)
        present = None if self.obs_mask is None or self.encoder is not None else rows.table_in(self.obs_mask)
        if self.encoder is None:
            x = rows.arrange(obs)
        else:
            real = None if self.obs_mask is None else rows.table_out(self.obs_mask)
            x = self.encoder(obs if real is None else torch.where(real, obs, 0.0), rows)
        hidden, states = self.features(x, rows, present, adapters, state, keep, one_step)
        output = rows.restore(self.head(hidden, rows.slots, adapters))
        real = None if self.real_entries is None else rows.table_out(self.real_entries)
        log_std = None if self.head_type is None else rows.restore_vector(self.log_std(rows.slots, adapters))
        if self.components is not None:
            return Categoricals(self.components.logits(output, masks, rows.table_out)), states
        return action_distribution(self.head_type, output, log_std, real, masks), states

    def real_actions(self, agent: Agent = None) -> Tensor | None:
        """bool [N, d], the action dimensions that agents have (only those of `agent`, if given); None: no padding."""
        if self.components is not None:
            real = self.components.dims
        else:
            real = None if self.head_type is None else self.real_entries
        if real is None or agent is None:
            return real
        return real[index_of(agent, real.device) if isinstance(agent, tuple | Some) else agent]


def action_distribution(
    head: ContinuousHead | None, output: Tensor, log_std: Tensor | None, real: Tensor | None, masks: Tensor | None
) -> ActionDistribution:
    """Action distribution from the network's output [..., N, action_size].

    head: class of the continuous head; None: discrete actions with one component.
    """
    if head is not None:
        assert log_std is not None, "continuous heads have one"
        return head(output if real is None else output * real, log_std, real)
    for mask in (masks, real):
        output = output if mask is None else output.masked_fill(~mask, -torch.inf)
    return Categorical(output)


def _mask_if_unequal(sizes: tuple[int, ...], mask: np.ndarray) -> Tensor | None:
    return None if len(set(sizes)) == 1 else torch.as_tensor(mask)
