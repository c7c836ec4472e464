"""The value normaliser: running statistics of returns, so that the critic's targets have unit scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueNorm(nn.Module):
    """Running mean and variance of returns with bias correction, one pair per critic output.

        m <- beta m + (1 - beta) mean(x)      q <- beta q + (1 - beta) mean(x^2)      D <- beta D + (1 - beta)
        mu = m / max(D, eps)                  var = max(q / max(D, eps) - mu^2, min_var)

    Statistics are buffers: saved, restored and equal on all learners. With beta near 1 and bias correction this is
    nearly the average over all updates so far. Before the first update mu = 0 and var = `fresh_var`. Yu et al. 2022
    (MAPPO), appendix.
    """

    beta = 0.99999
    epsilon = 1e-5
    min_var = 1e-2

    def __init__(self, size: int, fresh_var: float = 1.0):
        super().__init__()
        self.fresh_var = fresh_var
        for name in ("mean", "mean_sq", "debias"):
            self.register_buffer(name, torch.zeros(size))
        self.mean: Tensor
        self.mean_sq: Tensor
        self.debias: Tensor

    def statistics(self) -> tuple[Tensor, Tensor]:
        """mu [size] and standard deviation [size]."""
        debias = self.debias.clamp(min=self.epsilon)
        mean = self.mean / debias
        var = (self.mean_sq / debias - mean.square()).clamp(min=self.min_var)
        var = torch.where(self.debias == 0, self.fresh_var, var)
        return mean, var.sqrt()

    @torch.no_grad()
    def update(self, mean: Tensor, mean_sq: Tensor, seen: Tensor | None = None) -> None:
        """Adds mean and mean square [size] of a batch of returns, only where `seen` (bool [size]; None: all)."""
        for old, new in ((self.mean, mean), (self.mean_sq, mean_sq), (self.debias, torch.ones_like(self.debias))):
            updated = old * self.beta + new * (1 - self.beta)
            old.copy_(updated if seen is None else torch.where(seen, updated, old))

    def normalise(self, x: Tensor, outputs: Tensor | slice | list[int] = slice(None)) -> Tensor:
        """x [..., size] in units of reward -> normalised. outputs: index of the critic outputs that x holds."""
        mean, std = self.statistics()
        return (x - mean[outputs]) / std[outputs]

    def denormalise(self, x: Tensor) -> Tensor:
        """x [..., size], normalised -> units of reward."""
        mean, std = self.statistics()
        return x * std + mean
