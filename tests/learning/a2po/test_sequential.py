"""The A2PO update: caches are fresh, slices are wholes, units are owners, and learners together act like one."""

from __future__ import annotations

import copy
import dataclasses
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.learning import a2po
from lorasa_rllib.learning.a2po import A2POSettings, SequentialUpdate, unit_step
from lorasa_rllib.learning.a2po.log import Corrected, Stepped
from lorasa_rllib.learning.a2po.units import AgentUnit, RoleUnit, Unit, moved_by, reaching_others, units_of
from lorasa_rllib.learning.batch import in_time, prepare, standardise
from lorasa_rllib.learning.flat import Leaves
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import METHODS, make_policy, owner_tables, policies, random_rollout, row_by_row, seeded, team, teams
from tests.learning.helpers import CASES, UNEQUAL, Learners, experienced, optimisers_of, uneven_rollout

SETTINGS = A2POSettings(num_epochs=2, chunk_length=2, max_grad_norm=0.3, value_coeff=0.7)
LOOPS = {"agent": SETTINGS, "epoch": dataclasses.replace(SETTINGS, loop="epoch", two_stage=False)}
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def with_phase(policy, phase):
    policy.set_phase(phase)
    return policy


def sequence(policy, rollout, config, seed=0):
    generator = seeded(seed)

    def pick(left):
        return int(torch.randint(left, (1,), generator=generator))

    return SequentialUpdate(policy, optimisers_of(policy), rollout.to("cpu"), config, pick, generator)


# Units


def test_units_are_the_owners_of_what_trains():
    agents, pairs = [(0,), (1,), (2,), (3,)], [(0, 2), (1, 3)]
    spec = team((2,) * 4, (2,) * 4)
    expected = {
        ("ps", "backbone"): agents,
        ("lora", "backbone"): agents,
        ("lora", "adapters"): agents,
        ("lora", "joint"): agents,
        ("lora_groups", "adapters"): pairs,
        ("lora_groups", "joint"): pairs,
        ("lora_one_for_all", "adapters"): agents,
        ("nps", "backbone"): agents,
        ("nps_lora_one_for_all", "backbone"): agents,
        ("nps_lora_one_for_all", "adapters"): agents,
        ("seps", "backbone"): pairs,
        ("seps_lora", "backbone"): pairs,
        ("seps_lora", "adapters"): agents,
        ("mtl", "backbone"): agents,
        ("role", "backbone"): agents,
    }
    for (method, phase), groups in expected.items():
        policy = with_phase(make_policy(spec, owner_tables(4)[method]), phase)
        assert set(units_of(policy)) == set(map(AgentUnit, groups)), (method, phase)
    roles = with_phase(make_policy(spec, owner_tables(4)["role"]), "adapters")
    assert units_of(roles) == [RoleUnit((0,)), RoleUnit((1,)), RoleUnit((2,))]


@pytest.mark.parametrize(("method", "phase"), CASES)
def test_who_moves_with_a_unit_is_who_shares_weights_with_it(method, phase):
    """Against gradients: an agent moves if what the unit trains is among the weights its own policy reads."""
    policy = with_phase(make_policy(UNEQUAL, owner_tables(3)[method]), phase)
    if policy.config.owners.routed_by == "role":
        for unit in units_of(policy):
            assert (moved_by(policy, unit) is None) == (phase == "joint" or isinstance(unit, AgentUnit))
        return
    obs = torch.randn(2, 3, 4, dtype=torch.double)
    trained = [p for p in policy.actor.parameters() if p.requires_grad]

    def reads(agents):
        out = policy.distribution(obs).mean[:, list(agents)].sum()
        grads = torch.autograd.grad(out, trained, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, grads, strict=True)]

    def overlap(grad, other):
        return bool(((grad != 0).flatten(1).any(1) & (other != 0).flatten(1).any(1)).any())

    for unit in units_of(policy):
        mine = reads(unit.members)
        shares = [n for n in range(3) if any(map(overlap, mine, reads((n,))))]
        moved = moved_by(policy, unit)
        assert shares == list(range(3) if moved is None else moved.members), unit
    reaches = [moved_by(policy, unit) != unit for unit in units_of(policy)]
    assert reaching_others(policy, units_of(policy)) == reaches


