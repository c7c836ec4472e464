"""Distances between policies: equal to the definition row by row and to samples, and zero where agents are the same."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.analysis import distances
from lorasa_rllib.analysis.distances import (
    clustered,
    draw_distances_over_training,
    draw_heat_map,
    mean_over_pairs,
    measure_of,
    policy_distances,
)
from lorasa_rllib.analysis.observations import ObservationBank, bank_of, names_of
from lorasa_rllib.nn.network import NetworkConfig
from tests.analysis.banks import random_bank, with_zero_adapters
from tests.helpers import METHODS, make_policy, outputs, owner_tables, policies, random_masks, row_by_row, team

EXACT = {"rtol": 1e-9, "atol": 1e-11}
NO_IDS = NetworkConfig(hidden_size=5, id_features="none")
RECURRENT = NetworkConfig(hidden_size=5, id_features="none", recurrent=True)
UNEQUAL = {"continuous": team((4, 2, 3), (2, 3, 1)), "discrete": team((4, 2, 3), (3, 4, 2), continuous=False)}
EQUAL = {"continuous": team((3,) * 4, (2,) * 4), "discrete": team((3,) * 4, (3,) * 4, continuous=False)}


def by_definition(policy, of_owner, bank):
    """The documented mean over rows, pair by pair and row by row. of_owner: `outputs` [owners][T, B, ...]."""
    spec, n = policy.config.spec, len(of_owner)
    holders = np.broadcast_to(bank.agents, bank.obs.shape[:2]).reshape(-1)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            apart = []
            for row in bank.active_rows():
                x, y = of_owner[i].flatten(0, 1)[row].numpy(), of_owner[j].flatten(0, 1)[row].numpy()
                if spec.continuous:
                    owners = (holders[row],) if policy.actor.router.by_role else (i, j)
                    d = min(spec.action_sizes[a] for a in owners)
                    apart.append(np.linalg.norm(x[:d] - y[:d]))
                    continue
                x, y = (np.exp(z).reshape(spec.action_dims, -1) for z in (x, y))
                if x.sum(-1).all() and y.sum(-1).all():  # every component has a choice
                    apart.append(0.5 * np.abs(x - y).sum(-1).mean())
            result[i, j] = np.mean(apart) if apart else np.nan
    return result


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6)
@given(data=st.data())
def test_it_is_the_definition_with_one_dense_network_per_row(method, data):
    """Any team: unequal observations and actions, masks, dead rows, id features; by agent and by role."""
    policy = data.draw(policies(method))
    bank = random_bank(policy, seed=data.draw(st.integers(0, 100)))
    flat = torch.as_tensor(bank.obs).flatten(0, 1)
    masks = None if bank.masks is None else torch.as_tensor(bank.masks).flatten(0, 1)
    by_role = policy.actor.router.by_role
    of_owner = []
    for owner in range(len(names_of(policy))):
        agents = torch.as_tensor(bank.agents).repeat(len(bank.obs)) if by_role else torch.full((len(flat),), owner)
        roles = torch.full((len(flat),), owner) if by_role else None
        with torch.no_grad():
            of_owner.append(row_by_row(policy, flat, agents, roles, masks).unflatten(0, bank.obs.shape[:2]))
    actual = policy_distances(policy, bank)
    np.testing.assert_allclose(actual, by_definition(policy, of_owner, bank), **EXACT)
    np.testing.assert_array_equal(actual, actual.T)
    assert np.nanmax(np.diag(actual)) == 0
    with patch.object(distances, "BLOCK", 1):  # one pair at a time
        np.testing.assert_allclose(policy_distances(policy, bank), actual, rtol=1e-14)


@pytest.mark.parametrize("method", ["lora", "nps", "role"])
@pytest.mark.parametrize("kind", UNEQUAL)
def test_recurrent_policies_are_those_of_single_steps_with_their_own_state(kind, method):
    policy = make_policy(UNEQUAL[kind], owner_tables(3)[method], network=RECURRENT)
    bank = random_bank(policy, steps=6)
    assert not bank.keep.all()
    by_role, columns, of_owner = policy.actor.router.by_role, bank.obs.shape[1], []
    for owner in range(len(names_of(policy))):
        state, steps = torch.zeros(columns, 5, dtype=torch.double), []
        for t in range(len(bank.obs)):
            state = torch.where(torch.as_tensor(bank.keep[t])[:, None], state, 0.0)
            rows = {
                "agent": torch.as_tensor(bank.agents)[None] if by_role else owner,
                "roles": torch.full((1, columns), owner) if by_role else None,
                "masks": None if bank.masks is None else torch.as_tensor(bank.masks[t : t + 1]),
            }
            with torch.no_grad():
                obs = torch.as_tensor(bank.obs[t : t + 1])
                distribution, states = policy.actor.unroll(obs, state=state, **rows)
            steps.append(outputs(distribution)[0])
            state = states[0]
        of_owner.append(torch.stack(steps))
    expected = by_definition(policy, of_owner, bank)
    np.testing.assert_allclose(policy_distances(policy, bank), expected, **EXACT)
    assert not np.allclose(policy_distances(policy, replace(bank, keep=None)), expected)


@pytest.mark.parametrize("network", [NO_IDS, RECURRENT], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", ["ps", "lora", "lora_with_spares", "role"])
@pytest.mark.parametrize("kind", EQUAL)
def test_agents_with_the_same_policy_are_exactly_0_apart(kind, method, network):
    policy = make_policy(EQUAL[kind], owner_tables(4)[method], network=network)
    bank = random_bank(policy)
    if method != "ps":
        assert (policy_distances(policy, bank)[np.triu_indices(3, 1)] > 0).all()
        policy.set_phase("backbone")  # adapters are not computed
        assert policy_distances(policy, bank).max() == 0
        policy.set_phase("adapters")
    assert policy_distances(with_zero_adapters(policy), bank).max() == 0


def test_each_agent_is_asked_with_its_own_id():
    policy = make_policy(EQUAL["continuous"], owner_tables(4)["ps"])
    assert (policy_distances(policy, random_bank(policy))[np.triu_indices(4, 1)] > 0).all()


@pytest.mark.parametrize("method", ["lora", "role"])
@pytest.mark.parametrize("kind", EQUAL)
@given(seed=st.integers(0, 100))
def test_permuting_adapters_permutes_the_matrix(kind, method, seed):
    policy = make_policy(EQUAL[kind], owner_tables(4)[method], network=NO_IDS)
    bank, order = random_bank(policy), np.random.default_rng(seed).permutation(policy.config.owners.num_adapters)
    before = policy_distances(policy, bank)
    for parameter in policy.parameters_of("adapters").values():
        parameter.data = parameter.data[torch.as_tensor(order)]
    np.testing.assert_allclose(policy_distances(policy, bank), before[np.ix_(order, order)], **EXACT)


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "gaussian"])
def test_continuous_distances_are_those_of_sorted_samples(distribution):
    """In one dimension the best coupling joins equal quantiles, so that of samples is sorted beside sorted."""
    network = NetworkConfig(hidden_size=5, distribution=distribution)
    policy = make_policy(team((3,) * 3, (2,) * 3), owner_tables(3)["lora"], network=network)
    bank = random_bank(policy, steps=2, envs=2, limit=3)
    rng, rows, repeats, draws = np.random.default_rng(0), bank.active_rows(), 12, 4000
    samples = []
    for agent in range(3):
        with torch.no_grad():
            made = policy.actor(torch.as_tensor(bank.obs), agent=agent)
        mean, std = made.mean.flatten(0, 1).numpy()[rows], made.std.numpy()
        samples.append(np.sort(mean + std * rng.standard_normal((repeats, draws, *mean.shape)), axis=1))
    actual = policy_distances(policy, bank)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        estimates = np.sqrt(np.square(samples[i] - samples[j]).mean(1).sum(-1)).mean(-1)  # [repeats]
        error = estimates.std(ddof=1) / np.sqrt(repeats)
        assert error < 0.01 * actual[i, j]
        assert abs(estimates.mean() - actual[i, j]) < 4 * error


def test_discrete_distances_are_the_least_share_of_decisions_that_differ():
    """Samples of the best coupling: the second agent repeats the first one's choice whenever its own odds allow it."""
    policy = make_policy(EQUAL["discrete"], owner_tables(4)["lora"])
    bank = random_bank(policy, steps=2, envs=2, limit=4)
    rng, rows, draws = np.random.default_rng(0), bank.active_rows(), 20_000
    chances = []
    for agent in range(4):
        with torch.no_grad():
            made = policy.actor(torch.as_tensor(bank.obs), agent=agent, masks=torch.as_tensor(bank.masks))
        chances.append(made.log_probs.exp().flatten(0, 1).numpy()[rows])
    actual = policy_distances(policy, bank)
    for i, j in ((0, 1), (0, 3), (2, 3)):
        differ = []
        for p, q in zip(chances[i], chances[j], strict=True):
            first = rng.choice(len(p), size=draws, p=p)
            left = np.maximum(q - p, 0)
            other = rng.choice(len(p), size=draws, p=left / left.sum()) if left.sum() > 0 else first
            second = np.where(rng.random(draws) * p[first] < q[first], first, other)
            np.testing.assert_allclose(np.bincount(second, minlength=len(q)) / draws, q, atol=0.02)  # it is q's choice
            differ.append(first != second)
        error = np.std(differ, axis=1).mean() / np.sqrt(draws * len(rows))
        assert abs(np.mean(differ) - actual[i, j]) < 4 * error


