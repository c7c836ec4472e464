"""Distances between the policies of agents (or roles) over a common bank of observations.

The LoRASA paper (arXiv 2502.05573) reports Wasserstein distances between agents' policies, but not how they are
computed, and its repository has no code for them. The definitions here are our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.analysis.canvas import BLUE, draw_cells, new_figure, save
from lorasa_rllib.analysis.observations import ObservationBank, bank_of, inputs_of, names_of
from lorasa_rllib.nn.distributions import Categorical, Categoricals
from lorasa_rllib.nn.policy import TeamPolicy

__all__ = [
    "ObservationBank",
    "bank_of",
    "clustered",
    "draw_distances_over_training",
    "draw_heat_map",
    "mean_over_pairs",
    "measure_of",
    "names_of",
    "policy_distances",
]

BLOCK = 2**22
"""Maximum number of values in a block of pairs."""


@torch.no_grad()
def policy_distances(policy: TeamPolicy, bank: ObservationBank) -> np.ndarray:
    """Mean distance of two agents' action distributions over the bank's active rows, float64 [N, N] (roles: [K, K]).

    Every agent's policy receives every observation as if it were that agent's own, with its id features and adapter;
    by role, with that role in place of the row's (see `inputs_of`). Symmetric, zero on the diagonal. Definition (ours):

    continuous: 2-Wasserstein distance of the Gaussians, before actions are squashed or clipped,

                    sqrt(|mu_i - mu_j|^2 + |sigma_i - sigma_j|^2)

                over the action dimensions that both agents have (closed form for diagonal covariances).
    discrete:   1-Wasserstein distance with distance 1 between different choices, that is total variation

                    1/2 sum_c |p_i(c) - p_j(c)|,  between 0 and 1:

                the smallest possible share of decisions in which the two differ. Actions with several components: the
                mean over components. Probabilities cover the choices that are available in the bank and exist for
                the agent; rows without such a choice are excluded from the agent's pairs, and a pair without rows is
                NaN.
    """
    active = torch.as_tensor(bank.active_rows(), device=policy.actor.head.weight.device)
    seen = [_as_points(policy.actor.unroll(**inputs)[0], active) for inputs in inputs_of(policy, bank)]
    points, known = torch.stack([x for x, _ in seen]), torch.stack([k for _, k in seen])
    shared = _entries(policy, points)
    first, second = torch.triu_indices(len(points), len(points), 1, device=points.device)
    result = points.new_zeros(len(points), len(points))
    pairs_at_once = max(1, BLOCK // max(1, points[0].numel()))
    for i, j in zip(first.split(pairs_at_once), second.split(pairs_at_once), strict=True):
        apart = (points[i] - points[j]) * (shared[i] * shared[j])[:, None]  # [pairs, R, width]
        apart = (
            apart.square().sum(-1).sqrt()
            if policy.config.spec.continuous
            else apart.abs().sum(-1) / (2 * policy.config.spec.action_dims)
        )
        both = known[i] & known[j]
        result[i, j] = (apart * both).sum(-1) / both.sum(-1)
    return (result + result.T).cpu().numpy()


def mean_over_pairs(distances: np.ndarray) -> float:
    """Mean over pairs of different agents in [N, N], ignoring non-finite ones; NaN without pairs."""
    return float(pairs_of(distances).mean()) if len(pairs_of(distances)) else float("nan")


def pairs_of(distances: np.ndarray) -> np.ndarray:
    """Finite distances [P] between different agents in [N, N], each pair once."""
    pairs = distances[np.triu_indices(len(distances), 1)]
    return pairs[np.isfinite(pairs)]


def measure_of(policy: TeamPolicy) -> str:
    """Label of this policy's distance measure, for axes and colour bars."""
    if policy.config.spec.continuous:
        return "distance of policies\n(2-Wasserstein of the Gaussians)"
    return "distance of policies\n(total variation, 0 to 1)"


