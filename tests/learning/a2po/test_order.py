"""Orders are permutations with the greed they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.a2po.order import ORDERS, ranking
from tests.helpers import seeded

SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=9)


def picker(seed):
    generator = seeded(seed)
    return lambda left: int(torch.randint(left, (1,), generator=generator))


@pytest.mark.parametrize("name", ORDERS)
@given(scores=SCORES, seed=st.integers(0, 100))
def test_an_order_is_a_permutation_that_a_seed_repeats(name, scores, seed):
    order = ORDERS[name](scores, picker(seed))
    assert sorted(order) == list(range(len(scores)))
    assert order == ORDERS[name](scores, picker(seed))


@given(scores=SCORES, seed=st.integers(0, 100))
def test_every_other_of_a_semi_greedy_order_is_the_best_that_is_left(scores, seed):
    order = ORDERS["semi_greedy"](scores, picker(seed))
    for k in range(0, len(order), 2):
        assert scores[order[k]] == max(scores[i] for i in order[k:])


@given(scores=SCORES)
def test_greedy_descends_and_cyclic_counts(scores):
    assert ORDERS["greedy"](scores, picker(0)) == ranking(scores)
    assert [scores[i] for i in ranking(scores)] == sorted(scores, reverse=True)
    assert ORDERS["cyclic"](scores, picker(0)) == list(range(len(scores)))


@pytest.mark.parametrize("name", ["semi_greedy", "greedy", "cyclic", "random"])
def test_reverse_runs_backwards(name):
    scores = [3.0, 1.0, 4.0, 1.5, 9.0]
    assert ORDERS[f"reverse_{name}"](scores, picker(3)) == ORDERS[name](scores, picker(3))[::-1]


def test_random_orders_are_all_equally_likely():
    pick = picker(0)
    seen = [tuple(ORDERS["random"]([1.0, 2.0, 3.0], pick)) for _ in range(3000)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 6 and min(counts) > 400