@pytest.mark.parametrize("method", ["lora", "role"])
@pytest.mark.parametrize("kind", UNEQUAL)
def test_neither_padding_nor_dead_rows_count(kind, method):
    policy = make_policy(UNEQUAL[kind], owner_tables(3)[method], network=NO_IDS)
    bank = random_bank(policy)
    padding = ~policy.config.spec.obs_mask()[bank.agents]
    other = np.where(np.broadcast_to(padding, bank.obs.shape) | ~bank.active[..., None], 7.0, bank.obs)
    assert (other != bank.obs).any()
    np.testing.assert_array_equal(policy_distances(policy, replace(bank, obs=other)), policy_distances(policy, bank))


def test_rows_that_leave_an_agent_no_choice_are_left_out_and_pairs_without_a_row_are_unknown():
    spec = team((2, 2, 2), (2, 4, 4), continuous=False)
    policy = make_policy(spec, owner_tables(3)["lora"])
    masks = np.zeros((2, 1, 4), bool)
    masks[..., 2:] = True  # agent 0 has none of these choices
    bank = ObservationBank(np.random.default_rng(0).normal(size=(2, 1, 2)), masks=masks)
    none = policy_distances(policy, bank)
    assert np.isnan(none[0, 1:]).all() and none[1, 2] > 0
    assert mean_over_pairs(none) == none[1, 2]
    masks[1, :, :2] = True
    one_row = ObservationBank(bank.obs[1:], masks=masks[1:])
    both = policy_distances(policy, replace(bank, masks=masks))
    np.testing.assert_allclose(both[0], policy_distances(policy, one_row)[0], **EXACT)
    assert both[1, 2] != policy_distances(policy, one_row)[1, 2]