def clustered(distances: np.ndarray) -> np.ndarray:
    """An order of agents, int64 [N], that places similar agents next to each other.

    Hierarchical clustering with average linkage and optimal leaf ordering. Pairs that cannot be compared get the
    largest finite distance, at least 1.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(distances) < 2:
        return np.arange(len(distances))
    apart = squareform(distances, checks=False)
    apart = np.where(np.isfinite(apart), apart, pairs_of(distances).max(initial=1.0))
    return leaves_list(linkage(apart, "average", optimal_ordering=True)).astype(np.int64)


def draw_heat_map(
    distances: np.ndarray, names: list[str], path: Path, title: str, label: str = "distance of policies"
) -> None:
    """Draws distances [N, N] as a heat map, agents in clustered order; small teams show values in the cells."""
    order = clustered(distances)
    names = [names[n] for n in order]
    side = min(9.0, 2.6 + 0.55 * len(names))
    figure, panel = new_figure(max(5.3, side + 1.3), max(4.0, side))
    draw_cells(panel, distances[np.ix_(order, order)], names, names, label)
    panel.set_title(f"{title}\nordered so that those who act alike stand together", fontsize=10)
    save(figure, path)


def draw_distances_over_training(
    steps: list[int],
    matrices: list[np.ndarray],
    names: list[str],
    path: Path,
    title: str,
    label: str = "distance of policies",
) -> None:
    """Draws the mean over pairs as a line and the range over pairs as a band, against environment steps.

    matrices: one [N, N] per entry of `steps`. The closest and furthest pair are named at the end.
    """
    unit, word = (1e6, "millions") if max(steps) >= 1e6 else (1e3, "thousands")
    x = np.asarray(steps) / unit
    pairs = [pairs_of(matrix) for matrix in matrices]
    figure, panel = new_figure(6.8, 4.2)
    if all(map(len, pairs)):
        low, high = (np.array([f(p) for p in pairs]) for f in (np.min, np.max))
        panel.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, label="closest to furthest pair")
        panel.plot(x, [p.mean() for p in pairs], "o-", color=BLUE, markersize=4, label="mean over pairs")
        panel.legend(frameon=False, loc="upper left")
        if len(names) > 2:
            for value, (a, b), which in _extremes(matrices[-1]):
                panel.annotate(
                    f"{which}:\n{names[a]},\n{names[b]}", (x[-1], value), xytext=(8, 0), textcoords="offset points",
                    va="bottom" if which == "furthest pair" else "top", fontsize=8, annotation_clip=False,
                )  # fmt: skip
    else:
        panel.text(0.5, 0.5, "no two agents to compare", transform=panel.transAxes, ha="center")
    panel.set_ylim(0, panel.get_ylim()[1] * 1.1)
    panel.set_xlabel(f"environment steps ({word})")
    panel.set_ylabel(label)
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _as_points(distribution: Any, active: Tensor) -> tuple[Tensor, Tensor]:
    """Points between which distances are taken: float64 [R, width], means and standard deviations or probabilities;
    known bool [R], False for rows without an available choice. Dimensions that an agent lacks are 0.
    """
    if isinstance(distribution, Categorical | Categoricals):
        chances = distribution.log_probs.double().exp().flatten(0, 1)[active]
        return chances.nan_to_num(0.0), ~chances.isnan().any(-1)
    mean, std = torch.broadcast_tensors(distribution.mean, distribution.std)
    if distribution.real is not None:
        mean, std = mean * distribution.real, std * distribution.real
    points = torch.cat([mean, std], -1).double().flatten(0, 1)[active]
    return points, points.new_ones(len(points), dtype=torch.bool)


def _entries(policy: TeamPolicy, points: Tensor) -> Tensor:
    """float64 [owners, width]: 1 where an agent has the dimension; all 1 by role, as rows have their own agent's."""
    spec = policy.config.spec
    if not spec.continuous or policy.actor.router.by_role:
        return points.new_ones(len(points), points.shape[-1])
    return torch.as_tensor(np.tile(spec.action_mask(), 2), device=points.device).to(points)


def _extremes(distances: np.ndarray) -> list[tuple[float, tuple[int, int], str]]:
    """The closest and the furthest pair in [N, N]: (distance, agents, label)."""
    first, second = np.triu_indices(len(distances), 1)
    pairs = distances[first, second]
    found = ((np.nanargmin(pairs), "closest pair"), (np.nanargmax(pairs), "furthest pair"))
    return [(float(pairs[at]), (int(first[at]), int(second[at])), word) for at, word in found]
