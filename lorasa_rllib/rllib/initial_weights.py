"""Weights that a run starts from or continues with, and the checks that they fit its team, method and network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorasa_rllib.learning.phases import PhaseSchedule
from lorasa_rllib.nn.encoder_classes import complete
from lorasa_rllib.nn.obs_norm import for_more_agents
from lorasa_rllib.nn.policy import Phase, PolicyConfig, TeamPolicy
from lorasa_rllib.policies.adapters import transplant
from lorasa_rllib.policies.saved import SavedPolicy, is_adapters, is_statistics, names_of_adapters, saved
from lorasa_rllib.rllib.checkpoints import read_trained
from lorasa_rllib.rllib.module import check_state
from lorasa_rllib.spec import Owners


def check_same_owners(path: str | Path, theirs: Owners, own: Owners) -> None:
    """Raises ValueError if a checkpoint's weights would be assigned to agents that did not train them."""
    check_groups(path, theirs, own)
    if theirs.num_adapters == own.num_adapters and theirs.adapter_of != own.adapter_of:
        raise ValueError(
            f"the checkpoint {path} has adapters of agents {list(theirs.adapter_of)} (routed by {theirs.routed_by}), "
            f"this algorithm {list(own.adapter_of)} (routed by {own.routed_by}). Build it with the same adapter_key, "
            "or with from_checkpoint."
        )


def check_phase(path: str | Path, theirs: Phase, schedule: PhaseSchedule) -> None:
    """Raises ValueError if a two-phase run would continue a jointly trained checkpoint: it would stay joint."""
    if theirs == "joint" and schedule.schedule != "joint":
        raise ValueError(
            f"the checkpoint {path} was trained jointly, but this algorithm has schedule={schedule.schedule!r}. Build "
            "it with .sharing(schedule='joint'), or with from_checkpoint; to train the adapters alone, begin "
            "a new run with .sharing(backbone=..., adapters=..., phase_switch=0)."
        )


def check_same_network(whose: str, theirs: PolicyConfig, own: PolicyConfig, adapters: bool = True) -> None:
    """Raises ValueError if weights that fit would mean something else here.

    Compares activation, continuous head, settings of the encoder, normalisation by statistics and the adapters' scale.

    whose: the weights, for the message. adapters: False if the adapters have no effect yet, or are not used.
    """
    names = ["activation", *(["distribution"] if own.spec.continuous else [])]
    names += ["obs_norm", "obs_clip"] if theirs.keeps_statistics and own.keeps_statistics else []
    settings = [("network", name, getattr(theirs.network, name), getattr(own.network, name)) for name in names]
    if theirs.network.encoder and own.network.encoder:
        before, now = (complete(one.encoder or "", one.encoder_settings) for one in (theirs.network, own.network))
        settings.append(("network", "encoder_settings", before, now))
    if adapters and own.owners.num_adapters:
        scales = ("lora_alpha", "use_rslora")
        settings += [("sharing", name, getattr(theirs.lora, name), getattr(own.lora, name)) for name in scales]
    for setter, name, before, now in settings:
        if before != now:
            raise ValueError(
                f"{whose} was trained with {name}={before!r}, and here it is {now!r}: its weights would mean something "
                f"else. Set .{setter}({name}={before!r})."
            )


def check_groups(path: str | Path, theirs: Owners, own: Owners) -> None:
    """Raises ValueError if a checkpoint has other groups, whose weights would be assigned to the wrong agents."""
    if theirs.num_backbones == own.num_backbones > 1 and theirs.backbone_of != own.backbone_of:
        raise ValueError(
            f"the checkpoint {path} has groups={list(theirs.backbone_of)}, this algorithm {list(own.backbone_of)}. "
            f"Build it with .sharing(groups={list(theirs.backbone_of)}), or with from_checkpoint."
        )


