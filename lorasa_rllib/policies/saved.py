"""A trained policy as data, for saving, editing and acting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS
from lorasa_rllib.nn.critic import Critic
from lorasa_rllib.nn.encoder_classes import learn as learn_encoder
from lorasa_rllib.nn.policy import Phase, PolicyConfig, TeamPolicy
from lorasa_rllib.nn.value_norm import ValueNorm


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from.

    algorithm:   "MAPPO", "A2PO", or None.
    environment, env_config: as given to `.environment()`, classes as "module:qualname". environment is None if it has
                 no such name (a lambda, say) or the settings are not plain data.
    env_steps:   environment steps of training.
    versions:    of the packages that wrote it.
    edits:       descriptions of later edits, in order.
    """

    algorithm: str | None = None
    environment: str | None = None
    env_config: dict[str, Any] = field(default_factory=dict)
    env_steps: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedPolicy:
    """Weights and everything needed to interpret them. Immutable: edits return new policies.

    weights: the actor's, by state dict name: `mlp.0.weight [G, out, in]`, `mlp.0.lora_A [K, r, in]` ...
    critic:  those of critic and value normaliser (`critic.mlp.0.weight`, `value_norm.mean` ...), or None.
    """

    config: PolicyConfig
    phase: Phase
    weights: Mapping[str, Tensor]
    critic: Mapping[str, Tensor] | None = None
    origin: Origin = field(default_factory=Origin)

    @property
    def adapters_on(self) -> bool:
        """Whether acting uses the adapters."""
        return self.phase != "backbone"

    def backbone(self) -> dict[str, Tensor]:
        """The actor's weights other than adapters, including observation statistics."""
        return {name: w for name, w in self.weights.items() if not is_adapters(name)}

    def adapters(self) -> dict[str, Tensor]:
        """The adapters' weights, each with K adapters as its first axis."""
        return {name: w for name, w in self.weights.items() if is_adapters(name)}

    def actor(self) -> Actor:
        """A new actor with these weights."""
        learn_encoder(self.config.network.encoder)  # reading asked whether it is trusted, perhaps in another process
        actor = Actor(self.config.spec, self.config.owners, self.config.lora, self.config.network)
        actor.load_state_dict(dict(self.weights))
        return actor.eval().requires_grad_(False)

    def edited(self, what: str, **changes: Any) -> SavedPolicy:
        """A copy with `changes`; `what` is appended to `origin.edits`."""
        return replace(self, **changes, origin=replace(self.origin, edits=(*self.origin.edits, what)))


def saved(policy: TeamPolicy, origin: Origin | None = None) -> SavedPolicy:
    """A snapshot of a policy, with its critic if it has both critic and value normaliser."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
    actor = {name.removeprefix("actor."): w for name, w in state.items() if name.startswith("actor.")}
    rest = {name: w for name, w in state.items() if name.startswith(("critic.", "value_norm."))}
    whole = any(name.startswith("value_norm.") for name in rest)
    return SavedPolicy(policy.config, policy.phase, actor, rest if whole else None, origin or Origin())


def team_policy(saved: SavedPolicy) -> TeamPolicy:
    """A trainable policy with these weights. Raises ValueError if the critic is missing."""
    if saved.critic is None:
        raise ValueError("this policy was saved without its critic: it can act, but not continue training as before.")
    learn_encoder(saved.config.network.encoder)
    policy = TeamPolicy(saved.config)
    actor = {f"actor.{name}": w for name, w in saved.weights.items()}
    policy.load_state_dict({**actor, **saved.critic, "_phase": policy.state_dict()["_phase"]})
    policy.set_phase(saved.phase)
    return policy


def is_adapters(name: str) -> bool:
    """Whether the actor's weight of this name belongs to the adapters."""
    return name.rpartition(".")[2] in ADAPTER_PARAMETERS


def is_statistics(name: str) -> bool:
    """Whether the actor's weight of this name is one of its observation statistics [N, obs_size]."""
    return name.startswith("obs_norm.")


def expected_shapes(config: PolicyConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes by name of the actor's weights, and of those of critic and value normaliser. Allocates no weights."""
    spec, owners = config.spec, config.owners
    with torch.device("meta"):
        actor = Actor(spec, owners, config.lora, config.network)
        critic = Critic(spec, owners, config.critic_input, config.network)
        norm = ValueNorm(critic.num_values)
    parts = [{f"{prefix}{name}": tuple(w.shape) for name, w in module.state_dict().items()}
             for prefix, module in (("", actor), ("critic.", critic), ("value_norm.", norm))]  # fmt: skip
    return parts[0], parts[1] | parts[2]


def names_of_adapters(config: PolicyConfig) -> list[str]:
    """[K] names: `role_2` if routed by role; the agent's name if only one uses the adapter; otherwise `adapter_3`.

    All are `adapter_k` if an agent's name would clash with one of those.
    """
    owners, agents = config.owners, config.spec.agents
    if owners.by_role:
        return [f"role_{k}" for k in range(owners.num_adapters)]
    users = [[agents[n] for n in some] for some in owners.users()]
    own = {agents[0] for agents in users if len(agents) == 1}
    shared = [f"adapter_{k}" for k in range(owners.num_adapters)]
    clash = own & set(shared)
    return [names[0] if len(names) == 1 and not clash else other for names, other in zip(users, shared, strict=True)]
