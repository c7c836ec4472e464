"""One Adam over stacked banks is one Adam per owner; gradients become clipped means of each owner's own rows."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning import flat
from lorasa_rllib.learning.owner_adam import OwnerAdam
from tests.helpers import seeded

EXACT = {"rtol": 1e-12, "atol": 1e-13}
OWNERS = 3
HYPER = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-5}


def bank(*owners, seed=0):
    """One matrix and one vector for each number of owners."""
    generator = seeded(seed)
    shapes = [(o, *rest) for o in owners for rest in ((4, 2), (5,))]
    return [torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True) for shape in shapes]


def give_gradients(params, seed):
    generator = seeded(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.double) * 10 ** (seed % 3 - 1)


def one_adam_per_owner(params, steps):
    """Final parameters after `steps` of (seed, moving), by a torch.optim.Adam for each slice of each parameter."""
    slices = [[p[o].detach().clone().requires_grad_() for o in range(len(p))] for p in params]
    adams = [[torch.optim.Adam([s], **HYPER) for s in owners] for owners in slices]
    for seed, moving in steps:
        whole = [p.detach().clone() for p in params]
        give_gradients(whole, seed)
        for p, owners, optimisers in zip(whole, slices, adams, strict=True):
            for o, (s, adam) in enumerate(zip(owners, optimisers, strict=True)):
                if any(moving) if len(p) == 1 else moving[o]:
                    s.grad = p.grad[o]
                    adam.step()
    return [torch.stack([s.detach() for s in owners]) for owners in slices]


MOVES = st.lists(st.lists(st.booleans(), min_size=OWNERS, max_size=OWNERS), min_size=1, max_size=12)


@pytest.mark.parametrize("owners", [(OWNERS,), (1, OWNERS)], ids=["one kind of owner", "mixed with shared parameters"])
@given(moves=MOVES)
def test_it_equals_one_adam_per_owner_when_random_owners_rest(owners, moves):
    params = bank(*owners)
    expected = one_adam_per_owner(params, list(enumerate(moves)))
    optimiser = OwnerAdam(params, **HYPER)
    for seed, moving in enumerate(moves):
        give_gradients(params, seed)
        optimiser.step(moving=torch.tensor(moving))
    torch.testing.assert_close([p.detach() for p in params], expected, **EXACT)


@given(steps=st.integers(1, 12))
def test_without_a_choice_of_owners_all_of_them_move(steps):
    params = bank(OWNERS)
    expected = one_adam_per_owner(params, [(seed, [True] * OWNERS) for seed in range(steps)])
    optimiser = OwnerAdam(params, **HYPER)
    for seed in range(steps):
        give_gradients(params, seed)
        optimiser.step()
    torch.testing.assert_close([p.detach() for p in params], expected, **EXACT)


def test_in_single_precision_the_first_step_is_as_exact_as_single_precision_allows():
    params = [torch.randn(2, 3, generator=seeded(0)).requires_grad_()]
    params[0].grad = torch.tensor([[1e-6, 1e-3, 1.0], [3e-5, -2.0, 5.0]])
    double = [p.detach().double().requires_grad_() for p in params]
    double[0].grad = params[0].grad.double()
    before = double[0].detach().clone()
    OwnerAdam(double, **HYPER).step()
    single = OwnerAdam([torch.zeros_like(params[0]).requires_grad_()], **HYPER)
    (p,) = single.param_groups[0]["params"]
    p.grad = params[0].grad
    single.step()
    torch.testing.assert_close(p.detach().double(), double[0].detach() - before, rtol=1e-6, atol=0)


@given(resting=st.integers(0, OWNERS - 1), before=st.integers(0, 3))
def test_a_resting_owner_keeps_parameters_moments_and_counter_bit_for_bit(resting, before):
    params = bank(OWNERS)
    optimiser = OwnerAdam(params, **HYPER)
    for seed in range(before):
        give_gradients(params, seed)
        optimiser.step()
    old = copy.deepcopy([p.detach() for p in params]), copy.deepcopy([dict(optimiser.state[p]) for p in params])
    give_gradients(params, 7)
    moving = torch.arange(OWNERS) != resting
    optimiser.step(moving=moving)
    for p, old_p, old_state in zip(params, *old, strict=True):
        assert torch.equal(p[resting], old_p[resting])
        assert not (p == old_p)[moving].any()
        for name, value in optimiser.state[p].items():
            previous = old_state[name] if old_state else torch.zeros_like(value)
            assert torch.equal(value[resting], previous[resting]), name
            assert not torch.equal(value[moving], previous[moving]), name


def test_when_nobody_moves_nothing_changes_and_parameters_without_gradient_rest():
    params = bank(1, OWNERS)
    optimiser = OwnerAdam(params, **HYPER)
    old = copy.deepcopy([p.detach() for p in params])
    give_gradients(params, 0)
    optimiser.step(moving=torch.zeros(OWNERS, dtype=torch.bool))
    torch.testing.assert_close([p.detach() for p in params], old, rtol=0, atol=0)
    params[0].grad = None
    optimiser.step()
    assert torch.equal(params[0], old[0]) and not torch.equal(params[1], old[1])


@given(moves=MOVES, cut=st.integers(0, 12))
def test_a_state_dict_round_trip_continues_identically(moves, cut):
    params = bank(1, OWNERS)
    optimiser = OwnerAdam(params, **HYPER)
    for seed, moving in enumerate(moves):
        if seed == cut % len(moves):
            twins = [p.detach().clone().requires_grad_() for p in params]
            twin = OwnerAdam(twins)
            twin.load_state_dict(copy.deepcopy(optimiser.state_dict()))
        give_gradients(params, seed)
        optimiser.step(moving=torch.tensor(moving))
        if seed >= cut % len(moves):
            give_gradients(twins, seed)
            twin.step(moving=torch.tensor(moving))
    torch.testing.assert_close(twins, params, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_masked_step_equals_a_step_of_the_owners_that_move(seed):
    generator = seeded(seed)
    shape, args = (4, 6), (0.01, (0.9, 0.999), 1e-5)
    p, grad = (torch.randn(shape, generator=generator, dtype=torch.double) for _ in range(2))
    first, second = torch.rand((2, *shape), generator=generator, dtype=torch.double)
    steps = torch.tensor([0.0, 1.0, 7.0, 0.0])
    who = torch.tensor([True, False, True, False])
    for moment in (first, second):
        moment[0] = moment[3] = 0.0  # have never moved
    mine, others = (p, first, second, steps), [t.clone() for t in (p, first, second, steps)]
    flat.adam(p, grad, *mine[1:], *args, who)
    flat.adam_of_some(others[0], grad, *others[1:], *args, who)
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("owners", [(OWNERS,), (1, OWNERS), (1,)], ids=str)
@given(rows=st.lists(st.integers(0, 9), min_size=OWNERS, max_size=OWNERS), seed=st.integers(0, 100))
def test_finished_gradients_are_means_over_own_rows_clipped_one_owner_at_a_time(owners, max_norm, rows, seed):
    params = bank(*owners)
    rows = torch.tensor(rows[: max(owners)], dtype=torch.float)
    give_gradients(params, seed)
    for p in params:  # an owner without rows has no gradient
        p.grad *= (rows > 0).double().view(-1, *[1] * (p.dim() - 1)) if len(p) == len(rows) else 1.0
    expected = [torch.empty_like(p) for p in params]
    norms = torch.zeros(len(rows), dtype=torch.double)
    for count in owners:
        same = [i for i, p in enumerate(params) if len(p) == count]
        for o in range(count):
            own_rows = rows[o] if count == len(rows) else rows.sum()
            parts = [torch.zeros(params[i].shape[1:], dtype=torch.double, requires_grad=True) for i in same]
            for part, i in zip(parts, same, strict=True):
                part.grad = params[i].grad[o] / own_rows.clamp(min=1)
            norm = torch.nn.utils.clip_grad_norm_(parts, float("inf") if max_norm is None else max_norm)
            if count == len(rows):
                norms[o] = norm
            for part, i in zip(parts, same, strict=True):
                expected[i][o] = part.grad
    optimiser = OwnerAdam(params)
    actual = optimiser.finish(optimiser.gather(), rows, max_norm)
    torch.testing.assert_close([p.grad for p in params], expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(actual.double(), norms, rtol=1e-6, atol=1e-12)


def test_finishing_gradients_leaves_parameters_without_gradient_out():
    params = bank(OWNERS)
    params[0].grad = None
    params[1].grad = torch.ones_like(params[1])
    optimiser = OwnerAdam(params)
    norms = optimiser.finish(optimiser.gather(), torch.tensor([1.0, 2.0, 4.0]), None)
    assert params[0].grad is None
    torch.testing.assert_close(norms.double(), 5**0.5 / torch.tensor([1.0, 2.0, 4.0], dtype=torch.double))
