"""Readable summaries of a config: `config.describe()`, its repr and `algo.print_trainable_parameters()`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from lorasa_rllib.learning.phases import PhaseSchedule
from lorasa_rllib.nn.policy import Phase, PolicyConfig, TeamPolicy
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

GROUPS = ("backbone", "adapters", "critic")


def describe(config: TeamConfig) -> str:
    """The settings of a `TeamConfig` and what follows from them, one line per part.

    Raises ValueError, like `validate`, if no environment is set or the settings are invalid.
    """
    config = config.copy(copy_frozen=False)
    config.validate()
    return "\n".join(f"{name:<12}{text}" for name, text in _lines(config))


def summary(config: TeamConfig) -> str:
    """The distinguishing settings of a `TeamConfig`, for its repr. Never raises."""
    env = getattr(config.env, "__name__", config.env)
    told = [f"env={env!r}"] if env is not None else []
    told += [f"{name}={value!r}" for name, value in (getattr(config, "env_config", None) or {}).items()]
    told += [f"sharing={config.method!r}"]
    told += [f"r={config.r}"] if "lora" in str(config.method) else []
    if config.total_env_steps is not None:
        told += [f"total_env_steps={config.total_env_steps!r}"]
    told += [f"num_env_runners={config.num_env_runners}", f"num_learners={config.num_learners}"]
    return f"{type(config).__name__}({', '.join(told)})"


def trainable_parameters(config: PolicyConfig, phase: Phase) -> str:
    """Parameter counts of a phase, in total and per part, in the format of PEFT's `print_trainable_parameters`."""
    sizes, trained = _sizes(config, phase)
    of, every = sum(trained.values()), sum(sizes.values())
    parts = [f"{name} {sizes[name]:,}{'' if trained[name] else ' (frozen)'}" for name in GROUPS if sizes[name]]
    return (
        f"trainable params: {of:,} || all params: {every:,} || trainable%: {100 * of / every:.2f} "
        f"|| phase {phase!r}: {', '.join(parts)}"
    )


def _lines(config: TeamConfig) -> Iterator[tuple[str, str]]:
    found_later = config.needs_groups
    plan = (config.with_one_group() if found_later else config).plan()
    owners, schedule = plan.owners, plan.schedule
    yield "team", _team(plan.spec)
    if found_later:
        yield "sharing", f"{config.method!r}, groups are found from a random rollout when it is built"
    else:
        key = f", keyed by {_key(config)}" if owners.num_adapters else ""
        banks = f"{owners.num_backbones} backbone(s), {owners.num_adapters} adapter(s)"
        yield "sharing", f"{config.method!r}: {banks}{key}"
    if schedule.has_adapters:
        lora = plan.policy.lora
        where = "every layer" if lora.target_modules == ("*",) else ", ".join(lora.target_modules)
        yield "adapters", f"r={lora.r}, lora_alpha={lora.lora_alpha:g}, on {where}"
    yield "phases", _phases(schedule)
    if not found_later:
        yield "weights", trainable_parameters(plan.policy, schedule.phase_at(0))
    yield "network", _network(plan.policy)
    envs = max(1, config.num_env_runners) * config.num_envs_per_env_runner
    batch = config.total_train_batch_size
    runners = config.num_env_runners or "no"
    yield "sampling", f"{runners} remote env runner(s), {envs} environments, {batch:,} steps an iteration"
    size = plan.update.minibatch_size or batch
    steps = config.num_epochs * -(-batch // size)
    yield (
        "update",
        (
            f"{config.num_epochs} passes, minibatches of {size:,} environment steps: {steps} "
            f"optimiser steps an iteration, {1000 * steps / batch:.3g} per 1,000 environment steps"
        ),
    )
    numbers = ", ".join(f"{name}={getattr(config, name)}" for name in ("lr", "gamma", "lambda_", "clip_param"))
    decaying = [name for name in ("lr", "critic_lr", "entropy_coeff") if config.decays(name)]
    yield "numbers", numbers + (f"; decaying to 0: {', '.join(decaying)}" if decaying else "")


def _team(spec: TeamSpec) -> str:
    names = ", ".join(spec.agents[:4]) + (", ..." if spec.num_agents > 4 else "")
    obs, actions = (_span(sizes) for sizes in (spec.obs_sizes, spec.action_sizes))
    reward = "one reward for the team" if spec.shared_reward else "a reward for each agent"
    return f"{spec.num_agents} agent(s): {names}; observations {obs}, {spec.action_kind} actions {actions}, {reward}"


def _span(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def _key(config: TeamConfig) -> str:
    key = config.adapter_key
    return key if isinstance(key, str) else "a function of the step" if callable(key) else f"the table {key}"


def _phases(schedule: PhaseSchedule) -> str:
    if not schedule.has_adapters:
        return "one: everything trains throughout"
    if schedule.schedule == "joint":
        return "joint: backbone and adapters train together"
    if schedule.switch_step is None:
        return f"two: the switch is found from the return, within {schedule.total_env_steps:,} environment steps"
    return f"two: adapters begin after {schedule.switch_step:,} environment steps"


def _network(config: PolicyConfig) -> str:
    network = config.network
    memory = " and a GRU" if network.recurrent else ""
    norms = {"layer": "normalised by a LayerNorm", None: "as they are"}
    by_statistics = (
        "as they are" if config.encodes_images else f"normalised by running statistics, within +-{network.obs_clip:g}"
    )
    norm = norms.get(network.obs_norm, by_statistics)
    layers = f"{network.num_layers} hidden layers of {network.hidden_size} ({network.activation}){memory}"
    encoder = f"encoder {network.encoder}, then " if network.encoder else ""
    return f"{encoder}{layers}; observations {norm}"


def _sizes(config: PolicyConfig, phase: Phase) -> tuple[dict[str, int], dict[str, int]]:
    """Total and trainable parameter counts per part. Leaves torch's CPU random state unchanged."""
    with torch.random.fork_rng(devices=[]):
        policy = TeamPolicy(config)
    policy.set_phase(phase)
    parts = {name: list(policy.parameters_of(name).values()) for name in GROUPS}  # type: ignore[arg-type]
    sizes = {name: sum(p.numel() for p in found) for name, found in parts.items()}
    return sizes, {name: sum(p.numel() for p in found if p.requires_grad) for name, found in parts.items()}
