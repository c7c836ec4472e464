"""Action distributions against torch.distributions, per dimension; masks; and what padding must not do."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from lorasa_rllib.nn.distributions import CONTINUOUS, Categorical, Categoricals, Gaussian, SquashedGaussian
from tests.helpers import seeded

REAL = torch.tensor([[True, True, True], [True, False, False]])


def mean_and_log_std(seed=0, *lead):
    mean = torch.randn(*lead, 2, 3, generator=seeded(seed), dtype=torch.double)
    return mean, torch.randn(2, 3, generator=seeded(seed + 1), dtype=torch.double)


@given(seed=st.integers(0, 10_000))
def test_the_squashed_gaussian_is_a_normal_pushed_through_tanh(seed):
    mean, log_std = mean_and_log_std(seed, 4)
    std = torch.sigmoid(log_std) / 2
    ours = SquashedGaussian(mean, log_std)
    theirs = TransformedDistribution(Normal(mean, std), TanhTransform())
    actions = torch.rand(mean.shape, generator=seeded(seed), dtype=torch.double) * 1.8 - 0.9
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions), rtol=1e-5, atol=2e-6)
    assert torch.equal(ours.mode(), torch.tanh(mean))


@given(seed=st.integers(0, 10_000))
def test_the_gaussian_is_a_normal(seed):
    mean, log_std = mean_and_log_std(seed, 4)
    ours, theirs = Gaussian(mean, log_std), Normal(mean, log_std.exp())
    actions = torch.randn(mean.shape, generator=seeded(seed), dtype=torch.double)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), mean)


def test_the_entropy_of_the_squashed_gaussian_is_minus_the_mean_log_probability():
    mean, log_std = torch.tensor([0.7], dtype=torch.double), torch.tensor([0.3], dtype=torch.double)
    distribution = SquashedGaussian(mean.expand(200_000, 1), log_std)
    torch.manual_seed(0)
    entropy = distribution.entropy().mean()
    minus_log_prob = -distribution.log_prob(distribution.sample(seeded(0))).mean()
    torch.testing.assert_close(entropy, minus_log_prob, rtol=0, atol=0.01)


def test_samples_have_the_mean_and_spread_of_the_distribution():
    mean, log_std = mean_and_log_std()
    many = mean.expand(100_000, 2, 3)
    plain = Gaussian(many, log_std).sample(seeded(0))
    torch.testing.assert_close(plain.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(plain.std(0), log_std.exp(), rtol=0.02, atol=0)
    squashed = torch.atanh(SquashedGaussian(many, log_std).sample(seeded(0)).clamp(-1 + 1e-12, 1 - 1e-12))
    torch.testing.assert_close(squashed.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(squashed.std(0), torch.sigmoid(log_std) / 2, rtol=0.02, atol=0)


@pytest.mark.parametrize("head", CONTINUOUS.values())
def test_random_actions_are_uniform_in_the_unit_box_and_seeds_repeat_them(head):
    mean, log_std = mean_and_log_std()
    distribution = head(mean.expand(20_000, 2, 3), log_std)
    drawn = distribution.random(seeded(0))
    assert drawn.abs().max() <= 1
    torch.testing.assert_close(drawn.std(0), torch.full_like(mean, 1 / math.sqrt(3)), rtol=0.05, atol=0)
    assert torch.equal(drawn, distribution.random(seeded(0)))
    assert torch.equal(distribution.sample(seeded(3)), distribution.sample(seeded(3)))
    assert not torch.equal(distribution.sample(seeded(3)), distribution.sample(seeded(4)))


@pytest.mark.parametrize("head", CONTINUOUS.values())
def test_dimensions_that_an_agent_lacks_sample_zero_and_weigh_nothing(head):
    mean, log_std = mean_and_log_std(0, 5)
    distribution = head(mean, log_std, REAL)
    lacking = ~REAL.expand(5, 2, 3)
    for value in (
        distribution.sample(),
        distribution.random(),
        distribution.entropy(),
        distribution.log_prob(mean / 9),
    ):
        assert value[lacking].count_nonzero() == 0
        assert value[~lacking].count_nonzero() == (~lacking).sum()


@pytest.mark.parametrize("head", CONTINUOUS.values())
def test_a_distribution_is_rebuilt_from_its_mean_and_standard_deviation(head):
    mean, log_std = mean_and_log_std()
    distribution = head(mean, log_std)
    again = head.from_std(mean, distribution.std)
    torch.testing.assert_close(again.log_prob(mean / 9), distribution.log_prob(mean / 9))


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_an_action_on_the_edge_has_a_finite_log_probability_and_gradient(edge):
    mean = torch.tensor([0.3], requires_grad=True)  # float32, as on runners
    log_prob = SquashedGaussian(mean, torch.tensor([1.0])).log_prob(torch.tensor([edge]))
    (grad,) = torch.autograd.grad(log_prob.sum(), mean)
    assert log_prob.isfinite().all() and grad.isfinite().all()


@given(seed=st.integers(0, 10_000), choices=st.integers(2, 5))
def test_unavailable_choices_have_probability_zero_and_are_never_drawn(seed, choices):
    logits = torch.randn(3, choices, generator=seeded(seed), dtype=torch.double, requires_grad=True)
    available = torch.rand(3, choices, generator=seeded(seed + 1)) < 0.5
    available[:, seed % choices] = True
    distribution = Categorical(logits.masked_fill(~available, -torch.inf))
    assert torch.equal(distribution.log_probs.exp() > 0, available)
    theirs = torch.distributions.Categorical(logits=logits.masked_fill(~available, -1e30))
    torch.testing.assert_close(distribution.entropy()[:, 0], theirs.entropy())
    many = Categorical(distribution.log_probs.detach().expand(200, 3, choices))
    for drawn in (many.sample(seeded(seed)), many.random(seeded(seed)), many.mode()):
        assert drawn.shape == (200, 3, 1)
        assert available.expand(200, 3, choices).gather(-1, drawn).all()
    (grad,) = torch.autograd.grad(distribution.entropy().sum() + distribution.log_prob(many.mode()[0]).sum(), logits)
    assert grad.isfinite().all()
    assert grad[~available].count_nonzero() == 0


def test_choices_are_drawn_in_proportion_to_their_probabilities_and_at_random_evenly():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    many = Categorical(logits.expand(100_000, 4))
    for drawn, expected in (
        (many.sample(seeded(0)), torch.softmax(logits, 0)),
        (many.random(seeded(0)), torch.tensor([1.0, 1.0, 0.0, 1.0]) / 3),
    ):
        frequency = torch.bincount(drawn.flatten(), minlength=4) / 100_000
        torch.testing.assert_close(frequency, expected, rtol=0, atol=0.01)
    assert many.mode()[0].item() == 3


@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_components_are_independent_choices(seed, sizes):
    """Against torch, component by component; padding has a single choice and weighs nothing."""
    logits = torch.full((4, len(sizes) + 1, max(sizes)), -torch.inf, dtype=torch.double)
    parts = [torch.randn(4, size, generator=seeded(seed + c), dtype=torch.double) for c, size in enumerate(sizes)]
    for c, part in enumerate(parts):
        logits[:, c, : sizes[c]] = part
    logits[:, -1, 0] = 0.0
    ours, theirs = Categoricals(logits), [torch.distributions.Categorical(logits=part) for part in parts]
    drawn = torch.stack([one.sample() for one in theirs] + [torch.zeros(4)], -1).long()
    none = torch.zeros(4, 1, dtype=torch.double)
    log_prob = torch.stack([one.log_prob(drawn[:, c]) for c, one in enumerate(theirs)], -1)
    torch.testing.assert_close(ours.log_prob(drawn), torch.cat([log_prob, none], -1))
    torch.testing.assert_close(ours.entropy(), torch.cat([torch.stack([o.entropy() for o in theirs], -1), none], -1))
    assert torch.equal(ours.mode()[:, :-1], torch.stack([part.argmax(-1) for part in parts], -1))
    for own in (ours.sample(seeded(seed)), ours.random(seeded(seed)), ours.mode()):
        assert own.shape == drawn.shape and (own[:, :-1] < torch.tensor(sizes)).all() and not own[:, -1].any()
    many = Categoricals(logits[:1].expand(20_000, -1, -1))
    for c, one in enumerate(theirs):
        frequency = torch.bincount(many.sample(seeded(seed))[:, c], minlength=sizes[c]) / 20_000
        torch.testing.assert_close(frequency.double(), one.probs[0], rtol=0, atol=0.02)
