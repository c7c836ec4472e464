"""The merged actor: a snapshot for acting, with everything that is fixed between two weight syncs worked out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasa_rllib.nn.actor import Actor, action_distribution
from lorasa_rllib.nn.bank import Affine, BankLayerNorm
from lorasa_rllib.nn.distributions import ActionDistribution
from lorasa_rllib.nn.network import ACTIVATION
from lorasa_rllib.nn.rows import Slots


class MergedActor:
    """Answers as the actor it is made from did at that moment, for whole teams `[..., N, obs_size]`.

    Adapters, id columns and the affine maps of LayerNorms are folded into one dense weight and bias for each agent and
    layer (one weight for all agents if they share it), so that acting costs one batched product per layer. It shares
    no memory with the actor and follows none of its later changes. Not for adapters keyed by role.
    """

    @torch.no_grad()
    def __init__(self, actor: Actor, adapters: bool = True):
        if actor.router.by_role:
            raise ValueError("adapters keyed by role are merged per forward; there is no dense weight per agent.")
        slots = actor.router.slots_of_agents(slice(None))
        present = actor.obs_mask
        self._present = None if present is None else present[:, None]  # [N, 1, obs_size]
        self._count = 1 if present is None else present.sum(-1)[:, None, None].to(actor.head.weight.dtype)
        self._standardises = actor.feature_norm is not None
        self._normalises = actor.config.layer_norm
        self._activation = ACTIVATION[actor.config.activation]
        self._head_type, self._real = actor.head_type, actor.real_entries
        self._log_std = None if actor.head_type is None else actor.log_std(slots, adapters).clone()
        self._num_agents = slots.size
        self._layers: list[Affine] = []
        norm, entries = actor.feature_norm, present
        for layer in [*actor.mlp, actor.head]:
            self._layers.append(_fold(norm, entries, layer.merged(slots, adapters), slots))
            norm, entries = getattr(layer, "norm", None), None

    def __call__(self, obs: Tensor, *, masks: Tensor | None = None, **_: Any) -> ActionDistribution:
        """Arguments as `Actor.forward`; roles and `adapters` are settled already."""
        x = self._standardised(obs.reshape(-1, *obs.shape[-2:]).transpose(0, 1))
        for layer in self._layers[:-1]:
            x = self._activation(layer(x))
            if self._normalises:
                x = F.layer_norm(x, x.shape[-1:])
        output = self._layers[-1](x).transpose(0, 1).reshape(*obs.shape[:-1], -1)
        return action_distribution(self._head_type, output, self._log_std, self._real, masks)

    def _standardised(self, x: Tensor) -> Tensor:
        """x [N, B, obs_size] with zero mean and unit variance over real features."""
        if self._present is None:
            return F.layer_norm(x, x.shape[-1:]) if self._standardises else x
        x = torch.where(self._present, x, 0.0)
        if not self._standardises:
            return x
        centred = (x - x.sum(-1, keepdim=True) / self._count) * self._present
        variance = centred.square().sum(-1, keepdim=True) / self._count
        return centred * torch.rsqrt(variance + 1e-5)


def _fold(norm: BankLayerNorm | None, present: Tensor | None, layer: Affine, slots: Slots) -> Affine:
    """W (g x + c) + b as (W g) x + (W c + b): the affine map of a LayerNorm becomes part of the layer after it."""
    weight, bias = layer.weight, layer.bias
    assert bias is not None
    if norm is not None:
        gain, offset = slots.pick(norm.weight, slots.backbone), slots.pick(norm.bias, slots.backbone)
        offset = offset if present is None else offset * present
        weight, bias = weight * gain[:, None], bias + (weight @ offset[..., None]).squeeze(-1)
    return Affine(weight.clone(), bias.clone())
