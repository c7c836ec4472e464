"""The MAPPO update: every owner gets the gradient of its own mean loss, and learners together act like one."""

import copy
import dataclasses
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.learning import batch as batch_module
from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import Batch, MAPPOSettings
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import METHODS, make_policy, owner_tables, policies, random_rollout, seeded, team, teams

UNEQUAL = team((4, 2, 3), (2, 3, 1))
SETTINGS = MAPPOSettings(entropy_coeff=0.05, value_coeff=0.7, max_grad_norm=0.3, huber_delta=0.5, chunk_length=2)
CASES = [
    (method, phase)
    for method, owners in owner_tables(2).items()
    for phase in (("adapters", "joint") if owners.num_adapters else ("backbone",))
]


def optimisers_of(policy, lr=0.01):
    named = {group: list(policy.parameters_of(group).values()) for group in ("backbone", "adapters", "critic")}
    return {group: OwnerAdam(params, lr=lr) for group, params in named.items() if params}


def experienced(policy):
    """The policy with a normaliser that has seen returns."""
    size = policy.critic.num_values
    mean = torch.linspace(-1, 2, size, dtype=torch.double)
    for _ in range(5):
        policy.value_norm.update(mean, mean.square() + 4)
    return policy


def batch_of(policy, steps=3, envs=3, seed=0, dead=(), config=SETTINGS):
    rollout = random_rollout(policy, steps, envs, seed, dead).to("cpu")
    return batch_module.prepare(experienced(policy), rollout, config)[0]


# An independent update: a loop over owners, the mean loss of the rows of each, one autograd call for each


def row_losses(policy, batch, config):
    """Policy loss [L, B, N] and value loss [L, B, V] of every row, written out."""
    sequence = {"state": batch.actor_state, "keep": batch.keep}
    distribution = policy.distribution(batch.obs, roles=batch.roles, masks=batch.masks, **sequence)
    log_ratio = distribution.log_prob(batch.actions) - batch.log_probs
    ratio = (log_ratio.sum(-1, keepdim=True) if config.joint_ratio else log_ratio).exp()
    a = batch.advantages.unsqueeze(-1)
    gain = torch.where(a > 0, ratio.clamp(max=1 + config.clip), ratio.clamp(min=1 - config.clip)) * a
    policy_loss = -gain.sum(-1) - config.entropy_coeff * distribution.entropy(seeded(5)).sum(-1)
    values = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)[0]
    huber = torch.nn.HuberLoss(reduction="none", delta=config.huber_delta)
    change = (values - batch.values).clamp(-config.value_clip, config.value_clip)
    targets = policy.value_norm.normalise(batch.returns)
    errors = torch.stack([huber(values, targets), huber(batch.values + change, targets)])
    return policy_loss, config.value_coeff * errors.max(0).values


def owner_by_owner(policy, batch, config):
    """Finished gradients of every optimiser's parameters."""
    owners, finished = policy.config.owners, {}
    shape = batch.active.shape
    for group, optimiser in optimisers_of(policy).items():
        loss, live = row_losses(policy, batch, config)[group == "critic"], batch.active
        if group == "critic":
            live = torch.ones_like(loss, dtype=torch.bool)
            if config.value_active_only and loss.shape == shape:
                live = batch.active
            owner_of, count = torch.tensor(owners.critic_of[: loss.shape[-1]]).expand(loss.shape), owners.num_critics
        elif group == "backbone":
            owner_of, count = torch.tensor(owners.backbone_of).expand(shape), owners.num_backbones
        else:
            owner_of = batch.roles if owners.routed_by == "role" else torch.tensor(owners.adapter_of).expand(shape)
            count = owners.num_adapters
        params = [p for p in optimiser.param_groups[0]["params"] if p.requires_grad]
        grads = [torch.zeros_like(p) for p in params]
        for size in {len(p) for p in params}:
            same = [i for i, p in enumerate(params) if len(p) == size]
            for o in range(size):
                mine = live & (owner_of == o) if size == count else live
                if not mine.any():
                    continue
                slices = torch.autograd.grad(loss[mine].mean(), [params[i] for i in same], retain_graph=True)
                norm = torch.cat([g[o].flatten() for g in slices]).norm()
                scale = 1.0 if config.max_grad_norm is None else min(1.0, config.max_grad_norm / (norm.item() + 1e-6))
                for i, g in zip(same, slices, strict=True):
                    grads[i][o] = scale * g[o]
        finished[group] = grads
    return finished


