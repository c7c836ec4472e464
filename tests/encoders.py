"""Encoders and teams with images that several tests use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.spaces import AgentView, Box, Discrete
from lorasa_rllib.spec import Owners, TeamSpec
from tests.helpers import make_policy, team

IMAGE = (6, 5, 3)


class Mixer(nn.Module):
    """Two layers with everything that makes stacking hard: a buffer, a frozen parameter, a shared one, a scalar."""

    def __init__(self, shape: tuple[int, ...], width: int = 4):
        super().__init__()
        size = torch.Size(shape).numel()
        self.layers = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.LayerNorm(width))
        self.again = nn.Linear(width, width)
        self.again.weight = self.layers[2].weight
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.fixed = nn.Parameter(torch.randn(width), requires_grad=False)
        self.register_buffer("offset", torch.randn(width))
        self.offset: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.again(self.layers(x.flatten(1)) + self.fixed) + self.offset


class Pixels(nn.Module):
    """A convolution over [H, W, C], averaged over the image."""

    def __init__(self, shape: tuple[int, ...], width: int = 4):
        super().__init__()
        self.convolution = nn.Conv2d(shape[-1], width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolution(x.movedim(-1, 1) / 255)).mean((2, 3))


class Attention(nn.Module):
    """A row as words of one number each, which attend to each other."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.words = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.layer(self.words(x.unsqueeze(-1)))
        return encoded.flatten(1)


class Sums(nn.Module):
    """Has no parameters."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).sum(1), x.flatten(1).amax(1)], 1)


MIXER, PIXELS = (f"{__name__}:{kind.__name__}" for kind in (Mixer, Pixels))


def image_team(agents: int = 2, image: tuple[int, ...] = IMAGE, dtype: str = "uint8") -> TeamSpec:
    """A discrete team whose observations are images, and whose global state is all of them."""
    size = torch.Size(image).numel()
    return team(
        (size,) * agents,
        (3,) * agents,
        continuous=False,
        views=(AgentView(Box(image, dtype), Discrete(3)),) * agents,
        state_size=agents * size,
        state_parts=(agents, *image),
    )


def encoding_policy(spec: TeamSpec, owners: Owners, encoder: Any, seed: int = 0, **network: Any) -> TeamPolicy:
    """A random policy with an encoder (a class or "cnn"), in double precision."""
    settings = {"hidden_size": 5, "encoder": encoder} | network
    return make_policy(spec, owners, LoRAConfig(r=2), NetworkConfig.from_dict(settings), seed=seed)
