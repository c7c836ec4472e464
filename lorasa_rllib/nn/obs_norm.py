"""The observation normaliser: running statistics of observations, so that features have unit scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.rows import Agent, Some, index_of

EPSILON = 1e-8
"""Added to variances; a constant feature normalises to 0."""


class FixedNorm(nn.Module):
    """clip((x - mean) * scale, -clip, clip); mean and scale [N, d], or [d] of one agent."""

    def __init__(self, mean: Tensor, scale: Tensor, clip: float):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor, agent: Agent = None) -> Tensor:
        """Arguments as for `RunningNorm.forward`."""
        return _normalised(x, self.mean, self.scale, self.clip, agent)


class RunningNorm(nn.Module):
    """Running mean and variance of every feature, one set per agent (N = 1: for a global state that all share).

        y = clip((x - mean) / sqrt(var + 1e-8), -clip, clip)

    Buffers mean, var and count [N, d]: saved, restored, equal on all learners, and part of the weights that env runners
    receive. They start at mean 0 and variance 1 and change only in `update`. count is the number of live rows seen, 0
    for features that an agent lacks. `pooled`: one set from the rows of all agents, stored N times, for teams whose
    agents have the same features.
    """

    def __init__(self, agents: int, size: int, clip: float, pooled: bool = False):
        super().__init__()
        self.clip = clip
        self.pooled = pooled
        self.register_buffer("mean", torch.zeros(agents, size))
        self.register_buffer("var", torch.ones(agents, size))
        self.register_buffer("count", torch.zeros(agents, size))
        self.mean: Tensor
        self.var: Tensor
        self.count: Tensor

    def forward(self, x: Tensor, agent: Agent = None) -> Tensor:
        """x [..., N, d]; with `agent` as in `Actor.unroll`, [..., n, d] of some agents or rows [..., d]."""
        return _normalised(x, self.mean, self._scale(), self.clip, agent)

    def fixed(self) -> FixedNorm:
        """A snapshot that does not follow later updates."""
        return FixedNorm(self.mean, self._scale(), self.clip)

    def of_agent(self, agent: int, size: int) -> FixedNorm:
        """A snapshot for the first `size` features of one agent."""
        return FixedNorm(self.mean[agent, :size], self._scale()[agent, :size], self.clip)

    @torch.no_grad()
    def update(self, x: Tensor, counted: Tensor, all_sum: Callable[[Tensor], Tensor]) -> None:
        """Adds rows x [..., N, d] where `counted` (bool, broadcastable to x) is True, over all learners at once.

        Chan et al. 1979: with n new values of mean m' and variance v', w = n / (count + n),

            mean <- mean + w (m' - mean)      var <- (1 - w) var + w v' + w (1 - w) (m' - mean)^2

        Sums are of deviations from the current mean, in double precision, so large offsets cost no digits.
        """
        away = torch.where(counted, x.double() - self.mean, 0.0).flatten(0, -3)
        rows = counted.expand(x.shape).flatten(0, -3).sum(0).double()
        sums = torch.stack([rows, away.sum(0), away.square().sum(0)])  # [3, N, d]
        sums = all_sum(sums.sum(1, keepdim=True).expand_as(sums).contiguous() if self.pooled else sums)
        rows, shift, square = sums[0], *(sums[1:] / sums[0].clamp(min=1))
        weight = rows / (self.count + rows).clamp(min=1)
        spread = (square - shift.square()).clamp(min=0)
        var = (1 - weight) * self.var + weight * spread + weight * (1 - weight) * shift.square()
        self.mean.add_(weight * shift)
        self.var.copy_(var)
        self.count.add_(rows)

    def _scale(self) -> Tensor:
        return torch.rsqrt(self.var + EPSILON)


def for_more_agents(statistics: Mapping[str, Tensor], agents: int) -> dict[str, Tensor]:
    """Buffers of a `RunningNorm` for a larger team: new agents get the pooled statistics of the existing ones."""
    mean, var, count = (statistics[name].double() for name in ("mean", "var", "count"))
    total = count.sum(0, keepdim=True)
    share = torch.where(total > 0, count / total.clamp(min=1), 1 / len(count))
    team_mean = (share * mean).sum(0, keepdim=True)
    team_var = (share * (var + (mean - team_mean).square())).sum(0, keepdim=True)
    new = {"mean": team_mean, "var": team_var, "count": total / len(count)}
    missing = max(0, agents - len(mean))
    return {
        name: torch.cat([statistics[name], x.to(statistics[name].dtype).expand(missing, -1)]) for name, x in new.items()
    }


def _normalised(x: Tensor, mean: Tensor, scale: Tensor, clip: float, agent: Agent) -> Tensor:
    if agent is not None:
        agent = index_of(agent, x.device) if isinstance(agent, tuple | Some) else agent
        mean, scale = mean[agent], scale[agent]
    return ((x - mean) * scale).clamp(-clip, clip)
