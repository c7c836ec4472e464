"""The MAPPO update: every owner gets the gradient of its own mean loss, and learners together act like one."""

import copy
import dataclasses
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.batch import MAPPOSettings, prepare
from lorasa_rllib.learning.passes import live_rows
from lorasa_rllib.learning.step import loss_sums
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import METHODS, make_policy, owner_tables, policies, random_rollout, seeded, team, teams
from tests.learning.helpers import (
    CASES,
    SETTINGS,
    UNEQUAL,
    Learners,
    batch_of,
    experienced,
    finished_gradients,
    optimisers_of,
    row_losses,
    take_step,
    uneven_rollout,
)

# An independent update: a loop over owners, the mean loss of the rows of each, one autograd call for each


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
    """Finished gradients of our step, for every optimiser's parameters."""
    optimisers, grads = optimisers_of(policy), {}
    take_step(policy, optimisers, batch, config, seeded(5))
    for group, optimiser in optimisers.items():
        finished = finished_gradients(optimiser)
        grads[group] = [finished[p] for p in optimiser.param_groups[0]["params"] if p in finished]
    return grads


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
    actual = one_step(policy, batch, config)
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
        take_step(policy, optimisers, batch, SETTINGS, seeded(5))
    counts = live_rows(policy, batch, SETTINGS)
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
        actual = {group: rows.tolist() for group, rows in live_rows(policy, batch, SETTINGS).items()}
        assert actual == counts, method


@pytest.mark.parametrize("method", ["lora", "role"])
def test_dead_rows_do_not_affect_the_update(method):
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
    grads, others = one_step(policy, batch, SETTINGS), one_step(twin, spoilt, SETTINGS)
    torch.testing.assert_close(others, grads, rtol=0, atol=0)


@pytest.mark.parametrize("fill", [0.9, -1.0])
def test_padded_actions_change_neither_loss_nor_gradients(fill):
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    batch = batch_of(policy)
    real = torch.as_tensor(UNEQUAL.action_mask())
    filled = dataclasses.replace(batch, actions=torch.where(real, batch.actions, fill))
    losses = [loss_sums(policy, b, SETTINGS, seeded(5))[0] for b in (batch, filled)]
    assert losses[0] == losses[1]
    twin = copy.deepcopy(policy)
    grads = one_step(policy, batch, SETTINGS)
    torch.testing.assert_close(one_step(twin, filled, SETTINGS), grads, rtol=0, atol=0)


def test_without_a_change_of_policy_ratios_are_one():
    policy = experienced(make_policy(UNEQUAL, owner_tables(3)["lora"]))
    rollout = random_rollout(policy, 4, 3).to("cpu")
    with torch.no_grad():
        rollout.log_probs = policy.distribution(rollout.obs).log_prob(rollout.actions)
    batch, _ = prepare(policy, rollout, SETTINGS)
    stats = loss_sums(policy, batch, SETTINGS, seeded(5))[1]
    assert stats["clip_fraction"] == 0
    torch.testing.assert_close(stats["mean_kl_loss"], torch.tensor(0.0), rtol=0, atol=1e-9)


# Several learners


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


@pytest.mark.parametrize("method", ["ps", "lora", "nps", "seps_lora", "mtl", "role"])
@pytest.mark.parametrize("shared_reward", [True, False])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("obs_norm", ["layer", "running", "running_team"])
def test_two_learners_with_uneven_shards_equal_one_with_all_of_the_data(method, shared_reward, recurrent, obs_norm):
    spec = team((4, 2, 3), (2, 3, 1), shared_reward=shared_reward)
    # The entropy of this distribution draws no noise.
    network = NetworkConfig(
        hidden_size=5, distribution="gaussian", recurrent=recurrent, critic_recurrent=recurrent, obs_norm=obs_norm
    )
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
    batch, _ = prepare(copy.deepcopy(policy), rollout, MAPPOSettings())
    mappo.update(policy, optimisers_of(policy, 0.003), rollout, MAPPOSettings(), seeded(0))
    with torch.no_grad():
        gain = policy.distribution(batch.obs).log_prob(batch.actions) - batch.log_probs
    weighted = gain.sum(-1) * batch.advantages
    assert weighted[batch.active].mean() > 0


@pytest.mark.parametrize("method", ["ps", "lora"])
@pytest.mark.parametrize("algorithm", [mappo, a2po], ids=["mappo", "a2po"])
def test_a_factor_on_all_rewards_changes_no_step(algorithm, method):
    """So scaled rewards are no setting; see results/README.md, "What each trick buys"."""
    numbers = {"num_epochs": 2, "minibatch_size": 5, "max_grad_norm": 0.3, "huber_delta": 0.5, "value_clip": 0.1}
    config = MAPPOSettings(**numbers) if algorithm is mappo else a2po.A2POSettings(**numbers)
    trained = []
    for factor in (1.0, 1024.0):
        policy = experienced(make_policy(UNEQUAL, owner_tables(3)[method]))
        policy.set_phase("joint" if method == "lora" else "backbone")
        policy.value_norm.mean.mul_(factor)
        policy.value_norm.mean_sq.mul_(factor**2)
        optimisers = optimisers_of(policy)
        for seed in range(2):
            rollout = random_rollout(policy, 5, 3, seed).to("cpu")
            rollout.rewards = rollout.rewards * factor
            algorithm.update(policy, optimisers, rollout, config, torch.Generator().manual_seed(seed))
        trained.append(dict(policy.named_parameters()))
    plain, scaled = trained
    for name, value in plain.items():
        assert torch.allclose(value, scaled[name], rtol=1e-3, atol=1e-5), name
