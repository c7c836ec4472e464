"""Editing adapters: reset them, move them between policies, reduce their rank, fold their mean into the backbone.

Functions from saved policies to saved policies. Each docstring says what is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.nn.bank import BankLinear, LoRAConfig
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.policies.folder import index_of_adapter, read_adapter
from lorasa_rllib.policies.saved import SavedPolicy, names_of_adapters


@dataclass(frozen=True)
class Change:
    """Error of an edit: |D - D'| / |D| (Frobenius) of one adapter's update D in one layer; 0 if D = 0."""

    layer: str
    adapter: str
    relative_error: float


def plain_adapters(saved: SavedPolicy, names: Sequence[str]) -> SavedPolicy:
    """The policy with some adapters reset to zero effect, so they can be trained again from the plain backbone."""
    weights = dict(saved.weights)
    for k in (index_of_adapter(saved.config, name) for name in names):
        for name, bank in saved.adapters().items():
            bank = weights[name].clone() if weights[name] is bank else weights[name]
            if name.endswith("lora_A"):  # with both factors 0, gradients would vanish
                bank[k] = torch.empty_like(bank[k]).uniform_(-1, 1) / bank.shape[-1] ** 0.5
            else:
                bank[k] = 0.0
            weights[name] = bank
    return saved.edited(f"set back {', '.join(names)}", weights=weights)


def transplant(target: SavedPolicy, name: str, source: SavedPolicy | str | Path, source_name: str = "") -> SavedPolicy:
    """The target with its adapter `name` replaced by one from another policy with the same network, or from a folder.

    The update s B A is copied exactly, even if the scales differ; the source's rank must not exceed the target's.
    source: a policy, with `source_name`; or an adapter's folder. A target in its backbone phase, in which adapters have
    no effect, moves to the adapter phase.
    """
    k = index_of_adapter(target.config, name)
    if isinstance(source, SavedPolicy):
        index = index_of_adapter(source.config, source_name)
        lora, given = source.config.lora, {layer: bank[index] for layer, bank in source.adapters().items()}
        origin = source_name
    else:
        lora, given = read_adapter(source, target.config)
        origin = str(Path(source).name)
    own = {layer: bank[k] for layer, bank in target.adapters().items()}
    fitted = _fitted(given, own, lora, target.config)
    weights = dict(target.weights)
    for layer, value in fitted.items():
        weights[layer] = weights[layer].clone()
        weights[layer][k] = value
    phase = target.phase if target.adapters_on else "adapters"
    return target.edited(f"transplanted {origin} to {name}", weights=weights, phase=phase)


def truncated(saved: SavedPolicy, r: int) -> tuple[SavedPolicy, list[Change]]:
    """The policy with all adapters at their best rank-r approximation (Eckart and Young 1936), and the errors."""
    _check_has_adapters(saved)
    lora = replace(saved.config.lora, r=r, rank_pattern={})
    return _factored(saved, updates_of(saved), lora, f"truncated to rank {r}")


def folded(saved: SavedPolicy, r: int | None = None) -> tuple[SavedPolicy, list[Change]]:
    """The policy with the mean of all adapters' updates moved into the backbone, and the errors of refitting adapters.

    Exact for large r (K times the rank always suffices). None: the rank is kept, and the errors may be above 0. A
    backbone that contains the adapters' common part is a better start for new ones. Needs one shared backbone. The
    adapters' id columns, biases, LayerNorms and log-std are not averaged.
    """
    _check_has_adapters(saved)
    if saved.config.owners.num_backbones > 1:
        raise ValueError("folding needs one shared backbone; this policy has several.")
    if not saved.adapters_on:
        raise ValueError("this policy is in its backbone phase, in which adapters have no effect: nothing to fold.")
    updates, weights = updates_of(saved), dict(saved.weights)
    features = {name: layer.in_size for name, layer in _linear(saved.actor())}
    for name, update in updates.items():
        width = features[name]
        common = update[..., :width].mean(0)
        updates[name] = torch.cat([update[..., :width] - common, update[..., width:]], -1)
        weight = weights[f"{name}.weight"].clone()
        weight[0, :, :width] += common
        weights[f"{name}.weight"] = weight
    lora = saved.config.lora if r is None else replace(saved.config.lora, r=r, rank_pattern={})
    return _factored(replace(saved, weights=weights), updates, lora, "folded the adapters' mean into the backbone")


def updates_of(saved: SavedPolicy) -> dict[str, Tensor]:
    """Each adapter's update of the weights of each adapted linear layer, by name: [K, out, in (+ 1, its id column)]."""
    found = {}
    for name, layer in _linear(saved.actor()):
        found[name] = layer.delta if layer.dense else layer.scaling * layer.lora_B @ layer.lora_A
    return found