def one_step(policy, batch, config):
    """Our step; returns the optimisers, the finished gradients and the live rows."""
    optimisers = optimisers_of(policy)
    mappo.loss_sums(policy, batch, config, seeded(5))[0].backward()
    counts = mappo.live_rows(policy, batch, config)
    mappo.step(optimisers, counts, config.max_grad_norm)
    grads = {
        group: [p.grad for p in o.param_groups[0]["params"] if p.grad is not None] for group, o in optimisers.items()
    }
    return optimisers, grads, counts


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("method", "phase"), CASES)
@settings(max_examples=5)
@given(data=st.data())
def test_every_owner_gets_the_clipped_gradient_of_the_mean_over_its_own_live_rows(method, phase, recurrent, data):
    shared_reward = data.draw(st.booleans())
    policy = data.draw(policies(method, teams(shared_reward=shared_reward), recurrent=recurrent))
    policy.set_phase(phase)
    config = dataclasses.replace(
        SETTINGS,
        max_grad_norm=data.draw(st.sampled_from([None, 0.3])),
        value_active_only=data.draw(st.booleans()),
        joint_ratio=data.draw(st.booleans()),
        entropy_coeff=data.draw(st.sampled_from([0.0, 0.05])),
    )
    dead = data.draw(st.sampled_from([(), (0,), (1,)]))
    batch = batch_of(policy, 4, 2, seed=data.draw(st.integers(0, 1000)), dead=dead)
    if (
        recurrent and batch.roles is not None
    ):  # else a role's adapter also answers for what later roles make of its state
        batch.roles = batch.roles[:1].expand_as(batch.roles)
    expected = owner_by_owner(policy, batch, config)
    _, actual, _ = one_step(policy, batch, config)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-9)  # live counts are single precision


@pytest.mark.parametrize(("method", "phase"), CASES)
def test_an_owner_without_a_live_row_does_not_move_and_everyone_else_does(method, phase):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    policy.set_phase(phase)
    batch = batch_of(policy, dead=(1,))
    if batch.roles is not None and policy.config.owners.num_adapters > 1:
        batch.roles[batch.roles == 1] = 2  # nobody holds role 1
    optimisers = optimisers_of(policy)
    before = copy.deepcopy(dict(policy.named_parameters()))
    for _ in range(2):  # the second step would drift through momentum
        for optimiser in optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        mappo.loss_sums(policy, batch, SETTINGS, seeded(5))[0].backward()
        counts = mappo.live_rows(policy, batch, SETTINGS)
        mappo.step(optimisers, counts, SETTINGS.max_grad_norm)
    resting = {group: [o for o, rows in enumerate(counts[group].tolist()) if rows == 0] for group in optimisers}
    assert any(resting.values()) == (method not in ("ps", "lora_one_for_all", "role_single"))
    for group, optimiser in optimisers.items():
        for name, parameter in policy.parameters_of(group).items():
            full = name if group == "critic" else f"actor.{name}"
            old = before[f"critic.{name}" if group == "critic" else full]
            if not parameter.requires_grad:
                assert torch.equal(parameter, old), full
                continue
            for o in range(len(parameter)):
                rests = len(parameter) == len(counts[group]) and o in resting[group]
                assert torch.equal(parameter[o], old[o]) == rests, (full, o)
                assert bool(optimiser.state[parameter]["step"][o] == 0) == rests


def test_live_rows_are_counted_for_each_owner():
    active = torch.tensor([[[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0]]], dtype=torch.bool)  # 4, 1, 2 live rows
    roles = torch.tensor([[[0, 0, 1], [2, 1, 1], [2, 2, 1], [0, 0, 0]]])
    expected = {
        "ps": {"backbone": [7], "critic": [4]},
        "nps": {"backbone": [4, 1, 2], "critic": [4, 4, 4]},
        "seps_lora": {"backbone": [6, 1], "adapters": [4, 1, 2], "critic": [4]},
        "seps": {"backbone": [6, 1], "critic": [8, 4]},
        "lora_with_spares": {"backbone": [7], "adapters": [4, 1, 2, 0, 0], "critic": [4]},
        "role": {"backbone": [7], "adapters": [3, 2, 2], "critic": [4]},
    }
    for method, counts in expected.items():
        policy = make_policy(UNEQUAL, owner_tables(3)[method])
        batch = dataclasses.replace(batch_of(policy, 2, 2), active=active, roles=roles)
        actual = {group: rows.tolist() for group, rows in mappo.live_rows(policy, batch, SETTINGS).items()}
        assert actual == counts, method


