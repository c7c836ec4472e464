"""Spaces as plain data: flattened as gymnasium does it, and actions that gymnasium's spaces contain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.envs.pettingzoo_spaces import view_from
from lorasa_rllib.spaces import OutsideSpace, available
from lorasa_rllib.spec import TeamSpec

LEAVES = st.sampled_from(
    [
        spaces.Box(-1, 1, (2, 3), np.float32),
        spaces.Box(-np.inf, np.inf, (), np.float64),
        spaces.Box(0, 255, (2, 2), np.uint8),
        spaces.Discrete(4),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 4, 3]),
        spaces.MultiDiscrete([[2, 1], [4, 3]], start=[[1, 0], [-2, 5]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
    ]
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from(["pos", "vel", "goal", "a b"]), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=6,
)
BOX = spaces.Box(-1, 1, (2,))
BOUND = st.floats(-1e3, 1e3)


@given(space=NESTED, seed=st.integers(0, 1000))
def test_observations_are_flattened_as_gymnasium_does_it(space, seed):
    view = view_from("ann", space, spaces.Discrete(2))
    space.seed(seed)
    row = np.zeros(view.obs_size, np.float32)
    value = space.sample()
    view.observe(value, row)
    np.testing.assert_array_equal(row, spaces.utils.flatten(space, value).astype(np.float32))


@given(low=st.lists(BOUND, min_size=2, max_size=4), data=st.data(), dtype=st.sampled_from(["f2", "f4", "f8"]))
def test_whatever_the_policy_draws_is_an_action_of_the_space(low, data, dtype):
    """Bounds of any type, also equal or too close to hold a float32, reached and exceeded."""
    low = np.array(low, dtype)
    width = data.draw(st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 0.6, 7.0]), min_size=len(low), max_size=len(low)))
    space = spaces.Box(low, (low + np.array(width)).astype(dtype), dtype=low.dtype)
    view = view_from("ann", spaces.Box(-1, 1, (2,)), space)
    spec = TeamSpec(
        agents=("ann",), obs_sizes=(2,), action_kind="continuous", action_sizes=(len(low),), state_size=1,
        action_low=(view.acts.low,), action_high=(view.acts.high,), views=(view,),
    )  # fmt: skip
    assert TeamSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    drawn = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=len(low), max_size=len(low)))
    for row in (drawn, [-1.0] * len(low), [1.0] * len(low)):
        rows = spec.to_environment(np.array([[row]], np.float32))[0, 0]
        assert rows.dtype == np.float32
        action = view.acts.action(rows)
        assert space.contains(action), (action, space.low, space.high)
        roomy = np.nextafter(space.low.astype("f4"), np.float32(np.inf)) < space.high
        inside = (rows >= space.low) & (rows <= space.high)
        assert inside[roomy].all()  # already before its type is the space's
        wanted = space.low + (np.clip(row, -1, 1) + 1) / 2 * (space.high.astype(float) - space.low)
        np.testing.assert_allclose(action, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (
            spaces.Dict(pos=spaces.Box(0, 1, (2,)), goal=spaces.Discrete(2)),
            {"pos": np.zeros(2)},
            'a dictionary with "pos", "goal"',
        ),
        (spaces.Dict(pos=spaces.Box(0, 1, (2,))), {"pos": np.zeros(3)}, r"numbers of shape \(2,\) under 'pos'"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, 2), "a whole number from 0 to 1 under 1"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1,), "a tuple of 2"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), r"whole numbers of shape \(2,\)"),
        (spaces.MultiDiscrete([2, 3]), np.array([0.5, 1.0]), r"whole numbers of shape \(2,\)"),
        (spaces.MultiBinary(2), np.array([0, 2]), "zeros and ones"),
    ],
)
def test_values_of_other_spaces_are_refused_with_what_would_be_right(space, value, expected):
    view = view_from("ann", space, spaces.Discrete(2))
    with pytest.raises(OutsideSpace, match=expected):
        view.observe(value, np.zeros(view.obs_size, np.float32))


@given(
    space=st.sampled_from(
        [
            spaces.MultiDiscrete([2, 4, 3]),
            spaces.MultiDiscrete([[2, 1], [4, 3]], start=[[1, 0], [-2, 5]], dtype=np.int32),
            spaces.MultiBinary(3),
            spaces.MultiBinary([2, 2]),
            spaces.Discrete(4, start=-2),
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_whatever_components_choose_is_an_action_of_the_space(space, seed):
    acts = view_from("ann", BOX, space).acts
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(n, size=20) for n in acts.choices], -1)
    single = isinstance(space, spaces.Discrete)
    actions = [acts.action(row[0] if single else row) for row in rows]
    assert all(map(space.contains, actions))
    assert len({str(action) for action in actions}) == len({str(row) for row in rows})
    np.testing.assert_array_equal(acts.action(rows[:, 0] if single else rows), actions)
    assert acts.action_size == sum(acts.choices) == view_from("ann", space, space).sees.size or "Binary" in str(space)


@pytest.mark.parametrize("mask", [[0.0, -np.inf], [1, 2], [0.5, 1.0], ["yes", "no"]])
def test_masks_of_other_numbers_than_zero_and_one_are_refused(mask):
    with pytest.raises(OutsideSpace, match="1 for each choice that is available"):
        available(mask)
    np.testing.assert_array_equal(available((np.array([1, 0]), np.array([0, 1, 1]))), [True, False, False, True, True])
