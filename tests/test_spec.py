"""The team spec and the owner table: what they refuse, how they travel, and actions in the environment's units."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.spec import Owners, TeamSpec
from tests.helpers import METHODS, owner_tables, team, teams

GOOD = {
    "agents": ("a", "b"),
    "obs_sizes": (3, 2),
    "action_kind": "continuous",
    "action_sizes": (1, 2),
    "state_size": 4,
    "action_low": ((-1.0,), (-0.4, 0.0)),
    "action_high": ((1.0,), (0.4, 3.0)),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agents": ()}, "non-empty tuple of distinct names"),
        ({"agents": ("a", "a")}, "distinct names"),
        ({"action_kind": "mixed"}, "mixed teams are not supported"),
        ({"obs_sizes": (3,)}, r"obs_sizes=\(3,\)"),
        ({"obs_sizes": (3, 0)}, r"obs_sizes=\(3, 0\)"),
        ({"action_sizes": (1, 2, 3)}, "action_sizes"),
        ({"action_low": ()}, "action_low must hold one bound"),
        ({"action_high": ((1.0,), (1.0,))}, "action_high must hold one bound"),
        ({"action_high": ((1.0,), (0.4, float("inf")))}, "finite"),
        ({"action_high": ((1.0,), (0.4, -0.1))}, "low <= high"),
        ({"state_size": 0}, "state_size=0"),
        ({"choices": ((1,), (2,))}, "must split the discrete"),
        ({"id_capacity": 1}, "id_capacity=1"),
        ({"id_capacity": -1}, "id_capacity=-1"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TeamSpec(**(GOOD | change))


@given(spec=teams())
def test_a_spec_survives_json(spec):
    again = TeamSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize("method", METHODS)
def test_an_owner_table_survives_json(method):
    owners = owner_tables(3)[method]
    assert Owners.from_dict(json.loads(json.dumps(owners.to_dict()))) == owners


@pytest.mark.parametrize("cls", [TeamSpec, Owners])
def test_entries_of_another_version_are_refused_by_name(cls):
    data = (TeamSpec(**GOOD) if cls is TeamSpec else Owners("ps", (0, 0))).to_dict()
    with pytest.raises(ValueError, match="colour"):
        cls.from_dict(data | {"colour": "red"})


def test_masks_mark_the_real_entries_of_unequal_agents():
    spec = TeamSpec(**GOOD)
    assert spec.obs_mask().tolist() == [[True, True, True], [True, True, False]]
    assert spec.action_mask().tolist() == [[True, False], [True, True]]
    assert (spec.obs_size, spec.action_size, spec.action_dims, spec.id_capacity) == (3, 2, 2, 2)


def test_a_discrete_team_has_one_action_dimension_and_a_head_of_all_choices():
    spec = team((3, 2), (4, 2), continuous=False)
    assert (spec.action_size, spec.action_dims) == (4, 1)
    choices = np.array([[[3], [1]]])
    np.testing.assert_array_equal(spec.to_environment(choices), [[3, 1]])


def test_rewards_are_one_or_one_for_each_agent():
    assert team((3, 2), (1, 1)).reward_width == 1
    assert team((3, 2), (1, 1), shared_reward=False).reward_width == 2


def test_actions_are_scaled_to_the_bounds_by_hand():
    # bounds: agent a +-1 (padded to +-1), agent b +-0.4 and 0 .. 3
    actions = np.array([[[0.5, 0.5], [0.5, 0.5]], [[-7.0, 0.0], [-1.0, -1.0]], [[1.0, 0.0], [2.0, 1.0]]])
    expected = [[[0.5, 0.5], [0.2, 2.25]], [[-1.0, 0.0], [-0.4, 0.0]], [[1.0, 0.0], [0.4, 3.0]]]
    np.testing.assert_allclose(TeamSpec(**GOOD).to_environment(actions), expected, rtol=1e-6)


@given(
    low=st.floats(-5, 5, width=32),
    width=st.floats(0.125, 10, width=32),
    action=st.floats(-3, 3, width=32),
)
def test_minus_one_zero_and_one_are_mapped_to_low_centre_and_high_and_nothing_leaves_the_bounds(low, width, action):
    high = low + width
    spec = team((1, 1), (1, 1), action_low=((low,), (-1.0,)), action_high=((high,), (1.0,)))
    actions = np.array([[-1.0], [0.0], [1.0], [action]], np.float32)[:, None].repeat(2, 1)
    scaled = spec.to_environment(actions)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:3, 0, 0], [low, low + width / 2, high], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scaled[:, 1], actions[:, 1].clip(-1, 1))
    low, high = (bound[0, 0] for bound in spec.action_bounds())
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert low - slack <= scaled[3, 0, 0] <= high + slack


def test_bounds_of_one_leave_actions_as_they_are():
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(team((3, 2), (2, 2)).to_environment(actions), actions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone_of": (0, 2)}, "backbone_of"),
        ({"backbone_of": (1, 1)}, "backbone_of"),
        ({"backbone_of": (0, -1)}, "backbone_of"),
        ({"backbone_of": (0, 0), "critic_of": (0,)}, "critic_of"),
        ({"backbone_of": (0, 0), "critic_of": (0, 2)}, "critic_of"),
        ({"backbone_of": (0, 0), "adapter_of": (0,)}, "adapter_of"),
        ({"backbone_of": (0, 0), "adapter_of": (0, -1)}, "adapter_of"),
        ({"backbone_of": (0, 0), "adapter_of": (0, 3), "num_adapters": 3}, "adapter_of"),
        ({"backbone_of": (0, 0), "routed_by": "role"}, "num_adapters"),
    ],
)
def test_an_owner_table_with_gaps_or_strangers_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Owners("x", **arguments)


def test_owners_are_counted_from_the_table():
    owners = Owners("x", (0, 1, 0), adapter_of=(2, 0, 1), critic_of=(0, 0, 1))
    assert (owners.num_backbones, owners.num_adapters, owners.num_critics) == (2, 3, 2)
    assert Owners("x", (0, 0, 0)).critic_of == (0, 0, 0)


def test_components_by_hand():
    choices = ((2, 3), (4,))
    spec = team((3, 2), (5, 4), continuous=False, choices=choices)
    assert (spec.action_size, spec.action_dims, spec.component_size) == (5, 2, 4)
    assert spec.dims_mask().tolist() == [[True, True], [True, False]]
    place, real = spec.choice_table()
    assert place.tolist() == [[[0, 1, 0, 0], [2, 3, 4, 0]], [[0, 1, 2, 3], [0, 0, 0, 0]]]
    assert real.sum(-1).tolist() == [[2, 3], [4, 0]]
    assert spec.first_choices().tolist() == [[True, False, True, False, False], [True, False, False, False, False]]
    masks = np.array([[[1, 0, 0, 0, 1], [0, 0, 0, 1, 0]], [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]], bool)
    assert spec.can_choose(masks).tolist() == [[True, True], [False, False]]
    chosen = np.array([[[1, 2], [3, 0]]])
    np.testing.assert_array_equal(spec.to_environment(chosen), chosen)
    assert spec.action_of(1, chosen[0, 1]).tolist() == [3]


def test_actions_of_one_component_are_plain_choices():
    assert team((3, 2), (4, 2), continuous=False, choices=((4,), (2,))) == team((3, 2), (4, 2), continuous=False)


def test_specs_written_before_there_were_views_and_components_are_read():
    data = TeamSpec(**GOOD).to_dict()
    del data["views"], data["choices"]
    assert TeamSpec.from_dict(data) == TeamSpec(**GOOD)
