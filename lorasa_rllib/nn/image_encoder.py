"""A small convolutional network for image observations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

LARGEST = 4096
"""Most convolutions' channels and features."""


class ImageEncoder(nn.Module):
    """Images [B, H, W, C] (or [B, H, W]) -> features [B, features].

    Strided 3 x 3 convolutions, each followed by ReLU, then one dense layer and ReLU. Each convolution halves height and
    width, so images of any size fit.

    shape:    (H, W, C) or (H, W).
    channels: output channels of each convolution.
    features: width of the result.
    scale:    factor of the input; the default maps uint8 to [0, 1].
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: Sequence[int] = (16, 32, 32),
        features: int = 128,
        scale: float = 1 / 255,
    ):
        super().__init__()
        height, width, *rest = shape
        if not 1 <= len(channels) <= 10 or not all(1 <= n <= LARGEST for n in (*channels, features)):
            raise ValueError(
                f"channels={list(channels)} must be 1 to 10 whole numbers, and they and features={features} between 1 "
                f"and {LARGEST}."
            )
        self.scale = scale
        self.out_features = features
        sizes = [rest[0] if rest else 1, *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(sizes)
        )
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
        self.dense = nn.Linear(height * width * sizes[-1], features)
        for layer in (*self.convolutions, self.dense):
            nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images if images.dim() == 4 else images.unsqueeze(-1)
        x = x.permute(0, 3, 1, 2) * self.scale
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return torch.relu(self.dense(x.flatten(1)))
