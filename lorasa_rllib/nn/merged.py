"""The merged actor: a snapshot for acting, with everything that is fixed between two weight syncs worked out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasa_rllib.nn.actor import Actor, action_distribution
from lorasa_rllib.nn.bank import Affine, BankLayerNorm, BankLinear
from lorasa_rllib.nn.critic import Critic
from lorasa_rllib.nn.distributions import ActionDistribution
from lorasa_rllib.nn.gru import gru_cell
from lorasa_rllib.nn.network import ACTIVATION, Trunk
from lorasa_rllib.nn.rows import Slots, SortedRows


class MergedActor:
    """Answers as the actor it is made from did at that moment, for whole teams `[..., N, obs_size]`.

    Adapters, id columns and the affine maps of LayerNorms are folded into one dense weight and bias for each owner (an
    agent, or a role) and layer, one for all if they share it, so that acting costs one batched product per layer. It
    shares no memory with the actor and follows none of its later changes. Recurrent actors act one step at a time:
    `obs [1, E, N, obs_size]`. Adapters keyed by role need agents with equal observations.
    """

    @torch.no_grad()
    def __init__(self, actor: Actor, adapters: bool = True):
        self._by_role = actor.router.by_role and adapters
        if self._by_role and actor.obs_mask is not None:
            raise ValueError("adapters keyed by role cannot be merged where agents' observations differ in size.")
        self._router = actor.router
        slots = actor.router.slots_of_all() if adapters else actor.router.slots_of_agents(slice(None))
        self._network = _MergedNetwork(actor, actor.head, slots, actor.obs_mask, adapters)
        self._head_type, self._real = actor.head_type, actor.real_entries
        self._log_std = None if actor.head_type is None else actor.log_std(slots, adapters).clone()

    def __call__(self, obs: Tensor, **rows: Any) -> ActionDistribution:
        """Distribution of every row's action; arguments as `unroll`."""
        return self.unroll(obs, **rows)[0]

    def unroll(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        masks: Tensor | None = None,
        state: Tensor | None = None,
        **_: Any,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """As `Actor.unroll`; `adapters` is settled already."""
        rows = self._router.layout(obs, roles=roles, adapters=self._by_role)
        owner = rows.owner_of_slot if isinstance(rows, SortedRows) else None
        y, h = self._network(rows.arrange(obs), None if state is None else rows.arrange(state), owner)
        log_std = self._log_std
        if log_std is not None and owner is not None:
            log_std = rows.restore_vector(_of(log_std, owner))
        after = None if h is None else rows.restore(h)
        return action_distribution(self._head_type, rows.restore(y), log_std, self._real, masks), after


class MergedCritic:
    """The same for a critic that runners step: recurrent critics, one step at a time."""

    @torch.no_grad()
    def __init__(self, critic: Critic):
        slots = critic.router.slots_of_agents(slice(None))
        self._network = _MergedNetwork(critic, critic.head, slots, None, adapters=False)
        self._values, self._per_agent = critic.num_values, critic.per_agent

    def unroll(self, state: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """state [1, E, S] or [1, E, N, S], hidden [E, V, hidden_size] -> values [1, E, V], hidden [1, E, V, ...]."""
        x = state[0].transpose(0, 1) if self._per_agent else state.expand(self._values, -1, -1)
        y, h = self._network(x, hidden.transpose(0, 1))
        return y.squeeze(-1).T[None], None if h is None else h.transpose(0, 1)[None]


class _MergedNetwork:
    """A trunk and its head as a chain of affine maps with plain LayerNorms between them."""

    def __init__(self, trunk: Trunk, head: BankLinear, slots: Slots, present: Tensor | None, adapters: bool):
        self._present = None if present is None else present[:, None]  # [N, 1, features]
        self._count = 1 if present is None else present.sum(-1)[:, None, None].to(head.weight.dtype)
        self._standardises = trunk.feature_norm is not None
        self._normalises = trunk.config.layer_norm
        self._activation = ACTIVATION[trunk.config.activation]
        norm, real = trunk.feature_norm, present

        def fold(layer: BankLinear, its_norm: BankLayerNorm | None) -> Affine:
            nonlocal norm, real
            affine = _fold(norm, real, layer.merged(slots, adapters), slots)
            norm, real = its_norm, None
            return affine

        self._mlp = [fold(layer, layer.norm) for layer in trunk.mlp]  # type: ignore[arg-type]
        self._hidden: Affine | None = None
        if trunk.gru is not None:
            self._input = fold(trunk.gru.input, trunk.gru.norm)
            self._hidden = _fold(None, None, trunk.gru.hidden.merged(slots, adapters), slots)
        self._post = [fold(layer, layer.norm) for layer in trunk.post]  # type: ignore[arg-type]
        self._head = fold(head, None)

    def __call__(self, x: Tensor, h: Tensor | None, owner: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [S, B, features], h [S, B, hidden_size] (zeros if None) -> output [S, B, out] and the next h.

        owner int64 [S]: whose weights each slot meets; None: slot s those of owner s.
        """
        x = self._standardised(x)
        for layer in self._mlp:
            x = self._normalised(self._activation(layer.of(owner)(x)))
        if self._hidden is None:
            return self._head.of(owner)(x), None
        gates = self._input.of(owner)(x)
        h = gates.new_zeros(*gates.shape[:-1], gates.shape[-1] // 3) if h is None else h
        h = gru_cell(gates, self._hidden.of(owner)(h), h)
        x = self._normalised(h)
        for layer in self._post:
            x = self._normalised(self._activation(layer.of(owner)(x)))
        return self._head.of(owner)(x), h

    def _normalised(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) if self._normalises else x

    def _standardised(self, x: Tensor) -> Tensor:
        """Features with zero mean and unit variance over the real ones of every row."""
        if self._present is None:
            return F.layer_norm(x, x.shape[-1:]) if self._standardises else x
        x = torch.where(self._present, x, 0.0)
        if not self._standardises:
            return x
        centred = (x - x.sum(-1, keepdim=True) / self._count) * self._present
        variance = centred.square().sum(-1, keepdim=True) / self._count
        return centred * torch.rsqrt(variance + 1e-5)


def _of(bank: Tensor, owner: Tensor) -> Tensor:
    """[O, ...] -> [S, ...]; what all owners share stays [1, ...]."""
    return bank if len(bank) == 1 else bank.index_select(0, owner)


def _fold(norm: BankLayerNorm | None, present: Tensor | None, layer: Affine, slots: Slots) -> Affine:
    """W (g x + c) + b as (W g) x + (W c + b): the affine map of a LayerNorm becomes part of the layer after it."""
    weight, bias = layer.weight, layer.bias
    if norm is not None:
        gain, offset = slots.pick(norm.weight, slots.backbone), slots.pick(norm.bias, slots.backbone)
        offset = offset if present is None else offset * present
        weight, bias = weight * gain[:, None], bias + (weight @ offset[..., None]).squeeze(-1)
    return Affine(weight.clone(), bias.clone())
