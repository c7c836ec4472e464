"""Derives new teams from the agents of a saved policy, and new banks of roles from its roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lorasa_rllib.policies.saved import SavedPolicy, is_adapters, is_statistics


def team_of(saved: SavedPolicy, members: Mapping[str, str]) -> SavedPolicy:
    """A policy for a team of copies of this one's agents: to add (warm-started), remove or reorder agents.

    members: new name -> agent to copy everything from (sizes, weights, id column), in the new order.
    Every new agent acts exactly like its source. The critic is dropped: another team has a different global state.
    """
    spec, owners = saved.config.spec, saved.config.owners
    if not members:
        raise ValueError("a team needs at least one agent.")
    if unknown := sorted(set(members.values()) - set(spec.agents)):
        raise ValueError(f"the policy has no agents {unknown}; it has {list(spec.agents[:20])}.")
    source = [spec.agents.index(agent) for agent in members.values()]
    alone = owners.adapter_of == tuple(range(spec.num_agents))  # copies of an agent then get copies of its adapter
    adapters = source if alone else sorted({owners.adapter_of[n] for n in source}) if owners.adapter_of else []
    each = owners.num_backbones == spec.num_agents > 1
    backbones = source if each else sorted({owners.backbone_of[n] for n in source})
    critics = range(len(source)) if owners.num_critics == spec.num_agents > 1 else [0] * len(source)
    by_role = owners.by_role
    new_owners = replace(
        owners,
        backbone_of=tuple(range(len(source)) if each else (backbones.index(owners.backbone_of[n]) for n in source)),
        adapter_of=() if not owners.adapter_of else tuple(
            range(len(source)) if alone else (adapters.index(owners.adapter_of[n]) for n in source)
        ),
        critic_of=tuple(critics),
        num_adapters=owners.num_adapters if by_role else len(adapters),
    )  # fmt: skip
    new_spec = replace(spec, agents=tuple(members), id_capacity=len(source), **spec.per_agent(source))
    config = replace(saved.config, spec=new_spec, owners=new_owners)
    widths = {"obs": new_spec.obs_size, "act": new_spec.action_size}
    weights = {}
    for name, weight in saved.weights.items():
        if is_adapters(name):
            weights[name] = weight if by_role else weight[adapters]
        elif is_statistics(name):
            weights[name] = weight[source]
        else:
            weights[name] = weight[backbones] if len(weight) == owners.num_backbones > 1 else weight
    if (new_spec.obs_size, new_spec.action_size) != (spec.obs_size, spec.action_size):
        raise ValueError(
            f"without its largest agent the team's arrays would be narrower ({widths} instead of obs {spec.obs_size}, "
            f"act {spec.action_size}): keep one of the largest agents."
        )
    if config.network.uses_ids(owners):
        first = "mlp.0.weight"
        features = weights[first].shape[-1] - spec.id_capacity
        columns = features + torch.tensor(source)
        weights[first] = torch.cat([weights[first][..., :features], weights[first][..., columns]], -1)
    what = ", ".join(name if name == agent else f"{name} like {agent}" for name, agent in members.items())
    return saved.edited(f"team of {what}", config=config, weights=weights, critic=None)


def roles_of(saved: SavedPolicy, sources: Sequence[int]) -> SavedPolicy:
    """A policy whose role k acts like role `sources[k]` of this one: to grow or reorder a bank of roles."""
    owners, spec = saved.config.owners, saved.config.spec
    if not owners.by_role:
        raise ValueError("this policy's adapters are not keyed by role: make another team of its agents instead.")
    if not sources or min(sources) < 0 or max(sources) >= owners.num_adapters:
        raise ValueError(f"sources={list(sources)} must name roles from 0 to {owners.num_adapters - 1}.")
    config = replace(
        saved.config,
        spec=replace(spec, num_roles=max(spec.num_roles, len(sources))),
        owners=replace(owners, num_adapters=len(sources)),
    )
    weights = {name: w[list(sources)] if is_adapters(name) else w for name, w in saved.weights.items()}
    return saved.edited(f"roles like {list(sources)}", config=config, weights=weights)