def _linear(actor: Actor) -> list[tuple[str, BankLinear]]:
    return [(name, layer) for name, layer in actor.named_modules() if isinstance(layer, BankLinear) and layer.rank]


def _check_has_adapters(saved: SavedPolicy) -> None:
    if not saved.config.owners.num_adapters:
        raise ValueError(f"sharing method {saved.config.owners.method!r} has no adapters.")


def _factored(
    saved: SavedPolicy, updates: Mapping[str, Tensor], lora: LoRAConfig, what: str
) -> tuple[SavedPolicy, list[Change]]:
    """The policy with the given updates factored into adapters of the ranks of `lora`, and the errors."""
    config = replace(saved.config, lora=lora)
    new = replace(saved, config=config, weights=saved.weights)
    layers = dict(_linear(Actor(config.spec, config.owners, config.lora, config.network)))
    weights = {name: w for name, w in saved.weights.items() if name.rpartition(".")[2] not in ("lora_A", "lora_B")}
    changes = []
    for name, update in updates.items():
        layer = layers[name]
        if layer.dense:
            weights[f"{name}.delta"], kept = update, update
        else:
            weights.pop(f"{name}.delta", None)
            u, s, v = torch.linalg.svd(update.double(), full_matrices=False)
            u, s, v = u[..., : layer.rank], s[..., : layer.rank].sqrt(), v[..., : layer.rank, :]
            a, b = (s[..., None] * v).float(), (u * s[..., None, :] / layer.scaling).float()
            weights[f"{name}.lora_A"], weights[f"{name}.lora_B"] = a, b
            kept = layer.scaling * b @ a
        size = update.flatten(1).norm(dim=1)
        errors = ((update - kept).flatten(1).norm(dim=1) / size).where(size > 0, torch.zeros(()))
        changes += [
            Change(name, adapter, error)
            for adapter, error in zip(names_of_adapters(config), errors.tolist(), strict=True)
        ]
    return new.edited(what, weights=weights), changes


def _fitted(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], lora: LoRAConfig, config: PolicyConfig
) -> dict[str, Tensor]:
    """A given adapter's weights in the shapes of the policy's bank: scales adjusted, lower ranks padded."""
    layers = dict(_linear(Actor(config.spec, config.owners, config.lora, config.network)))
    wider = Actor(config.spec, config.owners, lora, config.network)
    theirs = dict(_linear(wider))
    fitted: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if name not in theirs:
            raise ValueError(f"the given adapter has no part on layer {name}: its target_modules are others.")
        source, delta = theirs[name], f"{name}.delta"
        a, b = f"{name}.lora_A", f"{name}.lora_B"
        if layer.dense:
            fitted[delta] = given[delta] if source.dense else source.scaling * given[b] @ given[a]
            if fitted[delta].shape != own[delta].shape:
                raise ValueError(f"the given adapter has other sizes on layer {name}: it belongs to another network.")
        elif source.dense or source.rank > layer.rank:
            raise ValueError(
                f"the given adapter has rank {source.rank} on layer {name}, the policy {layer.rank}: truncate it first."
            )
        else:
            if given[a].shape[1] != own[a].shape[1] or given[b].shape[0] != own[b].shape[0]:
                raise ValueError(f"the given adapter has other sizes on layer {name}: it belongs to another network.")
            rest = layer.rank - source.rank  # additional ranks start at zero effect
            fresh = torch.empty(rest, own[a].shape[1]).uniform_(-1, 1) / own[a].shape[1] ** 0.5
            fitted[a] = torch.cat([given[a], fresh])
            zeros = given[b].new_zeros(given[b].shape[0], rest)
            fitted[b] = torch.cat([given[b] * source.scaling / layer.scaling, zeros], 1)
    factors = {f"{name}.{part}" for name in layers for part in ("lora_A", "lora_B", "delta")}
    if others := sorted(set(given) - factors - set(own)):
        raise ValueError(f"the given adapter also adapts {others[:3]}, for which the policy has no place.")
    plain = set(own) - set(fitted)
    for name in plain:
        fitted[name] = given[name] if name in given else torch.zeros_like(own[name])
        if fitted[name].shape != own[name].shape:
            raise ValueError(f"the given adapter has other sizes in {name}: it belongs to another network.")
    return fitted