# The update


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("method", "phase"), CASES)
@settings(max_examples=2)
@given(data=st.data())
def test_cached_ratios_match_the_current_policy(method, phase, recurrent, loop, data):
    """After every unit, whatever was evaluated again and whatever was not; and corrections read them."""
    policy = data.draw(policies(method, teams(shared_reward=data.draw(st.booleans())), recurrent=recurrent))
    policy.set_phase(phase)
    rollout = random_rollout(policy, 4, 3, seed=data.draw(st.integers(0, 1000)), noise=0.0)
    together, again = data.draw(st.sampled_from([1, 2])), not recurrent and data.draw(st.booleans())
    config = dataclasses.replace(LOOPS[loop], units_per_step=together, recompute_advantages=again)
    run = sequence(policy, rollout, config)
    batch, refresh, checked = run.batch, run.ratios.refresh, 0
    inputs = {"roles": batch.roles, "masks": batch.masks, "state": batch.actor_state, "keep": batch.actor_keep}

    def refresh_and_compare(unit=None):
        nonlocal checked
        refresh(unit)
        with torch.no_grad():
            fresh = policy.distribution(batch.obs, **inputs).log_prob(batch.actions)
        torch.testing.assert_close(run.ratios.log_probs, fresh, **EXACT)
        torch.testing.assert_close(run.ratios.log_ratio, run.ratios.log_ratio_of(fresh), **EXACT)
        checked += 1

    run.ratios.refresh = refresh_and_compare

    def watch(event):
        if isinstance(event, Corrected):  # of those that are done, and of the unit itself
            with torch.no_grad():
                table = run.ratios.log_ratio_of(policy.distribution(batch.obs, **inputs).log_prob(batch.actions))
            acted = run.order if event.unit is None else run.order[: run.order.index(event.unit) + 1]
            product = table.sum(-1) if event.unit is None else Unit.joined(acted).log_product(table, batch.roles)
            torch.testing.assert_close(event.log_ratios, in_time(product, rollout.num_envs), **EXACT)

    steps = run.run(watch)
    assert not all(step.critic_only for step in steps) and checked >= len(run.order)


