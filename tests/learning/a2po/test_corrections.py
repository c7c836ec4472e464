"""Corrections against the sums that define them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.a2po.corrections import CORRECTIONS
from lorasa_rllib.learning.gae import gae
from tests.helpers import seeded


def random_case(steps, seed, spread, width=2):
    generator = seeded(seed)
    errors = torch.randn(steps, 3, width, generator=generator, dtype=torch.double)
    log_ratios = spread * torch.randn(steps, 3, 1, generator=generator, dtype=torch.double)
    ended = torch.rand(steps, 3, 1, generator=generator) < 0.25
    return errors, log_ratios, ended


def brute_force(form, errors, log_ratios, ended, decay):
    """The double sum of the definition."""
    c, total = log_ratios.exp(), torch.zeros_like(errors)
    for e in range(errors.shape[1]):
        for t in range(len(errors)):
            weight = 1.0
            for u in range(t, len(errors)):
                if u > t:
                    now = c[u, e, 0].item()
                    weight = weight * min(1.0, now) if form == "capped_factors" else min(1.0, now * weight)
                total[t, e] += decay ** (u - t) * weight * errors[u, e]
                if ended[u, e, 0]:
                    break
    return total


@pytest.mark.parametrize("form", CORRECTIONS)
@given(
    steps=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.1, 2.0]),
    decay=st.sampled_from([0.5, 0.9, 1.0]),
)
def test_corrections_equal_their_definition(form, steps, seed, spread, decay):
    case = random_case(steps, seed, spread)
    torch.testing.assert_close(CORRECTIONS[form](*case, decay), brute_force(form, *case, decay))


@pytest.mark.parametrize("form", CORRECTIONS)
@given(steps=st.integers(1, 40), seed=st.integers(0, 10_000), decay=st.sampled_from([0.3, 0.93, 1.0]))
def test_with_all_ratios_one_they_are_generalised_advantages(form, steps, seed, decay):
    errors, _, ended = random_case(steps, seed, 0.0)
    torch.testing.assert_close(CORRECTIONS[form](errors, errors[..., :1] * 0, ended, decay), gae(errors, ended, decay))


@pytest.mark.parametrize("form", CORRECTIONS)
def test_agents_that_leave_on_their_own_have_ends_of_their_own(form):
    errors, log_ratios, _ = random_case(6, 1, 1.0)
    ended = torch.rand(6, 3, 2, generator=seeded(2)) < 0.4
    both = CORRECTIONS[form](errors, log_ratios, ended, 0.9)
    for agent in range(2):
        alone = CORRECTIONS[form](errors[..., [agent]], log_ratios, ended[..., [agent]], 0.9)
        torch.testing.assert_close(both[..., [agent]], alone)


def test_the_product_is_cut_only_where_it_no_longer_matters():
    errors, log_ratios, ended = random_case(240, 0, 0.01)
    ended[:] = False
    cut = CORRECTIONS["capped_product"](errors, log_ratios, ended, 0.9)
    torch.testing.assert_close(cut, brute_force("capped_product", errors, log_ratios, ended, 0.9), rtol=0, atol=1e-6)
