"""Losses against numbers worked out by hand and against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.losses import clipped_surrogate, clipped_value_loss
from tests.helpers import seeded


def test_the_surrogate_takes_the_smaller_of_the_plain_and_the_clipped_gain_by_hand():
    # clip 0.2; per dimension: min(w A, clip(w) A), then the sum over dimensions
    #   A =  2: w = 1.5 -> min(3.0, 2.4)  = 2.4     w = 0.5 -> min(1.0, 1.6)  = 1.0      sum  3.4
    #   A = -2: w = 1.5 -> min(-3.0, -2.4) = -3.0   w = 0.5 -> min(-1.0, -1.6) = -1.6    sum -4.6
    gain = clipped_surrogate(torch.tensor([[1.5, 0.5], [1.5, 0.5]]), torch.tensor([2.0, -2.0]), 0.2)
    torch.testing.assert_close(gain, torch.tensor([3.4, -4.6]))


@given(seed=st.integers(0, 10_000), dims=st.integers(1, 3), clip=st.floats(0.05, 0.5))
def test_the_surrogate_equals_a_plain_loop(seed, dims, clip):
    ratio = torch.rand(4, 2, dims, generator=seeded(seed), dtype=torch.double) * 2
    advantages = torch.randn(4, 2, generator=seeded(seed), dtype=torch.double)
    expected = [
        [
            sum(min(w * a, min(max(w, 1 - clip), 1 + clip) * a) for w in ratio[b, n].tolist())
            for n, a in enumerate(advantages[b].tolist())
        ]
        for b in range(4)
    ]
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, clip), torch.tensor(expected, dtype=torch.double))


def test_the_surrogate_has_no_gradient_where_the_ratio_left_the_clip_range_in_the_direction_of_the_advantage():
    ratio = torch.tensor([[1.5], [0.5], [1.5], [0.5]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    clipped_surrogate(ratio, advantages, 0.2).sum().backward()
    assert ratio.grad[:, 0].tolist() == [0.0, 0.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "clip", "huber_delta", "expected"),
    [
        (3.0, None, None, 2.0),  # (1 - 3)^2 / 2
        (3.0, 0.5, None, 2.0),  # clipped to 0.5, whose (1 - 0.5)^2 / 2 = 0.125 is the smaller
        (1.0, 0.5, None, 0.125),  # exact, but clipped to 0.5
        (1.0, None, None, 0.0),
        (3.0, None, 1.0, 1.5),  # Huber: 1 * (2 - 1 / 2)
        (-1.0, None, 1.0, 1.5),
        (1.5, None, 1.0, 0.125),  # within delta: the square
    ],
)
def test_the_value_loss_by_hand(value, clip, huber_delta, expected):
    old, target = torch.tensor([0.0]), torch.tensor([1.0])
    loss = clipped_value_loss(torch.tensor([value]), old, target, clip, huber_delta)
    torch.testing.assert_close(loss, torch.tensor([expected]))


@given(
    seed=st.integers(0, 10_000), clip=st.one_of(st.none(), st.floats(0.05, 1)), delta=st.sampled_from([None, 0.5, 10.0])
)
def test_the_value_loss_equals_a_plain_loop(seed, clip, delta):
    values, old, targets = torch.randn(3, 8, 2, generator=seeded(seed), dtype=torch.double) * 2

    def huber(x):
        return x * x / 2 if delta is None or abs(x) <= delta else delta * (abs(x) - delta / 2)

    expected = []
    for v, o, y in zip(*(x.flatten().tolist() for x in (values, old, targets)), strict=True):
        plain = huber(y - v)
        expected.append(plain if clip is None else max(plain, huber(y - (o + min(max(v - o, -clip), clip)))))
    actual = clipped_value_loss(values, old, targets, clip, delta)
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.double))


@given(seed=st.integers(0, 10_000), delta=st.sampled_from([None, 0.5, 10.0]))
def test_the_value_loss_is_symmetric_in_the_sign_of_the_error(seed, delta):
    errors = torch.randn(20, generator=seeded(seed), dtype=torch.double) * 20
    zero = torch.zeros_like(errors)
    up, down = (clipped_value_loss(zero, zero, sign * errors, None, delta) for sign in (1, -1))
    assert torch.equal(up, down)