@pytest.mark.parametrize("loop", LOOPS)
def test_roles_are_corrected_for_what_agents_remember_from_the_steps_of_others(loop):
    """A role's step moves the hidden states, and so the ratios, of those roles that its agents have later on."""
    policy = make_policy(UNEQUAL, owner_tables(3)["role"], network=NetworkConfig(hidden_size=5, recurrent=True))
    policy.set_phase("adapters")
    config, stale = dataclasses.replace(LOOPS[loop], chunk_length=4), 0
    for seed in range(3):
        rollout = random_rollout(policy, 8, 3, noise=0.0, seed=seed, chunk_length=4)
        run = sequence(copy.deepcopy(policy), rollout, config)
        batch = run.batch
        inputs = {"roles": batch.roles, "masks": batch.masks, "state": batch.actor_state, "keep": batch.actor_keep}
        corrections = []

        def watch(event, run=run, inputs=inputs, corrections=corrections):
            if isinstance(event, Stepped) or event.unit is None:
                return
            batch, place = run.batch, run.order.index(event.unit)
            with torch.no_grad():
                now = run.ratios.log_ratio_of(run._policy.distribution(batch.obs, **inputs).log_prob(batch.actions))
            product = Unit.joined(run.order[: place + 1]).log_product(now, batch.roles)
            torch.testing.assert_close(event.log_ratios, in_time(product, run._num_envs), **EXACT)
            corrections.append((place, run.order[0].log_product(now, batch.roles)))

        run.run(watch)
        for (_, then), (place, now) in pairwise(corrections):
            if place > 1:  # the first unit's own ratios, since they were those of the unit last done
                stale += not torch.allclose(then, now)
    assert stale  # otherwise nothing was at stake


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("method", "phase"), CASES)
def test_training_slices_is_training_wholes(method, phase, loop, monkeypatch):
    policy = with_phase(make_policy(UNEQUAL, owner_tables(3)[method], network=NetworkConfig(hidden_size=4)), phase)
    twin = copy.deepcopy(policy)
    rollout = random_rollout(policy, 4, 3, dead=(1,))
    sequence(policy, rollout, LOOPS[loop]).run()

    def whole(policy, optimiser, unit, group):
        return Leaves(optimiser.parts)

    monkeypatch.setattr(unit_step, "leaves_of", whole)
    sequence(twin, rollout, LOOPS[loop]).run()
    torch.testing.assert_close(policy.state_dict(), twin.state_dict(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loop", LOOPS)
def test_losses_of_several_components_are_sums_over_agents_steps_and_components(loop, monkeypatch):
    """Every step's loss and the ratios of the others against loops, with distributions worked out row by row."""
    spec = team((3, 2, 3), (5, 4, 3), continuous=False, choices=((2, 3), (4,), (3,)), has_masks=True)
    policy = with_phase(make_policy(spec, owner_tables(3)["lora"], network=NetworkConfig(hidden_size=4)), "adapters")
    config = dataclasses.replace(LOOPS[loop], entropy_coeff=0.0, value_coeff=0.0)
    run = sequence(policy, random_rollout(policy, 2, 2, noise=0.0), config)
    batch, unit_sums, compared = run.batch, unit_step.unit_sums, 0

    def log_probs(agent):
        """[C, components] of the actions that an agent took, by its present policy."""
        obs, masks = batch.obs[0, :, agent], batch.masks[0, :, agent]
        with torch.no_grad():
            rows = row_by_row(policy, obs, torch.full((len(obs),), agent), masks=masks)
        each = rows.view(len(obs), spec.action_dims, -1)
        drawn = each.gather(-1, batch.actions[0, :, agent].unsqueeze(-1)).squeeze(-1)
        return drawn[:, : len(spec.choices[agent])]

    def looped(unit, rows, others, clip):
        (agent,) = unit.members
        new, loss = log_probs(agent), 0.0
        for c in range(len(batch)):
            if not batch.active[0, c, agent]:
                continue
            gain, factor = rows.advantages[0, c, 0].item(), others[0, c, 0].item()
            for d in range(new.shape[1]):
                weight = (new[c, d] - batch.log_probs[0, c, agent, d]).exp().item() * factor
                loss -= min(weight * gain, min(max(weight, 1 - clip), 1 + clip) * gain)
        return loss

    def others_of(unit, done):
        """[C]: the product of the others' mean ratios, kept within its limits."""
        product = torch.ones(len(batch), dtype=torch.double)
        for agent in done:
            real = len(spec.choices[agent])
            ratio = (log_probs(agent) - batch.log_probs[0, :, agent, :real]).exp().mean(-1)
            product = product * torch.where(batch.active[0, :, agent], ratio, 1.0)
        return product.clamp(1 - config.others_clip, 1 + config.others_clip)

    def compare(policy, values, rows, others, settings, *more):
        nonlocal compared
        loss, sums = unit_sums(policy, values, rows, others, settings, *more)
        if rows is None:
            return loss, sums
        (agent,) = rows.agent
        place = run.order.index(AgentUnit((agent,)))
        everyone = [other for other in range(3) if other != agent]
        done = [unit.name for unit in run.order[:place]] if loop == "agent" else everyone
        torch.testing.assert_close(others[0, :, 0], others_of(agent, done), **EXACT)
        assert loss.item() == pytest.approx(looped(run.order[place], rows, others, settings.clip), rel=1e-8, abs=1e-10)
        compared += 1
        return loss, sums

    monkeypatch.setattr(unit_step, "unit_sums", compare)
    run.run()
    assert compared == 3 * config.num_epochs


def test_a_unit_trains_only_its_own_weights():
    policy = with_phase(make_policy(UNEQUAL, owner_tables(3)["lora"]), "adapters")
    before = copy.deepcopy(policy.parameters_of("adapters"))
    run = sequence(policy, random_rollout(policy, 4, 3), SETTINGS)

    def watch(event):
        if isinstance(event, Stepped) and not event.critic_only:
            done = {unit.name for unit in run.order[: event.position]}
            for name, parameter in policy.parameters_of("adapters").items():
                moved = {n for n in range(3) if not torch.equal(parameter[n], before[name][n])}
                assert moved == done, name

    run.run(watch)


def test_the_first_unit_takes_a_plain_step_and_later_ones_are_corrected():
    """With one epoch and no clipping of the others, position 1 is MAPPO on its own rows; position 2 is not."""
    policy = experienced(with_phase(make_policy(UNEQUAL, owner_tables(3)["nps"]), "backbone"))
    rollout = random_rollout(policy, 6, 3)
    expected, _ = prepare(copy.deepcopy(policy), rollout.to("cpu"), SETTINGS)
    run = sequence(policy, rollout, SETTINGS)
    first = run.advantages.gains.clone()
    torch.testing.assert_close(standardise(first, rollout.to("cpu").active).flatten(0, 1), expected.advantages[0])
    events = []
    run.run(events.append)
    corrected = [event for event in events if isinstance(event, Corrected)]
    assert [event.unit for event in corrected] == run.order[1:]
    changed = [not torch.equal(run.advantages.gains[..., n], first[..., n]) for n in range(3)]
    assert changed == [AgentUnit((n,)) != run.order[0] for n in range(3)]
    for event in corrected:
        assert event.log_ratios.abs().max() > 0


@pytest.mark.parametrize("units_per_step", [1, 2, 5])
def test_units_may_move_together(units_per_step):
    policy = with_phase(make_policy(UNEQUAL, owner_tables(3)["lora"]), "adapters")
    config = dataclasses.replace(SETTINGS, units_per_step=units_per_step, agent_order="cyclic")
    run = sequence(policy, random_rollout(policy, 4, 3), config)
    steps = run.run()
    groups = {1: [(0,), (1,), (2,)], 2: [(0, 1), (2,)], 5: [(0, 1, 2)]}[units_per_step]
    assert [unit.members for unit in run.order] == groups
    assert {event.clip for event in steps} == {config.clip_at(k, len(groups)) for k in range(1, len(groups) + 1)}


def test_the_clip_range_grows_to_its_full_width():
    config = A2POSettings(clip=0.2, clip_growth=0.5)
    assert [config.clip_at(k, 4) for k in (1, 2, 3, 4)] == pytest.approx([0.125, 0.15, 0.175, 0.2])
    assert dataclasses.replace(config, clip_growth=0.0).clip_at(1, 4) == 0.2


# Several learners


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", ["ps", "lora", "nps", "seps_lora", "mtl", "role"])
def test_two_learners_with_uneven_shards_equal_one_with_all_of_the_data(method, recurrent, loop):
    spec = team((4, 2, 3), (2, 3, 1), shared_reward=False)
    network = NetworkConfig(hidden_size=5, recurrent=recurrent, critic_recurrent=recurrent)
    policy = experienced(make_policy(spec, owner_tables(3)[method], network=network, critic_input="agent_state"))
    rollout, learners, results = uneven_rollout(policy), Learners(2), [None, None]
    if rollout.roles is not None:
        rollout.roles[:, :2][rollout.roles[:, :2] == 2] = 0  # a role that only the second learner sees

    def train(rank, shard):
        mine = copy.deepcopy(policy)
        args = optimisers_of(mine), shard.to("cpu"), LOOPS[loop], seeded(0), learners.all_sum(rank)
        results[rank] = mine, a2po.update(mine, *args)

    threads = [threading.Thread(target=train, args=job) for job in enumerate(rollout.split(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = a2po.update(policy, optimisers_of(policy), rollout.to("cpu"), LOOPS[loop], seeded(0))
    for learner, its_log in results:
        torch.testing.assert_close(learner.state_dict(), policy.state_dict(), rtol=1e-7, atol=1e-8)
        named = {name: value for name, value in log.items() if name != "entropy"}  # it draws noise
        for name, value in named.items():
            torch.testing.assert_close(its_log[name], value, rtol=1e-4, atol=1e-5, check_dtype=False, msg=name)
    torch.testing.assert_close(results[0][0].state_dict(), results[1][0].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("method", METHODS)
def test_an_update_moves_what_the_phase_trains_and_logs_finite_means(method, loop):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    if policy.config.owners.num_adapters:
        policy.set_phase("adapters")
    before = copy.deepcopy(dict(policy.named_parameters()))
    rollout = random_rollout(policy, 4, 3).to("cpu")
    log = a2po.update(policy, optimisers_of(policy), rollout, LOOPS[loop], seeded(0))
    assert all(value.isfinite() for value in log.values())
    assert {name for name in log if name.startswith("position_")} >= {f"position_{k}/mean_kl_loss" for k in (1, 2)}
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
