"""The team policy: actor, critic, value normaliser and phase in one module."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.acting import Acting, acting_form
from lorasa_rllib.nn.actor import Actor, RowInputs
from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS, AdaptedLayer, LoRAConfig
from lorasa_rllib.nn.critic import Critic, CriticInput
from lorasa_rllib.nn.distributions import ActionDistribution
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.value_norm import ValueNorm
from lorasa_rllib.spec import Owners, TeamSpec

Phase = Literal["backbone", "adapters", "joint"]
Group = Literal["backbone", "adapters", "critic"]
"""Parameter groups, each with its own optimiser."""
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class PolicyConfig:
    """Everything needed to build a policy and act with it. Plain data: stored in model configs and checkpoints.

    fresh_norm_std: standard deviation of the value normaliser before its first update.
    absent_forget:  whether recurrent policies zero the hidden states of absent agents, in training and acting. False:
                    they move on with observations of zeros (`Quirks(absent_memory=True)`).
    """

    spec: TeamSpec
    owners: Owners
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    critic_input: CriticInput = "state"
    fresh_norm_std: float = 1.0
    absent_forget: bool = True

    def __post_init__(self) -> None:
        if self.critic_input not in get_args(CriticInput):
            raise ValueError(f"critic_input={self.critic_input!r} must be one of {list(get_args(CriticInput))}.")
        if self.critic_input == "state" and not (self.spec.shared_reward and self.owners.num_critics == 1):
            raise ValueError(
                "critic_input='state' gives one value per environment step, which needs a shared reward and one "
                f"critic; this team has shared_reward={self.spec.shared_reward} and {self.owners.num_critics} critics. "
                "Set critic_input='agent_state'."
            )
        if self.critic_input == "state" and self.spec.state_per_agent:
            raise ValueError(
                "critic_input='state' needs one state per environment, but every agent of this team has its own. "
                "Set critic_input='agent_state'."
            )
        if self.network.encoder == "cnn":
            self._check_images()
        if self.owners.num_adapters:
            self._check_placement()

    def _check_images(self) -> None:
        shape, dtype = self.spec.obs_shape, self.spec.obs_dtype
        if len(shape) not in (2, 3):
            raise ValueError(
                "encoder='cnn' reads images [H, W, C] of one shape for all agents; this team observes rows of "
                f"{self.spec.obs_size} numbers. Leave encoder out, or give a class of your own."
            )
        if len(shape) == 3 and shape[0] <= 4 < 8 <= min(shape[1:]):
            raise ValueError(
                f"encoder='cnn' reads images [H, W, C], and {shape} looks like [C, H, W]. Let the environment move the "
                "channels last, or give an encoder of your own."
            )
        if dtype != "uint8" and "scale" not in self.network.encoder_settings:
            raise ValueError(
                f"encoder='cnn' divides uint8 images by 255, and these are {dtype}. Set encoder_settings="
                "{'scale': 1.0}, or the factor that maps them to [0, 1]."
            )

    def _check_placement(self) -> None:
        layers = self.network.layers()
        for name in ("target_modules", "rank_pattern"):
            for pattern in getattr(self.lora, name):
                if not any(fnmatch(layer, pattern) for layer in layers):
                    raise ValueError(f"{name}: {pattern!r} matches no layer of this network; it has {layers}.")
        without = {"feature_norm", "gru.norm"} if not self.lora.adapt_norm else set()
        without |= set() if self.spec.continuous else {"log_std"}
        if not any(self.lora.rank_of(layer) for layer in layers if layer not in without):
            raise ValueError(
                f"target_modules={list(self.lora.target_modules)} leaves adapters without any parameter; name one of "
                f"{[layer for layer in layers if layer not in without]}."
            )

    @property
    def encodes_images(self) -> bool:
        """Whether the actor's encoder reads arrays of several axes, which are not normalised."""
        return self.network.encoder is not None and len(self.spec.obs_shape) > 1

    @property
    def keeps_statistics(self) -> bool:
        """Whether actor or critic normalise by running statistics."""
        all_images = self.encodes_images and len(self.spec.state_parts) == 1 + len(self.spec.obs_shape)
        return self.network.normalises_by_statistics and not all_images

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "owners": self.owners.to_dict(),
            "lora": {**vars(self.lora), "target_modules": list(self.lora.target_modules)},
            "network": self.network.to_dict(),
            "critic_input": self.critic_input,
            "fresh_norm_std": self.fresh_norm_std,
            "absent_forget": self.absent_forget,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicyConfig:
        lora = {**data["lora"], "target_modules": tuple(data["lora"]["target_modules"])}
        return cls(
            TeamSpec.from_dict(data["spec"]),
            Owners.from_dict(data["owners"]),
            LoRAConfig(**lora),
            NetworkConfig.from_dict(data["network"]),
            data["critic_input"],
            data["fresh_norm_std"],
            data.get("absent_forget", True),  # missing in older versions
        )


