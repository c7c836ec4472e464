"""Merging: folds adapters and ids into dense weights per agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear, BankVector, LoRAConfig
from lorasa_rllib.policies.saved import SavedPolicy, is_statistics
from lorasa_rllib.spec import Owners


@torch.no_grad()
def merged(saved: SavedPolicy, roles: Sequence[int] | None = None) -> SavedPolicy:
    """Separate dense policies per agent that act exactly like this one, with adapters and id columns folded in.

    roles: [N] fixed role of each agent, needed if adapters are keyed by role; -1: the plain backbone.
    """
    config = saved.config
    spec, actor = config.spec, saved.actor()
    adapters = saved.adapters_on and config.owners.num_adapters > 0
    if config.owners.by_role and adapters:
        if roles is None or len(roles) != spec.num_agents:
            raise ValueError(f"adapters are keyed by role: give roles, one for each of the {spec.num_agents} agents.")
        known = torch.tensor([k if 0 <= k < config.owners.num_adapters else config.owners.num_adapters for k in roles])
        slots = actor.router.slots_of_roles(known)
    elif roles is not None:
        raise ValueError("roles are for policies whose adapters are keyed by role; leave them out.")
    else:
        slots = actor.router.slots_of_agents(slice(None))
    n, weights = spec.num_agents, {}
    for name, layer in actor.named_modules():
        if isinstance(layer, BankLinear):
            affine = layer.merged(slots, adapters)
            weights[f"{name}.weight"], weights[f"{name}.bias"] = affine.weight, affine.bias
        elif isinstance(layer, BankLayerNorm):
            weights[f"{name}.weight"], weights[f"{name}.bias"] = layer.affine(slots, adapters)
        elif isinstance(layer, BankVector):
            weights[f"{name}.weight"] = layer(slots, adapters)
    if actor.encoder is not None:
        own = {name: w for name, w in saved.weights.items() if name.startswith("encoder.")}
        weights |= {name: slots.pick(w, slots.backbone) for name, w in own.items()}
    weights = {name: w.expand(n, *w.shape[1:]).clone() for name, w in weights.items()}
    weights |= {name: w for name, w in saved.weights.items() if is_statistics(name)}
    owners = Owners("nps", tuple(range(n)), critic_of=config.owners.critic_of)
    dense = replace(config, owners=owners, network=replace(config.network, id_features="none"), lora=LoRAConfig())
    return saved.edited("merged", config=dense, phase="backbone", weights=weights)
