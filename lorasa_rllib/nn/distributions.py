"""Action distributions of a team, built from network outputs. Log-probabilities are per action dimension.

`real` (bool, broadcastable to the actions; None if all are real) marks the dimensions an agent has: the others sample 0
and have log-probability and entropy 0.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


Noise = torch.Generator | Tensor | None
"""Source of standard normal noise for sampled entropies: a generator (None: torch's default), or values [..., d]."""


class ActionDistribution(Protocol):
    """Interface of action distributions. Actions, log_prob and entropy are [..., d]. `random` samples uniformly."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...

    def mode(self) -> Tensor: ...

    def random(self, generator: torch.Generator | None = None) -> Tensor: ...

    def log_prob(self, actions: Tensor) -> Tensor: ...

    def entropy(self, noise: Noise = None) -> Tensor: ...


class SquashedGaussian:
    """a = tanh(u), u ~ N(mean, std), with state-independent std = sigmoid(log_std) / 2: the published head.

        log p(a) = log N(atanh(a); mean, std) - log(1 - a^2 + eps)

    eps is the float32 machine epsilon; `a` is clamped to +-(1 - eps) before atanh. Actions lie in [-1, 1].
    The entropy is that of u plus log(1 - a^2 + eps) at one reparameterised sample, as published.
    """

    initial_log_std = 1.0
    samples_entropy = True

    def __init__(self, mean: Tensor, log_std: Tensor, real: Tensor | None = None):
        self.mean, self.std, self.real = mean, self.std_of(log_std), real

    @staticmethod
    def std_of(log_std: Tensor) -> Tensor:
        return 0.5 * torch.sigmoid(log_std)

    @classmethod
    def from_std(cls, mean: Tensor, std: Tensor, real: Tensor | None = None) -> SquashedGaussian:
        made = cls.__new__(cls)  # inverting std_of has no finite gradient where std is saturated
        made.mean, made.std, made.real = mean, std, real
        return made

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return _only(self.real, torch.tanh(_normal_sample(self.mean, self.std, generator)))

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        return _only(self.real, torch.empty_like(self.mean).uniform_(-1, 1, generator=generator))

    def log_prob(self, actions: Tensor) -> Tensor:
        u = torch.atanh(actions.clamp(-1 + EPSILON, 1 - EPSILON))
        log_prob = _normal_log_prob(u, self.mean, self.std) - torch.log(1 - actions.square() + EPSILON)
        return _only(self.real, log_prob)

    def entropy(self, noise: Noise = None) -> Tensor:
        if not isinstance(noise, Tensor):
            noise = self.mean.new_empty(self.mean.shape).normal_(generator=noise)  # draws independent of strides
        squash = torch.log(1 - torch.tanh(self.mean + self.std * noise).square() + EPSILON)
        return _only(self.real, 0.5 + LOG_SQRT_2PI + torch.log(self.std) + squash)


class Gaussian:
    """a ~ N(mean, exp(log_std)) with state-independent std. Actions are clipped only when passed to the environment."""

    initial_log_std = -0.5
    samples_entropy = False

    def __init__(self, mean: Tensor, log_std: Tensor, real: Tensor | None = None):
        self.mean, self.std, self.real = mean, self.std_of(log_std), real

    @staticmethod
    def std_of(log_std: Tensor) -> Tensor:
        return log_std.exp()

    @classmethod
    def from_std(cls, mean: Tensor, std: Tensor, real: Tensor | None = None) -> Gaussian:
        made = cls.__new__(cls)
        made.mean, made.std, made.real = mean, std, real
        return made

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return _only(self.real, _normal_sample(self.mean, self.std, generator))

    def mode(self) -> Tensor:
        return self.mean

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        return _only(self.real, torch.empty_like(self.mean).uniform_(-1, 1, generator=generator))

    def log_prob(self, actions: Tensor) -> Tensor:
        return _only(self.real, _normal_log_prob(actions, self.mean, self.std))

    def entropy(self, noise: Noise = None) -> Tensor:
        return _only(self.real, (0.5 + LOG_SQRT_2PI + torch.log(self.std)).expand_as(self.mean))


class Categorical:
    """One choice from `logits [..., choices]`; unavailable choices have logit -inf. Actions are int64 [..., 1]."""

    def __init__(self, logits: Tensor):
        self.log_probs = torch.log_softmax(logits, dim=-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # Gumbel-max trick: one pass for any leading axes.
        noise = torch.empty_like(self.log_probs).exponential_(generator=generator)
        return (self.log_probs - noise.log()).argmax(-1, keepdim=True)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1, keepdim=True)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        return Categorical(torch.where(self.log_probs > -torch.inf, 0.0, -torch.inf)).sample(generator)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_probs.gather(-1, actions.long())

    def entropy(self, noise: Noise = None) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs.clamp(min=-1e10)).sum(-1, keepdim=True)


class Categoricals:
    """Independent choices for d components from `logits [..., d, choices]`. Actions are int64 [..., d].

    A component that an agent lacks has a single choice, so its log-probability and entropy are 0.
    """

    def __init__(self, logits: Tensor):
        self.each = Categorical(logits)

    @property
    def log_probs(self) -> Tensor:
        """[..., d * choices], components concatenated."""
        return self.each.log_probs.flatten(-2)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.each.sample(generator).squeeze(-1)

    def mode(self) -> Tensor:
        return self.each.mode().squeeze(-1)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        return self.each.random(generator).squeeze(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.each.log_prob(actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, noise: Noise = None) -> Tensor:
        return self.each.entropy(noise).squeeze(-1)


ContinuousHead = type[SquashedGaussian] | type[Gaussian]

CONTINUOUS: dict[str, ContinuousHead] = {"squashed_gaussian": SquashedGaussian, "gaussian": Gaussian}
"""Continuous heads by their name in network settings."""


def _only(real: Tensor | None, x: Tensor) -> Tensor:
    return x if real is None else torch.where(real, x, 0.0)


def _normal_sample(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(mean).normal_(generator=generator)
    return torch.addcmul(mean, noise, std)


def _normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std).square() - torch.log(std) - LOG_SQRT_2PI