class TeamPolicy(nn.Module):
    """The policy of a team under one sharing method.

    phase "backbone": adapters are frozen and not computed. "adapters": the backbone is frozen (including LayerNorms and
    shared log-std). "joint": both train. The critic trains in every phase. The phase is a buffer, so it is saved and
    synced with the weights.
    With `inference_only` there is neither critic nor value normaliser, except a recurrent critic, which env runners
    step.
    """

    def __init__(self, config: PolicyConfig, inference_only: bool = False):
        super().__init__()
        self.config = config
        self.actor = Actor(config.spec, config.owners, config.lora, config.network)
        if not inference_only or config.network.critic_recurrent:
            self.critic = Critic(config.spec, config.owners, config.critic_input, config.network)
        if not inference_only:
            self.value_norm = ValueNorm(self.critic.num_values, config.fresh_norm_std**2)
        self.register_buffer("_phase", torch.tensor(0, dtype=torch.uint8))
        self._phase: Tensor
        self.register_load_state_dict_post_hook(lambda module, _: module._follow_phase())
        self._follow_phase()

    @property
    def phase(self) -> Phase:
        return self._current

    @property
    def adapters_on(self) -> bool:
        """Whether adapters are computed in this phase."""
        return self._adapters

    def set_phase(self, phase: Phase) -> None:
        """Sets the phase and freezes parameters accordingly. Idempotent."""
        if phase != "backbone" and not self.config.owners.num_adapters:
            raise ValueError(f"phase={phase!r} needs adapters; sharing method {self.config.owners.method!r} has none.")
        self._phase.fill_(PHASES.index(phase))
        self._follow_phase()

    def distribution(self, obs: Tensor, **rows: Unpack[RowInputs]) -> ActionDistribution:
        """Action distribution of each row; arguments as for `Actor.unroll`."""
        distribution: ActionDistribution = self.actor(obs, adapters=self._adapters, **rows)
        return distribution

    def parameters_of(self, group: Group) -> dict[str, nn.Parameter]:
        """Named parameters of one optimiser, each with owners as its first axis."""
        if group == "critic":
            return dict(self.critic.named_parameters())
        adapters = group == "adapters"
        return {
            name: parameter
            for name, parameter in self.actor.named_parameters()
            if (name.rpartition(".")[2] in ADAPTER_PARAMETERS) == adapters
        }

    def adapter_norms(self) -> Tensor:
        """[K]: Frobenius norm of each adapter's update over all layers."""
        layers = [layer for layer in self.actor.modules() if isinstance(layer, AdaptedLayer)]
        return torch.stack(torch.broadcast_tensors(*(layer.adapter_square_norms() for layer in layers))).sum(0).sqrt()

    def acting(self) -> Acting:
        """The actor in its fastest form for acting until weights or phase change, see `nn.acting.acting_form`."""
        return acting_form(self.actor, self._adapters)

    def acting_critic(self) -> MergedCritic | None:
        """The recurrent critic, merged, to step along with the actor until the weights change; None if feed-forward."""
        return MergedCritic(self.critic) if self.config.network.critic_recurrent else None

    def _follow_phase(self) -> None:
        phase = self._current = PHASES[int(self._phase)]  # kept, as reading the buffer would wait for a GPU
        self._adapters = phase != "backbone"
        trained = {"backbone": phase != "adapters", "adapters": self._adapters}
        for group, train in trained.items():
            for parameter in self.parameters_of(group).values():  # type: ignore[arg-type]
                parameter.requires_grad_(train)
