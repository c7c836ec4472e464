"""SePS: transitions from rollouts, and the groups that embeddings make."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from lorasa_rllib.sharing.seps import _k_means, _silhouette, cluster, find_groups, transitions


def rollout(kinds: list[int], steps: int = 1000, envs: int = 4, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Agents of kind k: the next observation is the present one turned by k quarters, plus the action."""
    random = np.random.default_rng(seed)
    obs = np.zeros((steps, envs, len(kinds), 2), np.float32)
    actions = random.uniform(-1, 1, obs.shape).astype(np.float32)
    obs[0] = random.standard_normal(obs[0].shape)
    for t in range(1, steps):
        for n, kind in enumerate(kinds):
            turned = obs[t - 1, :, n]
            for _ in range(kind):
                turned = np.stack([-turned[:, 1], turned[:, 0]], -1)
            obs[t, :, n] = 0.9 * turned + actions[t - 1, :, n]
    return obs, actions, np.ones(obs.shape[:3], bool), np.zeros(obs.shape[:2], bool)


@pytest.mark.parametrize("kinds", [[0, 1, 0, 1, 0], [0, 1, 2, 0, 1, 2], [0, 2], [1, 1], [1], [1, 1, 1]])
def test_agents_that_live_by_the_same_rules_share_a_group(kinds):
    order = list(dict.fromkeys(kinds))
    assert find_groups(transitions(*rollout(kinds)), len(kinds)) == tuple(order.index(kind) for kind in kinds)


def test_it_leaves_the_programs_random_streams_alone_and_answers_alike_each_time():
    data = transitions(*rollout([0, 1, 0, 1]))
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    first = find_groups(data, 4)
    assert torch.rand(()) == expected and find_groups(data, 4) == first


def test_steps_of_the_dead_and_across_episodes_are_left_out():
    obs = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) + np.array([0, 100], np.float32).reshape(1, 1, 2, 1)
    active = np.ones((5, 1, 2), bool)
    active[3:, 0, 1] = False
    ended = np.array([[False], [True], [False], [False], [False]])
    data = transitions(obs, np.zeros((5, 1, 2, 1), np.int64), active, ended, choices=3)
    pairs = list(zip(data.agent.tolist(), data.obs[:, 0].tolist(), data.next_obs[:, 0].tolist(), strict=True))
    assert pairs == [(0, 0, 1), (1, 100, 101), (0, 2, 3), (0, 3, 4)]
    assert data.actions.tolist() == [[1, 0, 0]] * 4


@given(st.lists(st.integers(0, 2), min_size=4, max_size=9), st.integers(0, 100))
def test_clear_embeddings_are_grouped_as_they_lie(kinds, seed):
    order = list(dict.fromkeys(kinds))
    random = np.random.default_rng(seed)
    centres = 20 * np.eye(4, 10)
    mean = centres[kinds] + random.normal(0, 0.01, (len(kinds), 10))
    if len(order) > 1 and min(map(kinds.count, order)) > 1:  # silhouettes do not reward groups of one
        found = cluster(mean, np.full_like(mean, 0.1))
        assert found == tuple(order.index(kind) for kind in kinds)
    assert cluster(mean, np.full_like(mean, 100.0)) == (0,) * len(kinds)


def test_an_agent_that_never_lived_is_named():
    obs, actions, active, ended = rollout([0, 1, 0])
    active[:, :, 2] = False
    with pytest.raises(ValueError, match=r"agents \[2\]; give .sharing\(groups="):
        find_groups(transitions(obs, actions, active, ended), 3)


def by_hand(points, labels):
    """Mean silhouette, point by point."""
    scores = []
    for n, label in enumerate(labels):
        away = {c: [np.linalg.norm(points[n] - p) for m, p in enumerate(points) if m != n and labels[m] == c]
                for c in set(labels)}  # fmt: skip
        own, other = away.pop(label), min(np.mean(d) for d in away.values())
        scores.append((other - np.mean(own)) / max(other, np.mean(own)) if own else 0.0)
    return np.mean(scores)


def inertia(points, labels):
    return sum(np.square(points[labels == c] - points[labels == c].mean(0)).sum() for c in set(labels.tolist()))


@given(st.integers(0, 1000), st.integers(2, 3), st.integers(4, 7))
def test_k_means_is_close_to_the_best_clusters_and_silhouettes_are_as_defined(seed, k, agents):
    points = np.random.default_rng(seed).normal(0, 1, (agents, 10))
    labels = _k_means(points, k)
    every = [np.array(one) for one in itertools.product(range(k), repeat=agents) if len(set(one)) == k]
    assert inertia(points, labels) <= 1.1 * min(inertia(points, one) for one in every)
    assert _silhouette(cdist(points, points), labels) == pytest.approx(by_hand(points, labels.tolist()))


def test_equal_points_make_no_more_clusters_than_there_are_different_ones():
    points = np.eye(2, 10)[[0, 1, 0, 1, 1]]
    assert _k_means(points, 3) is None
    assert cluster(points, np.full_like(points, 0.01)) == (0, 1, 0, 1, 1)
