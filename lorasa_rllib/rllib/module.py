"""The RLModule that wraps the team policy for RLlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDistribution
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from ray.rllib.utils.typing import StateDict
from torch import Tensor

from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS
from lorasa_rllib.nn.distributions import (
    CONTINUOUS,
    ActionDistribution,
    Categorical,
    Categoricals,
    Gaussian,
    SquashedGaussian,
)
from lorasa_rllib.nn.encoder_classes import learn as learn_encoder
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy

MODULE_ID = "shared_policy"
"""The module that all agents are mapped to."""

OBS, AGENT, STATE, MASK, ROLE = "obs", "agent", "state", "action_mask", "role"
"""Keys of the observation dictionary of flat rows."""

ACTING = (
    "Actions of a trained team: policy = lorasa_rllib.load_policy(algo.save_policy(folder)), then policy.act(obs) with "
    "the observations that the environment gives."
)
"""Remedy in errors about RLlib's own action APIs, which are not supported."""


def map_to_shared_policy(agent_id: object, episode: object = None, **kwargs: object) -> str:
    """Policy mapping function: maps every agent to the shared module."""
    return MODULE_ID


class LoRASAModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """The team policy on flat rows, each with its agent index, in any order.

    `model_config` is `PolicyConfig.to_dict()`, optionally with the initial "phase" (default: "backbone"; this package's
    algorithms set it themselves). Observations are dictionaries: "obs" [B, obs_size], "agent" int [B] or [B, 1] and, if
    the policy uses them, "state" [B, S], "action_mask" [B, choices], "role" [B]. Env runners and learners of this
    package use `policy` directly, on whole teams.
    """

    @override(RLModule)
    def setup(self) -> None:
        config = PolicyConfig.from_dict(self.model_config)
        learn_encoder(config.network.encoder)
        self.policy = TeamPolicy(config, inference_only=bool(self.inference_only))
        if "phase" in self.model_config:
            self.policy.set_phase(self.model_config["phase"])
        head = CONTINUOUS[config.network.distribution] if config.spec.continuous else None
        self.action_dist_cls = row_distribution(head, config.spec.action_dims if config.spec.choices else None)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        critic = [] if self.policy.config.network.critic_recurrent else ["policy.critic"]
        return [*critic, "policy.value_norm"]

    @override(TorchRLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        rows = batch[Columns.OBS]
        if not isinstance(rows, Mapping) or OBS not in rows or AGENT not in rows:
            given = f"a dictionary of {sorted(rows)}" if isinstance(rows, Mapping) else f"of type {type(rows).__name__}"
            raise ValueError(
                f'batch["obs"] is {given}; this module reads a dictionary of rows with at least {OBS!r} [B, obs_size] '
                f"and {AGENT!r} [B], every row's agent index. {ACTING}"
            )
        mask = rows.get(MASK)
        distribution = self.policy.distribution(
            rows[OBS],
            agent=rows[AGENT].long().flatten(),
            roles=rows[ROLE].long().flatten() if ROLE in rows else None,
            masks=None if mask is None else mask.bool(),
        )
        return {Columns.ACTION_DIST_INPUTS: distribution_inputs(distribution)}

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: object = None) -> Tensor:
        """Values [B], in units of reward."""
        rows = batch[Columns.OBS]
        values = self.policy.value_norm.denormalise(self.policy.critic(rows[STATE]))  # [B, V]
        if values.shape[-1] == 1:
            return values.squeeze(-1)
        return values.gather(-1, rows[AGENT].long().view(-1, 1)).squeeze(-1)

    @override(TorchRLModule)
    def set_state(self, state: StateDict) -> None:
        """Loads weights. Raises ValueError if they do not fit; inference-only modules ignore learner-only entries."""
        check_state(self.state_dict(), state, self.get_non_inference_attributes() if self.inference_only else [])
        self.load_state_dict(convert_to_torch_tensor(dict(state)), strict=False)


