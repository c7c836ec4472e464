"""Parts of the update that are off by default: advantages recomputed before every pass, passes that end early."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.a2po import A2POSettings, SequentialUpdate
from lorasa_rllib.learning.a2po.log import Stepped
from lorasa_rllib.learning.batch import MAPPOSettings, in_sequences, prepare, standardise, targets_of
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import make_policy, owner_tables, random_rollout, seeded, team
from tests.learning.helpers import SETTINGS, UNEQUAL, experienced, minibatches, optimisers_of, take_step, uneven_rollout
from tests.learning.test_mappo import train_together

AGAIN = dataclasses.replace(SETTINGS, num_epochs=3, recompute_advantages=True)


def policy_and_rollout(method="lora", spec=UNEQUAL):
    owners = owner_tables(3)[method] if len(spec.agents) == 3 else owner_tables(2)["ps"]
    policy = experienced(make_policy(spec, owners, critic_input="agent_state"))
    return policy, random_rollout(policy, 8, 3).to("cpu")


@pytest.mark.parametrize("minibatch_size", [None, 7])
def test_every_pass_learns_from_what_the_critic_then_says(minibatch_size):
    policy, rollout = policy_and_rollout()
    settings = dataclasses.replace(AGAIN, minibatch_size=minibatch_size)
    twin = copy.deepcopy(policy)
    mappo.update(policy, optimisers_of(policy), rollout, settings, seeded(0))
    optimisers, generator = optimisers_of(twin), seeded(0)
    batch, _ = prepare(twin, rollout, settings)
    normaliser = copy.deepcopy(twin.value_norm.state_dict())
    one = dataclasses.replace(settings, num_epochs=1)
    for number in range(3):
        if number:
            targets = targets_of(twin, rollout, settings)
            before = batch.values
            batch.values, batch.returns = (in_sequences(x, 1) for x in (targets.values, targets.returns))
            batch.targets = twin.value_norm.normalise(batch.returns)
            batch.advantages = in_sequences(standardise(targets.gains.expand(8, 3, 3), rollout.active), 1)
            assert not torch.equal(batch.values, before)
        for part in minibatches(batch, one, generator):
            take_step(twin, optimisers, part, settings, generator)
    torch.testing.assert_close(twin.state_dict(), policy.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(policy.value_norm.state_dict(), normaliser, rtol=0, atol=0)


def test_learners_recompute_together_as_one_with_all_of_the_data():
    policy, _ = policy_and_rollout()
    policy.config = dataclasses.replace(
        policy.config, network=dataclasses.replace(policy.config.network, distribution="gaussian")
    )
    settings = dataclasses.replace(AGAIN, entropy_coeff=0.0)
    rollout = uneven_rollout(policy)
    results = train_together(policy, rollout.split(2), settings)
    mappo.update(policy, optimisers_of(policy), rollout.to("cpu"), settings, seeded(0))
    for learner, _ in results:
        torch.testing.assert_close(learner.state_dict(), policy.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loop", ["agent", "epoch"])
def test_a2po_of_one_agent_recomputes_as_mappo_does(loop):
    spec = team((3,), (2,))
    policy = experienced(
        make_policy(spec, dataclasses.replace(owner_tables(2)["ps"], backbone_of=(0,), critic_of=(0,)))
    )
    rollout = random_rollout(policy, 8, 3).to("cpu")
    numbers = {"num_epochs": 3, "recompute_advantages": True, "value_coeff": 0.7}
    twin = copy.deepcopy(policy)
    mappo.update(policy, optimisers_of(policy), rollout, MAPPOSettings(**numbers), seeded(0))
    settings = A2POSettings(**numbers, two_stage=False, correction=None, loop=loop)
    a2po.update(twin, optimisers_of(twin), rollout, settings, seeded(0))
    torch.testing.assert_close(twin.state_dict(), policy.state_dict(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loop", ["agent", "epoch"])
@pytest.mark.parametrize("method", ["lora", "role"])
def test_a2po_recomputes_before_every_pass(loop, method):
    policy, rollout = policy_and_rollout(method)
    settings = A2POSettings(num_epochs=2, recompute_advantages=True, loop=loop, two_stage=False)
    update = SequentialUpdate(policy, optimisers_of(policy), rollout, settings, lambda choices: 0, seeded(1))
    found, critic = [], copy.deepcopy(policy)

    def watch(event):
        nonlocal critic
        if isinstance(event, Stepped):
            now = targets_of(critic, rollout, settings).values
            found.append(torch.allclose(update.advantages.targets.values, now, rtol=1e-12, atol=1e-12))
            critic = copy.deepcopy(policy)

    update.run(watch)
    steps = len(update.order) * 2
    assert len(found) == steps
    first_of_passes = range(steps) if loop == "agent" else (0, steps // 2)
    assert [k for k, same in enumerate(found) if same] == list(first_of_passes)


@pytest.mark.parametrize(("size", "lr", "target_kl"), [(None, 0.01, 0.02), (5, 0.0004, 0.08)])
def test_passes_end_when_the_policy_has_moved_far_enough(size, lr, target_kl):
    settings = dataclasses.replace(SETTINGS, num_epochs=10, minibatch_size=size, target_kl=target_kl)
    policy, rollout = policy_and_rollout()
    with torch.no_grad():
        rollout.log_probs = policy.distribution(rollout.obs).log_prob(rollout.actions)
    twin = copy.deepcopy(policy)
    log = mappo.update(policy, optimisers_of(policy, lr), rollout, settings, seeded(0))
    passes = int(log["passes"])
    assert 1 < passes < 10
    plain = dataclasses.replace(settings, num_epochs=passes, target_kl=None)
    mappo.update(twin, optimisers_of(twin, lr), rollout, plain, seeded(0))
    torch.testing.assert_close(twin.state_dict(), policy.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("target_kl", [0.02, 0.2, 1e9])
def test_learners_end_their_passes_together(target_kl):
    policy, _ = policy_and_rollout()
    settings = dataclasses.replace(SETTINGS, num_epochs=6, target_kl=target_kl, entropy_coeff=0.0)
    rollout = uneven_rollout(policy)
    results = train_together(policy, rollout.split(2), settings)
    alone = mappo.update(policy, optimisers_of(policy), rollout.to("cpu"), settings, seeded(0))
    assert [int(log["passes"]) for _, log in results] == [int(alone["passes"])] * 2
    torch.testing.assert_close(results[0][0].state_dict(), policy.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loop", ["agent", "epoch"])
def test_a2po_ends_passes_of_what_moved_far_enough(loop):
    policy, rollout = policy_and_rollout()
    counts = {}
    for target_kl in (1e-12, 1e9):
        settings = A2POSettings(num_epochs=4, target_kl=target_kl, loop=loop, two_stage=False)
        trained = copy.deepcopy(policy)
        update = SequentialUpdate(trained, optimisers_of(trained), rollout, settings, lambda choices: 0, seeded(1))
        counts[target_kl] = [step.position for step in update.run()]
    units = len(update.order)
    assert len(counts[1e9]) == 4 * units and counts[1e-12] == list(range(1, units + 1))


@pytest.mark.parametrize("loop", ["agent", "epoch"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", ["ps", "lora", "role", "nps"])
def test_minibatches_of_a2po_are_disjoint_parts_of_each_pass(method, recurrent, loop):
    network = NetworkConfig(hidden_size=5, recurrent=recurrent, critic_recurrent=recurrent)
    policy = experienced(make_policy(UNEQUAL, owner_tables(3)[method], network=network, critic_input="agent_state"))
    rollout = random_rollout(policy, 8, 3, seed=2).to("cpu")
    numbers = {"num_epochs": 2, "chunk_length": 2, "loop": loop, "two_stage": False}
    results = {}
    for size in (None, 24, 6):
        trained = copy.deepcopy(policy)
        settings = A2POSettings(**numbers, minibatch_size=size)
        update = SequentialUpdate(trained, optimisers_of(trained), rollout, settings, lambda choices: 0, seeded(1))
        steps = update.run()
        results[size] = trained.state_dict(), steps
        ratios = copy.deepcopy(update.ratios)
        ratios.refresh()
        torch.testing.assert_close(update.ratios.log_ratio, ratios.log_ratio, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(results[24][0], results[None][0], rtol=0, atol=0)
    whole, parts = results[None][1], results[6][1]
    assert len(parts) == 4 * len(whole)
    for k, step in enumerate(whole):
        mine = parts[4 * k : 4 * k + 4]
        assert {(part.unit.name, part.position) for part in mine} == {(step.unit.name, step.position)}
        for name in ("live", "value_rows"):
            assert sum(part.stats[name] for part in mine) == step.stats[name]


def test_a2po_of_one_agent_takes_the_minibatches_that_mappo_would():
    spec = team((3,), (2,))
    policy = experienced(
        make_policy(spec, dataclasses.replace(owner_tables(2)["ps"], backbone_of=(0,), critic_of=(0,)))
    )
    rollout = random_rollout(policy, 8, 3).to("cpu")
    numbers = {"num_epochs": 1, "minibatch_size": 7, "entropy_coeff": 0.0}
    twin, generator = copy.deepcopy(policy), seeded(3)
    mappo.update(policy, optimisers_of(policy), rollout, MAPPOSettings(**numbers), generator)
    settings = A2POSettings(**numbers, two_stage=False, correction=None)
    update = SequentialUpdate(twin, optimisers_of(twin), rollout, settings, lambda choices: 0, seeded(3))
    update.run()
    torch.testing.assert_close(twin.actor.state_dict(), policy.actor.state_dict(), rtol=1e-9, atol=1e-10)