def test_only_available_choices_count():
    policy = make_policy(EQUAL["discrete"], owner_tables(4)["lora"])
    bank = random_bank(policy)
    single = np.zeros_like(bank.masks)
    single[..., 1] = True
    assert policy_distances(policy, replace(bank, masks=single)).max() == 0
    assert policy_distances(policy, replace(bank, masks=None)).min(where=~np.eye(4, dtype=bool), initial=1.0) > 0


def test_sixty_four_agents_take_a_moment():
    spec = team((6,) * 64, (5,) * 64, continuous=False)
    policy = make_policy(spec, owner_tables(64)["lora"], network=NetworkConfig(hidden_size=16)).float()
    obs = np.random.default_rng(0).normal(size=(20, 2, 64, 6))
    masks = random_masks(spec, 20, 2).numpy()
    found = policy_distances(policy, bank_of(obs, masks=masks))
    assert found.shape == (64, 64) and ((found >= 0) & (found <= 1)).all()


def test_means_and_names_of_distances():
    matrix = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 6.0], [2.0, 6.0, 0.0]])
    assert mean_over_pairs(matrix) == 3.0
    assert np.isnan(mean_over_pairs(np.zeros((1, 1))))
    assert "Wasserstein" in measure_of(make_policy(EQUAL["continuous"], owner_tables(4)["ps"]))
    assert "total variation" in measure_of(make_policy(EQUAL["discrete"], owner_tables(4)["ps"]))


@given(groups=st.lists(st.integers(0, 2), min_size=1, max_size=10), seed=st.integers(0, 100))
def test_agents_that_act_alike_stand_together(groups, seed):
    kind = np.array(groups)
    noise = np.random.default_rng(seed).uniform(0, 0.1, (len(kind),) * 2)
    apart = np.abs(kind[:, None] - kind).astype(float) + np.where(np.eye(len(kind)), 0.0, noise + noise.T)
    order = clustered(apart)
    assert sorted(order) == list(range(len(kind)))
    assert (np.diff(kind[order]) != 0).sum() == len(set(groups)) - 1


def test_what_cannot_be_compared_is_still_put_in_order():
    matrix = np.array([[0.0, np.nan, 1.0], [np.nan, 0.0, np.nan], [1.0, np.nan, 0.0]])
    assert sorted(clustered(matrix)) == [0, 1, 2]
    assert sorted(clustered(np.where(np.eye(2), 0.0, np.nan))) == [0, 1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("agents", [1, 2, 6, 64])
def test_figures_of_any_team_are_drawn_whole(agents, tmp_path):
    points = np.random.default_rng(0).normal(size=(agents, 3))
    matrix = np.linalg.norm(points[:, None] - points, axis=-1)
    names = [f"agent_{n}" for n in range(agents)]
    draw_heat_map(matrix, names, tmp_path / "new" / "map.png", "HalfCheetah")
    draw_distances_over_training([0, 10_000], [0 * matrix, matrix], names, tmp_path / "line.png", "HalfCheetah")
    if agents == 2:
        draw_heat_map(np.where(np.eye(2), 0.0, np.nan), names, tmp_path / "new" / "map.png", "unknown")
    pictures = sorted(tmp_path.rglob("*.*"))
    assert [p.name for p in pictures] == ["line.png", "map.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