@pytest.mark.parametrize("method", ["lora", "role"])
def test_what_stands_in_dead_rows_changes_nothing(method):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    batch = batch_of(policy)
    dead = ~batch.active.unsqueeze(-1)
    spoilt = dataclasses.replace(
        batch,
        actions=torch.where(dead, -0.99, batch.actions),
        log_probs=torch.where(dead, -1e5, batch.log_probs),  # a ratio that overflows
        advantages=torch.where(batch.active, batch.advantages, 1e6),
    )
    twin = copy.deepcopy(policy)
    _, grads, _ = one_step(policy, batch, SETTINGS)
    _, others, _ = one_step(twin, spoilt, SETTINGS)
    torch.testing.assert_close(others, grads, rtol=0, atol=0)


@pytest.mark.parametrize("fill", [0.9, -1.0])
def test_padded_actions_change_neither_loss_nor_gradients(fill):
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    batch = batch_of(policy)
    real = torch.as_tensor(UNEQUAL.action_mask())
    filled = dataclasses.replace(batch, actions=torch.where(real, batch.actions, fill))
    losses = [mappo.loss_sums(policy, b, SETTINGS, seeded(5))[0] for b in (batch, filled)]
    assert losses[0] == losses[1]
    twin = copy.deepcopy(policy)
    torch.testing.assert_close(
        one_step(twin, filled, SETTINGS)[1], one_step(policy, batch, SETTINGS)[1], rtol=0, atol=0
    )


def test_without_a_change_of_policy_ratios_are_one():
    policy = experienced(make_policy(UNEQUAL, owner_tables(3)["lora"]))
    rollout = random_rollout(policy, 4, 3).to("cpu")
    with torch.no_grad():
        rollout.log_probs = policy.distribution(rollout.obs).log_prob(rollout.actions)
    batch, _ = batch_module.prepare(policy, rollout, SETTINGS)
    stats = mappo.loss_sums(policy, batch, SETTINGS, seeded(5))[1]
    assert stats["clip_fraction"] == 0
    torch.testing.assert_close(stats["mean_kl_loss"], torch.tensor(0.0), rtol=0, atol=1e-9)


# Targets


