"""How differently agents (or roles) act: distances between their policies over a common bank of observations.

The LoRASA paper (arXiv 2502.05573) reports Wasserstein distances between agents' policies, but not how they are
computed, and its repository has no code for them. The definitions here are ours.
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
"""Numbers that one block of pairs may hold at a time."""


@torch.no_grad()
def policy_distances(policy: TeamPolicy, bank: ObservationBank) -> np.ndarray:
    """float64 [N, N] (by role [K, K]): mean distance of two agents' action distributions over the bank's active rows.

    Every observation is shown to every agent's policy as if it were that agent's own (its id features, its adapter; for
    roles, with that role in place of the row's): see `inputs_of`. Symmetric, zero on the diagonal. The definition is
    ours:

    continuous: 2-Wasserstein distance of the Gaussians before squashing, in units of the un-squashed action,

                    sqrt(|mu_i - mu_j|^2 + |sigma_i - sigma_j|^2)

                over the action dimensions that both agents have (closed form for diagonal covariances).
    discrete:   1-Wasserstein distance where any two different choices lie 1 apart, that is total variation

                    1/2 sum_c |p_i(c) - p_j(c)|,  between 0 and 1:

                the least share of decisions in which the two differ; of actions with several components, the mean over
                these. Probabilities are those among the choices available in the
                bank and known to the agent; rows that leave an agent no choice are left out of its pairs, and a pair
                without any row is NaN.
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
    """Mean of the pairs of different agents in [N, N]; NaN if there is none."""
    return float(pairs_of(distances).mean()) if len(pairs_of(distances)) else float("nan")


def pairs_of(distances: np.ndarray) -> np.ndarray:
    """[N, N] -> the finite distances [P] between different agents, each pair once."""
    pairs = distances[np.triu_indices(len(distances), 1)]
    return pairs[np.isfinite(pairs)]


def measure_of(policy: TeamPolicy) -> str:
    """What a distance of this policy is, for axes and colour bars."""
    if policy.config.spec.continuous:
        return "distance of policies\n(2-Wasserstein, before squashing)"
    return "distance of policies\n(total variation, 0 to 1)"


def clustered(distances: np.ndarray) -> np.ndarray:
    """int64 [N]: an order in which agents that act alike stand together.

    Hierarchical clustering with average linkage, leaves ordered so that neighbours are as close as can be. Pairs that
    cannot be compared count as far apart.
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
    """distances [N, N] as a picture, agents in clustered order; values in the cells of small teams."""
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
    """Mean over pairs as a line, smallest to largest pair as a band, at some environment steps.

    matrices: one [N, N] for every entry of `steps`. The pairs closest and furthest at the end are named there.
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
    """What a distance is taken of: float64 [R, width], means and standard deviations or probabilities; known bool [R].

    Dimensions an agent lacks are 0. Unknown are rows without an available choice.
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
    """float64 [owners, width]: 1 where an agent has the dimension. By role, every row has those of its own agent."""
    spec = policy.config.spec
    if not spec.continuous or policy.actor.router.by_role:
        return points.new_ones(len(points), points.shape[-1])
    return torch.as_tensor(np.tile(spec.action_mask(), 2), device=points.device).to(points)


def _extremes(distances: np.ndarray) -> list[tuple[float, tuple[int, int], str]]:
    """The closest and the furthest pair of [N, N]: (distance, agents, word)."""
    first, second = np.triu_indices(len(distances), 1)
    pairs = distances[first, second]
    found = ((np.nanargmin(pairs), "closest pair"), (np.nanargmax(pairs), "furthest pair"))
    return [(float(pairs[at]), (int(first[at]), int(second[at])), word) for at, word in found]
