"""SePS: groups of agents that share an actor, from a short random rollout (Christianos et al. 2021, arXiv 2102.07475).

An encoder maps each agent to an embedding, from which a decoder, given observation and action, predicts the next
observation. Agents with similar dynamics get similar embeddings, which k-means clusters into groups.

Differences from the published code: each feature is standardised on its own (there all are scaled by one minimum and
maximum); transitions across the end of an episode are excluded (there the next observation is that of the next
episode); the rollout has uniform actions (there those of untrained actors); and agents with indistinguishable
embeddings form one group, which also covers teams of two, for which no silhouette score exists.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING, HIDDEN = 10, 64
KL_WEIGHT, LEARNING_RATE, BATCH, EPOCHS = 1e-4, 3e-4, 128, 10
"""Published values."""

TOLD_APART = 2.0
"""Agents are distinct if mean embeddings differ by at least this many standard deviations in a dimension (ours)."""

MOST_GROUPS = 20
"""Largest number of groups tried; every number costs one run of k-means."""

RUNS, ITERATIONS = 30, 40
"""Of k-means."""

SEED = 42


@dataclass(frozen=True)
class Transitions:
    """Transitions of single agents: agent int64 [R], obs [R, o], actions [R, a] (choices one-hot), next_obs [R, o]."""

    agent: Tensor
    obs: Tensor
    actions: Tensor
    next_obs: Tensor


def transitions(
    obs: np.ndarray, actions: np.ndarray, active: np.ndarray, ended: np.ndarray, choices: int = 0
) -> Transitions:
    """All transitions of live agents within an episode.

    obs [T, E, N, o], actions [T, E, N, d], active bool [T, E, N], ended bool [T, E]: the episode ended at this step.
    choices: largest number of discrete choices of a component; 0 for continuous actions.
    """
    row = active[:-1] & active[1:] & ~ended[:-1, :, None]  # [T - 1, E, N]
    taken = torch.as_tensor(actions[:-1][row])
    agents = np.broadcast_to(np.arange(obs.shape[2]), row.shape)[row]
    return Transitions(
        torch.as_tensor(agents),
        torch.as_tensor(obs[:-1][row]).float(),
        F.one_hot(taken.long(), choices).flatten(1).float() if choices else taken.float(),
        torch.as_tensor(obs[1:][row]).float(),
    )


def find_groups(data: Transitions, num_agents: int, seed: int = SEED) -> tuple[int, ...]:
    """[N] group of each agent, numbered from 0 by first occurrence."""
    mean, std = embed(data, num_agents, seed)
    return cluster(mean, std)


def embed(data: Transitions, num_agents: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each agent's embedding, [N, 10] each. ValueError if an agent has no data."""
    missing = sorted(set(range(num_agents)) - set(data.agent.tolist()))
    if missing:
        raise ValueError(
            f"the random rollout of SePS holds no whole step of agents {missing}; give .sharing(groups=...) instead."
        )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(num_agents, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * EMBEDDING))
        width = EMBEDDING + data.obs.shape[1] + data.actions.shape[1]
        decoder = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, data.next_obs.shape[1]),
        )  # fmt: skip
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LEARNING_RATE)
        obs, following = _standardised(data.obs), _standardised(data.next_obs)
        one_hot = torch.eye(num_agents)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(data.agent)).split(BATCH):
                mean, log_var = encoder(one_hot).chunk(2, -1)  # [N, 10]
                agent = data.agent[rows]
                noise = torch.randn(len(rows), EMBEDDING) * (0.5 * log_var[agent]).exp()
                foretold = decoder(torch.cat([mean[agent] + noise, obs[rows], data.actions[rows]], -1))
                divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)[agent].sum()
                loss = (foretold - following[rows]).square().sum() + KL_WEIGHT * divergence
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            mean, log_var = encoder(one_hot).chunk(2, -1)
    return mean.numpy(), (0.5 * log_var).exp().numpy()


def cluster(mean: np.ndarray, std: np.ndarray) -> tuple[int, ...]:
    """[N] groups from embeddings [N, d]: k-means with k = 2 .. N - 1 (at most `MOST_GROUPS`), best silhouette score.

    One group if all agents are indistinguishable (see `TOLD_APART`); otherwise a team of two has two groups.
    """
    agents = len(mean)
    gaps = np.abs(mean[:, None] - mean) / np.sqrt((std[:, None] ** 2 + std**2) / 2)  # [N, N, d]
    if gaps.max() < TOLD_APART:
        return (0,) * agents
    if agents == 2:
        return (0, 1)
    distances = np.linalg.norm(mean[:, None] - mean, axis=-1)
    found = [_k_means(mean, k) for k in range(2, min(agents, MOST_GROUPS + 1))]
    best = max((labels for labels in found if labels is not None), key=lambda labels: _silhouette(distances, labels))
    labels = best.tolist()
    first = list(dict.fromkeys(labels))
    return tuple(first.index(label) for label in labels)


def _k_means(points: np.ndarray, k: int) -> np.ndarray | None:
    """[N] clusters of points [N, d]: of `RUNS` runs with k-means++ starts, the one with the least squared distances
    to means. None if no run has k clusters, as with fewer than k different points."""
    from scipy.cluster.vq import ClusterError, kmeans2  # half a second at the start of every process

    if len(np.unique(points, axis=0)) < k:
        return None
    random, found = np.random.default_rng(SEED), dict[float, np.ndarray]()
    for _ in range(RUNS):
        with suppress(ClusterError):
            centres, labels = kmeans2(points, k, ITERATIONS, minit="++", missing="raise", seed=random)
            found[float(np.square(points - centres[labels]).sum())] = labels
    return found[min(found)] if found else None


def _silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) of clusters [N], from the distances of points [N, N]: per point
    (b - a) / max(a, b), where a is the mean distance to the others of its cluster and b the least mean distance to the
    points of another one; 0 in a cluster of one."""
    member = np.eye(labels.max() + 1)[labels]  # [N, k]
    sizes, own = member.sum(0), member.astype(bool)
    sums = distances @ member
    within = sums[own] / np.maximum(sizes[labels] - 1, 1)
    beyond = np.where(own, np.inf, sums / sizes).min(1)
    largest = np.maximum(within, beyond)
    scores = np.divide(beyond - within, largest, out=np.zeros_like(largest), where=largest > 0)
    return float(np.where(sizes[labels] > 1, scores, 0.0).mean())


def _standardised(x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x, 0, correction=0)
    return (x - mean) / torch.where(std > 1e-6, std, 1.0)
