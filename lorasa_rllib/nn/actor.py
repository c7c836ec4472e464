"""The actor: one network class for every sharing method. Owners decide which weights a row meets."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear, BankVector, LoRAConfig
from lorasa_rllib.nn.distributions import CONTINUOUS, ActionDistribution, Categorical
from lorasa_rllib.nn.network import Banks, NetworkConfig, Trunk
from lorasa_rllib.nn.rows import Router
from lorasa_rllib.spec import Owners, TeamSpec


class Actor(Trunk):
    """Observations to action distributions, for all agents of a team at once.

    Layers: feature_norm, mlp.0 .., head, log_std (continuous teams). Padded observation entries are never read; padded
    action dimensions have mean 0 and take no part in anything; padded choices have probability 0.
    """

    def __init__(self, spec: TeamSpec, owners: Owners, lora: LoRAConfig, config: NetworkConfig):
        banks = Banks(owners, lora)
        super().__init__(spec.obs_size, banks, config, spec.id_capacity if config.uses_ids(owners) else 0)
        self.router = Router(owners)
        self.head = BankLinear("head", config.hidden_size, spec.action_size, banks.of("head"), config.head_gain)
        self._continuous = CONTINUOUS[config.distribution] if spec.continuous else None
        if self._continuous is not None:
            self.log_std = BankVector(
                "log_std", spec.action_size, banks.of("log_std"), self._continuous.initial_log_std
            )
        self.register_buffer("_obs_mask", _mask_if_unequal(spec.obs_sizes, spec.obs_mask()), persistent=False)
        self.register_buffer("_action_mask", _mask_if_unequal(spec.action_sizes, spec.action_mask()), persistent=False)
        self._obs_mask: Tensor | None
        self._action_mask: Tensor | None

    def forward(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        masks: Tensor | None = None,
        agent: Tensor | int | None = None,
        adapters: bool = True,
    ) -> ActionDistribution:
        """Distribution of every row's action.

        obs [..., N, obs_size]; with `agent` given: [..., obs_size] of that one agent (int), or flat rows
        [R, obs_size] with an agent index each (Tensor [R], any order).
        roles int64 (obs without its last axis): adapter of every row, where routing is by role.
        masks bool [..., action_size]: available choices of discrete teams.
        """
        rows = self.router.layout(obs, agent, roles)
        present = None if self._obs_mask is None else rows.table_in(self._obs_mask)
        hidden = self.features(rows.arrange(obs), rows, present, adapters)
        output = rows.restore(self.head(hidden, rows.slots, adapters))
        real = None if self._action_mask is None else rows.table_out(self._action_mask)
        if self._continuous is None:
            for mask in (masks, real):
                output = output if mask is None else output.masked_fill(~mask, -torch.inf)
            return Categorical(output)
        log_std = rows.restore_vector(self.log_std(rows.slots, adapters))
        return self._continuous(output if real is None else output * real, log_std, real)

    def real_actions(self) -> Tensor | None:
        """bool [N, d], the action dimensions that agents have; None if nothing is padded."""
        return None if self._continuous is None else self._action_mask

    @torch.no_grad()
    def merged(self) -> Actor:
        """A snapshot with every adapter folded into dense weights of its own for each agent: for acting.

        It answers like this actor does now, with one batched product per layer. Later changes here do not reach it.
        """
        if self.router.by_role:
            raise ValueError("adapters keyed by role are merged per forward; there is no dense weight per agent.")
        slots = self.router.slots_of_agents(slice(None))
        merged = copy.deepcopy(self)
        merged.router = Router(Owners("merged", tuple(range(slots.size)))).to(self._device())
        for source, target in zip(self.modules(), merged.modules(), strict=True):
            if isinstance(source, BankLinear) and isinstance(target, BankLinear):
                target.weight = _frozen(source.merged_weight(slots))
                target.bias = _frozen(source.merged_bias(slots))
                target.rank = 0
                for name in ("lora_A", "lora_B", "delta"):
                    if hasattr(target, name):
                        delattr(target, name)
            elif isinstance(source, BankVector) and isinstance(target, BankVector):
                target.weight = _frozen(source(slots))
                target.adapted = False
                if hasattr(target, "delta"):
                    del target.delta
            elif isinstance(source, BankLayerNorm) and isinstance(target, BankLayerNorm):
                target.weight = _frozen(slots.pick(source.weight, slots.backbone))
                target.bias = _frozen(slots.pick(source.bias, slots.backbone))
        return merged

    def _device(self) -> torch.device:
        return self.head.weight.device


def _mask_if_unequal(sizes: tuple[int, ...], mask: np.ndarray) -> Tensor | None:
    return None if len(set(sizes)) == 1 else torch.as_tensor(mask)


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), requires_grad=False)
