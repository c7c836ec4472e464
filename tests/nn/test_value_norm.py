"""The value normaliser: a bias-corrected running mean and variance, and maps that undo each other."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.value_norm import ValueNorm
from tests.helpers import seeded


def updated(batches):
    norm = ValueNorm(2).double()
    for x in batches:
        norm.update(x.mean(0), x.square().mean(0))
    return norm


def random_batches(count, seed=0):
    return torch.randn(count, 50, 2, generator=seeded(seed), dtype=torch.double) * 3 + torch.tensor([2.0, -5.0])


@given(count=st.integers(1, 8))
def test_after_k_updates_the_statistics_have_their_closed_form(count):
    batches = random_batches(count)
    beta = ValueNorm.beta
    weights = (1 - beta) * beta ** torch.arange(count - 1, -1, -1, dtype=torch.double)[:, None]
    debias = max(1 - beta**count, ValueNorm.epsilon)
    mean = (weights * batches.mean(1)).sum(0) / debias
    mean_sq = (weights * batches.square().mean(1)).sum(0) / debias
    norm = updated(batches)
    torch.testing.assert_close(norm.debias, torch.full_like(norm.debias, 1 - beta**count))
    actual_mean, actual_std = norm.statistics()
    torch.testing.assert_close(actual_mean, mean)
    torch.testing.assert_close(actual_std, (mean_sq - mean.square()).clamp(min=ValueNorm.min_var).sqrt())


def test_with_a_beta_near_one_the_statistics_are_those_of_all_data_so_far():
    batches = random_batches(10)
    mean, std = updated(batches).statistics()
    torch.testing.assert_close(mean, batches.mean((0, 1)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(std, batches.flatten(0, 1).std(0, correction=0), rtol=1e-3, atol=1e-3)


@given(count=st.integers(0, 4), seed=st.integers(0, 1000))
def test_normalising_and_denormalising_undo_each_other(count, seed):
    norm = updated(random_batches(count, seed))
    x = torch.randn(7, 3, 2, generator=seeded(seed), dtype=torch.double) * 10
    torch.testing.assert_close(norm.denormalise(norm.normalise(x)), x)
    torch.testing.assert_close(norm.normalise(norm.denormalise(x)), x)


def test_a_fresh_normaliser_is_the_identity_and_scales_by_its_fresh_variance():
    x = torch.randn(5, 2, generator=seeded(0))
    assert torch.equal(ValueNorm(2).normalise(x), x)
    assert torch.equal(ValueNorm(2).denormalise(x), x)
    torch.testing.assert_close(ValueNorm(2, fresh_var=4.0).normalise(x), x / 2)


def test_constant_returns_do_not_divide_by_zero():
    norm = ValueNorm(1)
    norm.update(torch.tensor([3.0]), torch.tensor([9.0]))
    assert norm.statistics()[1].item() >= ValueNorm.min_var**0.5 * 0.999
    assert norm.normalise(torch.tensor([3.0])).isfinite().all()


def test_the_statistics_travel_with_the_state_dict():
    norm, other = updated(random_batches(3)), ValueNorm(2).double()
    other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(other.statistics(), norm.statistics(), rtol=0, atol=0)