def check_state(own: Mapping[str, Tensor], given: Mapping[str, object], ignored: list[str]) -> None:
    """Raises ValueError, with differences and remedy, unless names and shapes of two state dicts agree.

    ignored: prefixes of names that may be missing from `own`.
    """
    prefix = tuple(f"{name}." for name in ignored)
    missing = sorted(set(own) - set(given))
    unknown = sorted(name for name in set(given) - set(own) if not name.startswith(prefix or ("\0",)))
    shapes = {name: tuple(getattr(given[name], "shape", ())) for name in set(own) & set(given)}
    different = sorted(name for name, shape in shapes.items() if shape != tuple(own[name].shape))
    if not (missing or unknown or different):
        return
    facts = [f"{name} has shape {list(shapes[name])}, this policy {list(own[name].shape)}" for name in different]
    facts += [f"{name} is missing" for name in missing] + [f"{name} is unknown here" for name in unknown]
    rest = f" (and {len(facts) - 3} more)" if len(facts) > 3 else ""
    adapters = all(name.rpartition(".")[2] in ADAPTER_PARAMETERS for name in missing + unknown + different)
    remedy = (
        "Build with the r, target_modules and sharing method of that run, .sharing(...)."
        if adapters
        else "Build with the environment, network and sharing method of that run."
    )
    raise ValueError(f"these weights belong to another policy: {'; '.join(facts[:3])}{rest}. {remedy}")


def distribution_inputs(distribution: Any) -> Tensor:
    """A distribution as one tensor [B, width], the format RLlib stores with every row."""
    if isinstance(distribution, Categorical | Categoricals):
        return distribution.log_probs.clamp(min=torch.finfo(distribution.log_probs.dtype).min)
    mean, std = torch.broadcast_tensors(distribution.mean, distribution.std)
    real = torch.ones_like(mean) if distribution.real is None else distribution.real.to(mean.dtype).expand_as(mean)
    return torch.cat([mean, std, real], dim=-1)


def row_distribution(
    head: type[Gaussian | SquashedGaussian] | None, components: int | None = None
) -> type[TorchDistribution]:
    """RLlib distribution class for a continuous head (None: discrete). Log-probabilities are summed over dimensions.

    components: number of components of a discrete action; None: an action is a single integer.
    """
    return type("TeamRowDistribution", (_RowDistribution,), {"head": head, "components": components})


class _RowDistribution(TorchDistribution):
    """Adapts a distribution of `nn.distributions` to RLlib's interface."""

    head: type[Gaussian | SquashedGaussian] | None = None
    components: int | None = None

    def __init__(self, inputs: Tensor):
        self.inputs = inputs
        super().__init__()

    @override(TorchDistribution)
    def _get_torch_distribution(self) -> ActionDistribution:
        if self.components:
            return Categoricals(self.inputs.unflatten(-1, (self.components, -1)))
        if self.head is None:
            return Categorical(self.inputs)
        mean, std, real = self.inputs.chunk(3, dim=-1)
        return self.head.from_std(mean, std, real > 0)

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: object) -> _RowDistribution:
        return cls(logits)

    @staticmethod
    def required_input_dim(space: Any, **kwargs: object) -> int:
        if hasattr(space, "nvec"):
            return int(space.nvec.sum())
        return int(space.n) if hasattr(space, "n") else 3 * int(space.shape[0])

    def logp(self, value: Tensor, **kwargs: object) -> Tensor:
        single = self.head is None and not self.components and value.dim() < self.inputs.dim()
        actions = value.unsqueeze(-1) if single else value
        return self._dist.log_prob(actions).sum(-1)

    def entropy(self) -> Tensor:
        return self._dist.entropy().sum(-1)

    def kl(self, other: _RowDistribution, **kwargs: object) -> Tensor:
        if self.head is None:
            mine, theirs = self._dist.log_probs, other._dist.log_probs
            return (mine.exp() * (mine - theirs).nan_to_num(0.0)).sum(-1)
        p, q = self._dist, other._dist
        squares = (p.std.square() + (p.mean - q.mean).square()) / (2 * q.std.square())
        return torch.where(p.real, torch.log(q.std / p.std) + squares - 0.5, 0.0).sum(-1)

    def sample(self, **kwargs: object) -> Tensor:
        return self._shaped(self._dist.sample())

    def rsample(self, **kwargs: object) -> Tensor:
        return self._shaped(self._dist.sample())

    def to_deterministic(self) -> TorchDistribution:
        from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic

        return TorchDeterministic(loc=self._shaped(self._dist.mode()))

    def _shaped(self, actions: Tensor) -> Tensor:
        return actions.squeeze(-1) if self.head is None and not self.components else actions