@pytest.mark.parametrize("shared_reward", [True, False])
@settings(max_examples=10)
@given(data=st.data())
def test_targets_are_discounted_sums_that_bootstrap_with_the_true_last_state_and_never_beyond_an_end(
    shared_reward, data
):
    policy = experienced(data.draw(policies("ps", teams(shared_reward=shared_reward))))
    rollout = random_rollout(policy, 4, 3, seed=data.draw(st.integers(0, 1000))).to("cpu")
    before = copy.deepcopy(policy.value_norm)
    batch, _ = batch_module.prepare(policy, rollout, SETTINGS)
    critic = copy.deepcopy(policy.critic).requires_grad_(False)
    last = {(int(t), int(e)): s for (t, e), s in zip(rollout.final_index, rollout.final_state, strict=True)}
    width = critic.num_values
    advantages = torch.zeros(4, 3, width, dtype=torch.double)
    values = before.denormalise(critic(rollout.state))
    for e in range(3):
        for t in range(4):
            weight = 1.0
            for k in range(t, 4):
                follows = before.denormalise(critic(last[k, e])) if (k, e) in last else values[k + 1, e]
                if rollout.terminated[k, e]:
                    follows = torch.zeros(width, dtype=torch.double)
                advantages[t, e] += weight * (rollout.rewards[k, e] + SETTINGS.gamma * follows - values[k, e])
                weight *= SETTINGS.gamma * SETTINGS.lambda_
                if rollout.terminated[k, e] or rollout.truncated[k, e]:
                    break
    returns = (advantages + values[:-1]).flatten(0, 1)
    torch.testing.assert_close(batch.returns[0], returns)
    torch.testing.assert_close(batch.values[0], critic(rollout.state[:-1]).flatten(0, 1))
    before.update(returns.mean(0), returns.square().mean(0))
    torch.testing.assert_close(policy.value_norm.state_dict(), before.state_dict())
    per_agent = advantages.expand(4, 3, rollout.num_agents).flatten(0, 1)
    active = batch.active[0]
    live = per_agent[active]
    expected = (per_agent - live.mean()) / (live.std(correction=0) + 1e-5)
    torch.testing.assert_close(batch.advantages[0][active], expected[active], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_what_follows_an_end_is_not_seen_before_it_and_a_true_last_state_is(end):
    policy = experienced(make_policy(UNEQUAL, owner_tables(3)["ps"]))
    rollout = random_rollout(policy, 4, 1)
    for name in ("terminated", "truncated"):
        getattr(rollout, name)[:] = False
    getattr(rollout, end)[1, 0] = True
    cut = end == "truncated"
    rollout.final_index = np.array([[1, 0]]) if cut else np.zeros((0, 2), np.int64)
    rollout.final_state, rollout.final_obs = rollout.final_state[:0], rollout.final_obs[:0]
    if cut:
        rollout.final_state, rollout.final_obs = np.ones((1, 3)), np.ones((1, *rollout.obs.shape[2:]))

    def advantages(**changes):  # before they are standardised, which mixes all steps
        fresh = copy.deepcopy(policy)
        batch, _ = batch_module.prepare(fresh, dataclasses.replace(rollout, **changes).to("cpu"), SETTINGS)
        return (batch.returns - policy.value_norm.denormalise(batch.values))[0, :, 0]

    state = rollout.state.copy()
    state[2] *= np.array([1.0, -2.0, 0.5])  # the first state of the next episode
    base, next_episode = advantages(), advantages(state=state)
    torch.testing.assert_close(next_episode[:2], base[:2], rtol=1e-9, atol=1e-9)
    assert not torch.isclose(next_episode[2], base[2])
    if cut:
        true_last = advantages(final_state=rollout.final_state * np.array([1.0, -2.0, 0.5]))
        assert not torch.isclose(true_last[:2], base[:2]).any()
        torch.testing.assert_close(true_last[2:], base[2:], rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_standardised_advantages_have_mean_zero_and_deviation_one_over_live_entries(seed, scale):
    advantages = torch.randn(6, 4, 3, generator=seeded(seed), dtype=torch.double) * scale + 2 * scale
    active = torch.rand(6, 4, 3, generator=seeded(seed + 1)) < 0.6
    spoilt = torch.where(active, advantages, float("nan"))
    live = batch_module.standardise(spoilt, active)[active]
    torch.testing.assert_close(live.mean(), torch.tensor(0.0).double(), rtol=0, atol=1e-9)
    std = advantages[active].std(correction=0)
    torch.testing.assert_close(live.std(correction=0), std / (std + 1e-5))


def test_a_rollout_without_a_live_entry_gives_finite_advantages():
    assert batch_module.standardise(torch.ones(4, 3), torch.zeros(4, 3, dtype=torch.bool)).isfinite().all()


# Minibatches


def numbered(sequences, length=1):
    """A batch whose observations are the numbers of its sequences."""
    numbers = torch.arange(float(sequences)).expand(length, -1)
    columns = dict.fromkeys(
        ("obs", "state", "actions", "log_probs", "active", "advantages", "values", "returns"), numbers
    )
    return Batch(**columns)


@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 40),
    length=st.integers(1, 3),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_minibatches_of_an_epoch_are_whole_sequences_of_one_number_without_repeats(rows, size, length, epochs, seed):
    config = MAPPOSettings(num_epochs=epochs, minibatch_size=size * length)
    batch = numbered(rows, length)
    parts = list(batch_module.minibatches(batch, config, seeded(seed)))
    if size >= rows:
        assert len(parts) == epochs and all(part is batch for part in parts)
        return
    each = rows // size
    assert len(parts) == epochs * each
    assert {(len(part), part.env_steps) for part in parts} == {(size, size * length)}
    for epoch in range(epochs):
        drawn = torch.cat([part.obs[0] for part in parts[epoch * each : (epoch + 1) * each]]).tolist()
        assert len(set(drawn)) == each * size and set(drawn) <= set(range(rows))


def test_a_full_batch_is_all_rows_in_order_and_epochs_are_shuffled_anew():
    batch = numbered(64)
    assert all(p is batch for p in batch_module.minibatches(batch, MAPPOSettings(num_epochs=3), seeded(0)))
    first, second = batch_module.minibatches(batch, MAPPOSettings(num_epochs=2, minibatch_size=63), seeded(0))
    assert not torch.equal(first.obs, second.obs)


def test_indexing_a_batch_selects_rows_of_every_column():
    spec = team((4, 2, 3), (2, 3, 4), continuous=False, has_masks=True)
    batch = batch_of(make_policy(spec, owner_tables(3)["role"]))
    rows = torch.tensor([5, 0, 3])
    part = batch[rows]
    assert len(part) == 3
    for name, column in vars(batch).items():
        assert column is None or torch.equal(getattr(part, name), column[:, rows]), name


# Several learners


class Learners:
    """Learners in threads of one process: `all_sum(rank)` adds up over them as an all-reduce does."""

    def __init__(self, size):
        self._barrier, self._parts = threading.Barrier(size, timeout=30), [None] * size

    def all_sum(self, rank):
        def add_up(x):
            self._parts[rank] = x.clone()
            self._barrier.wait()
            total = sum(self._parts)
            self._barrier.wait()
            return total

        return add_up


def train_together(policy, shards, config):
    """One policy for each shard after an update together, and their logs."""
    learners, results = Learners(len(shards)), [None] * len(shards)

    def train(rank):
        mine = copy.deepcopy(policy)
        args = mine, optimisers_of(mine), shards[rank].to("cpu"), config, seeded(0), learners.all_sum(rank)
        results[rank] = mine, mappo.update(*args)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def uneven_rollout(policy):
    """Shards of two learners differ in live counts and episode ends; agent 1 lives in the second shard only."""
    rollout = random_rollout(policy, 6, 4, seed=3)
    rollout.active[:, :2, 1] = False
    rollout.active[1:, 0] = False
    rollout.terminated[2:, :2] = False
    return rollout


@pytest.mark.parametrize("method", ["ps", "lora", "nps", "seps_lora", "mtl", "role"])
@pytest.mark.parametrize("shared_reward", [True, False])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_two_learners_with_uneven_shards_equal_one_with_all_of_the_data(method, shared_reward, recurrent):
    spec = team((4, 2, 3), (2, 3, 1), shared_reward=shared_reward)
    # The entropy of this distribution draws no noise.
    network = NetworkConfig(hidden_size=5, distribution="gaussian", recurrent=recurrent, critic_recurrent=recurrent)
    policy = experienced(make_policy(spec, owner_tables(3)[method], network=network, critic_input="agent_state"))
    rollout = uneven_rollout(policy)
    config = dataclasses.replace(SETTINGS, num_epochs=3)
    before = copy.deepcopy(policy.state_dict())
    results = train_together(policy, rollout.split(2), config)
    log = mappo.update(policy, optimisers_of(policy), rollout.to("cpu"), config, seeded(0))
    for learner, its_log in results:
        torch.testing.assert_close(learner.state_dict(), policy.state_dict(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(its_log, log, rtol=1e-4, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(results[0][0].state_dict(), results[1][0].state_dict(), rtol=0, atol=0)
    assert not torch.equal(policy.critic.head.weight, before["critic.head.weight"])


def test_learners_stay_equal_with_minibatches_and_random_entropies():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    config = dataclasses.replace(SETTINGS, num_epochs=2, minibatch_size=3)
    (one, _), (other, _) = train_together(policy, uneven_rollout(policy).split(2), config)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


# The whole update


@pytest.mark.parametrize("method", METHODS)
def test_an_update_moves_what_the_phase_trains_and_logs_finite_means(method):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    if policy.config.owners.num_adapters:
        policy.set_phase("adapters")
    before = copy.deepcopy(dict(policy.named_parameters()))
    rollout = random_rollout(policy, 4, 3).to("cpu")
    config = dataclasses.replace(SETTINGS, num_epochs=2, minibatch_size=5)
    log = mappo.update(policy, optimisers_of(policy), rollout, config, seeded(0))
    assert all(value.isfinite() for value in log.values())
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_updates_on_advantages_make_good_actions_likelier():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    rollout = random_rollout(policy, 8, 4).to("cpu")
    with torch.no_grad():
        rollout.log_probs = policy.distribution(rollout.obs).log_prob(rollout.actions)
    batch, _ = batch_module.prepare(copy.deepcopy(policy), rollout, MAPPOSettings())
    mappo.update(policy, optimisers_of(policy, 0.003), rollout, MAPPOSettings(), seeded(0))
    with torch.no_grad():
        gain = policy.distribution(batch.obs).log_prob(batch.actions) - batch.log_probs
    weighted = gain.sum(-1) * batch.advantages
    assert weighted[batch.active].mean() > 0