def backbone_weights(path: str | Path, config: PolicyConfig) -> dict[str, Tensor]:
    """Initial weights that `backbone=` gives a policy of `config`: everything but the adapters, by parameter name.

    A policy saved without its critic provides only the actor. If it has fewer agents, missing id columns are set to the
    mean id, and missing observation statistics to those of all agents pooled. Raises ValueError if the architecture
    differs.
    """
    try:
        source = read_trained(path)
    except ValueError as error:
        raise ValueError(f"backbone={str(path)!r}: {error}") from error
    _check_agents(path, source, config)
    check_groups(path, source.config.owners, config.owners)
    check_same_network(f"backbone={str(path)!r}", source.config, config, adapters=False)
    if source.config.spec.obs_size != config.spec.obs_size:
        raise ValueError(
            f"backbone={str(path)!r} reads observations of {source.config.spec.obs_size} features, agents here have "
            f"{config.spec.obs_size}. Give it an environment with the same observations."
        )
    own = {name: w for name, w in TeamPolicy(config).state_dict().items() if not is_adapters(name) and name != "_phase"}
    weights = {f"actor.{name}": w for name, w in source.backbone().items()}
    first = "actor.mlp.0.weight"
    if config.network.uses_ids(config.owners) == source.config.network.uses_ids(source.config.owners):
        features = weights[first].shape[-1] - source.config.spec.id_capacity
        weights[first] = _with_ids(weights[first], own[first].shape[-1], features)
    if statistics := {name.partition(".")[2]: w for name, w in source.backbone().items() if is_statistics(name)}:
        filled = for_more_agents(statistics, config.spec.num_agents)
        weights |= {f"actor.obs_norm.{name}": w for name, w in filled.items()}
    if source.critic is None:
        own = {name: w for name, w in own.items() if name.startswith("actor.")}
    check_state(own, {**weights, **(source.critic or {})}, [])
    return {**weights, **(source.critic or {})}


def adapter_weights(given: str | Path | Mapping[str, str | Path], config: PolicyConfig) -> dict[str, Tensor]:
    """Initial weights that `adapters=` gives a policy of `config`: the whole bank, by parameter name.

    given: a policy or checkpoint, whose adapters are matched by name; or name -> folder of an adapter. Other adapters
    start with no effect. Raises ValueError if an adapter does not fit, or no name matches.
    """
    target = saved(TeamPolicy(config))
    if not config.owners.num_adapters:
        raise ValueError(f"adapters= needs a sharing method with adapters; {config.owners.method!r} has none.")
    try:
        if isinstance(given, Mapping):
            for name, folder in given.items():
                target = transplant(target, name, folder)
        else:
            source = read_trained(given)
            shared = [name for name in names_of_adapters(config) if name in names_of_adapters(source.config)]
            if not shared:
                raise ValueError(f"it has no adapter of any of the names {names_of_adapters(config)[:20]}.")
            for name in shared:
                target = transplant(target, name, source, name)
    except ValueError as error:
        raise ValueError(f"adapters={given!r}: {error}") from error
    return {f"actor.{name}": w for name, w in target.adapters().items()}


def _check_agents(path: str | Path, source: SavedPolicy, config: PolicyConfig) -> None:
    """Raises ValueError if ids, backbones or critics, which belong to positions, would go to the wrong agents."""
    theirs, owners = source.config, source.config.owners
    told_apart = theirs.network.uses_ids(owners) or owners.num_backbones > 1
    values = theirs.critic_input == "agent_state" and (owners.num_critics > 1 or not theirs.spec.state_per_agent)
    first = config.spec.agents[: theirs.spec.num_agents]
    if first != theirs.spec.agents and (told_apart or (values and source.critic is not None)):
        raise ValueError(
            f"backbone={str(path)!r} tells apart the agents {list(theirs.spec.agents)}, and this team is "
            f"{list(config.spec.agents)}. Use an environment in which all of them are, or say who begins as whom: "
            "lorasa_rllib.policies.teams.team_of."
        )


def _with_ids(weight: Tensor, width: int, features: int) -> Tensor:
    """The first layer's weight [G, out, features + ids], padded to `width` with the mean of its id columns."""
    missing = width - weight.shape[-1]
    if missing <= 0 or weight.shape[-1] == features:
        return weight
    return torch.cat([weight, weight[..., features:].mean(-1, keepdim=True).expand(-1, -1, missing)], -1)
