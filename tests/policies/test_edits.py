"""Edits of trained policies keep what they say they keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.adapters import folded, plain_adapters, transplant, truncated, updates_of
from lorasa_rllib.policies.folder import save_adapter
from lorasa_rllib.policies.merging import merged
from lorasa_rllib.policies.saved import names_of_adapters, saved
from lorasa_rllib.policies.teams import roles_of, team_of
from tests.helpers import ADAPTED, METHODS, make_policy, owner_tables, policies, team, teams
from tests.policies.test_acting import CLOSE, rows_of

EQUAL_SIZES = st.integers(2, 4).flatmap(lambda n: teams(min_agents=n, max_agents=n)).filter(
    lambda spec: len(set(spec.obs_sizes)) == 1
)  # fmt: skip


def acts(policy, obs, roles, mask):
    return LoadedPolicy(policy).act(obs, roles=roles, mask=mask)[0]


def outputs(policy, obs, roles, mask):
    """Everything a distribution consists of, which tells policies apart better than greedy actions.

    [N, ...], choices as the network's last layer has them: components come and go with the agents that have them.
    """
    loaded = LoadedPolicy(policy)
    rows = {"roles": roles, "available": mask}
    rows = {name: torch.as_tensor(x) for name, x in rows.items() if x is not None}
    found, _ = loaded.acting.step(torch.as_tensor(obs), **rows)
    if hasattr(found, "log_probs"):
        spec, log_probs = policy.config.spec, found.log_probs.clamp(min=-1e9).numpy()
        place, real = (table.reshape(spec.num_agents, -1) for table in spec.choice_table())
        rows = np.full((spec.num_agents, spec.action_size), -1e9, np.float32)
        agent, entry = np.nonzero(real)
        rows[agent, place[agent, entry]] = log_probs[agent, entry]
        return rows
    return np.concatenate(np.broadcast_arrays(found.mean.numpy(), found.std.numpy()), -1)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_merged_policies_act_alike_without_adapters_ids_and_roles(method, data):
    policy = data.draw(policies(method, recurrent=data.draw(st.booleans()))).float()
    obs, roles, mask = rows_of(policy)
    before = saved(policy)
    dense = merged(before, None if roles is None else roles.tolist())
    assert dense.config.owners.num_adapters == 0 and not any("lora" in name for name in dense.weights)
    if policy.config.network.recurrent:
        state = np.random.default_rng(0).standard_normal((len(obs), policy.config.network.hidden_size))
        found = [LoadedPolicy(p).act(obs, state, roles=roles, mask=mask) for p in (before, dense)]
        np.testing.assert_allclose(found[1][0], found[0][0], **CLOSE)
        np.testing.assert_allclose(found[1][1], found[0][1], **CLOSE)
    else:
        np.testing.assert_allclose(outputs(dense, obs, None, mask), outputs(before, obs, roles, mask), **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_every_agent_of_a_new_team_acts_as_its_source_did(method, data):
    policy = data.draw(policies(method, teams(min_agents=3))).float()
    spec = policy.config.spec
    before, (obs, roles, mask) = saved(policy), rows_of(policy)
    largest = [int(np.argmax(spec.obs_sizes)), int(np.argmax(spec.action_sizes))]
    source = data.draw(st.permutations(largest + data.draw(st.lists(st.integers(0, spec.num_agents - 1), max_size=4))))
    members = {f"new_{k}": spec.agents[n] for k, n in enumerate(source)}
    after = team_of(before, members)
    assert after.config.spec.agents == tuple(members) and after.critic is None
    of = [None if x is None else x[source] for x in (obs, roles, mask)]
    np.testing.assert_allclose(outputs(after, *of), outputs(before, obs, roles, mask)[source], **CLOSE)
    assert len(after.origin.edits) == 1


def test_a_team_grows_by_a_copy_that_then_has_weights_of_its_own():
    before = saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["lora"]).float())
    after = team_of(before, {"agent_0": "agent_0", "agent_1": "agent_1", "scout": "agent_1"})
    assert names_of_adapters(after.config) == ["agent_0", "agent_1", "scout"]
    assert after.weights["mlp.0.lora_A"].shape[0] == 3
    assert after.weights["mlp.0.weight"].shape[-1] == before.weights["mlp.0.weight"].shape[-1] + 1
    plain = plain_adapters(after, ["scout"])
    for name, update in updates_of(plain).items():
        assert update[2].abs().max() == 0 and update[1].abs().max() > 0
        a = plain.weights.get(f"{name}.lora_A")
        assert a is None or a[2].abs().max() > 0, "nothing to learn with"
    for name, bank in plain.weights.items():
        np.testing.assert_array_equal(bank[:2], after.weights[name][:2])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "at least one agent"),
        ({"a": "nobody"}, "no agents"),
        ({"a": "agent_0"}, "keep one of the largest agents"),
    ],
)
def test_teams_that_cannot_be_made_are_refused(members, message):
    before = saved(make_policy(team((3, 4), (2, 2)), owner_tables(2)["lora"]).float())
    with pytest.raises(ValueError, match=message):
        team_of(before, members)


def test_roles_grow_and_change_places():
    policy = make_policy(team((3,) * 4, (2,) * 4), owner_tables(4)["role"]).float()
    before, (obs, _, mask) = saved(policy), rows_of(policy)
    after = roles_of(before, [2, 0, 1, 0])
    assert after.config.owners.num_adapters == after.config.spec.num_roles == 4
    found = outputs(after, obs, np.array([0, 1, 2, 3]), mask)
    np.testing.assert_allclose(found, outputs(before, obs, np.array([2, 0, 1, 0]), mask), **CLOSE)
    with pytest.raises(ValueError, match="roles from 0 to 2"):
        roles_of(before, [3])
    with pytest.raises(ValueError, match="not keyed by role"):
        roles_of(saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["lora"]).float()), [0])


@pytest.mark.parametrize("method", ADAPTED)
@given(data=st.data())
def test_truncation_is_exact_at_the_rank_there_is_and_best_below(method, data):
    policy = data.draw(policies(method)).float()
    before, rows = saved(policy), rows_of(policy)
    enough = max([4, *(min(u.shape[1:]) for u in updates_of(before).values())])
    same, changes = truncated(before, enough)
    assert all(change.relative_error < 1e-4 for change in changes)
    np.testing.assert_allclose(outputs(same, *rows), outputs(before, *rows), rtol=1e-3, atol=1e-3)
    less, changes = truncated(before, 1)
    errors = iter(changes)
    for name, update in updates_of(before).items():
        kept = updates_of(less)[name]
        for k in range(len(update)):
            s = torch.linalg.svdvals(update[k].double())
            best = 0.0 if min(update.shape[1:]) <= 1 else float(s[1:].norm() / s.norm())
            found = float((update[k] - kept[k]).norm() / update[k].norm())
            assert found == pytest.approx(best, abs=1e-4) and next(errors).relative_error == pytest.approx(
                found, abs=1e-4
            )


@pytest.mark.parametrize("method", [m for m in ADAPTED if not m.startswith(("nps", "seps"))])
@given(data=st.data())
def test_folding_is_exact_with_rank_enough_and_takes_out_what_adapters_share(method, data):
    policy = data.draw(policies(method)).float()
    before, (obs, roles, mask) = saved(policy), rows_of(policy)
    if roles is not None:
        roles = np.where((roles < 0) | (roles >= policy.config.owners.num_adapters), 0, roles)  # see the next test
    after, changes = folded(before, r=16)
    assert all(change.relative_error < 1e-3 for change in changes)
    np.testing.assert_allclose(
        outputs(after, obs, roles, mask), outputs(before, obs, roles, mask), rtol=2e-3, atol=2e-3
    )
    width = {name: layer.in_size for name, layer in before.actor().named_modules() if hasattr(layer, "in_size")}
    for name, update in updates_of(after).items():
        assert update[..., : width[name]].mean(0).abs().max() < 1e-4


def test_folding_at_the_same_rank_reports_what_it_costs():
    before = saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["lora"], LoRAConfig(r=1)).float())
    after, changes = folded(before)
    assert after.config.lora == before.config.lora and len(changes) == 2 * len(updates_of(before))
    assert max(change.relative_error for change in changes) > 0.01
    with pytest.raises(ValueError, match="one shared backbone"):
        folded(saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["seps_lora"]).float()))
    with pytest.raises(ValueError, match="has no adapters"):
        folded(saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["ps"]).float()))


@pytest.mark.parametrize("through_files", [False, True])
@pytest.mark.parametrize("settings", [{}, {"r": 1}, {"lora_alpha": 2.0}, {"use_rslora": True, "r": 2}])
def test_a_transplanted_adapter_has_the_effect_it_had(settings, through_files, tmp_path):
    spec = team((3,) * 3, (2,) * 3)
    target = saved(make_policy(spec, owner_tables(3)["lora"], LoRAConfig(r=2), seed=1).float())
    policy = make_policy(spec, owner_tables(3)["lora"], LoRAConfig(**{"r": 2, **settings}), seed=2).float()
    source = saved(policy)
    if through_files:
        path = save_adapter(source, "agent_0", tmp_path / "adapter")
        after = transplant(target, "agent_2", path)
    else:
        after = transplant(target, "agent_2", source, "agent_0")
    for name, update in updates_of(after).items():
        torch.testing.assert_close(update[2], updates_of(source)[name][0])
        torch.testing.assert_close(update[:2], updates_of(target)[name][:2], rtol=0, atol=0)
    torch.testing.assert_close(after.weights["log_std.delta"][2], source.weights["log_std.delta"][0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 3}, "truncate it first"),
        ({"target_modules": ("head",)}, "no part on layer mlp.0"),
        ({"adapt_bias": True}, "also adapts"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(settings, message):
    spec = team((6,) * 2, (4,) * 2)
    lora = LoRAConfig(r=2)
    target = saved(make_policy(spec, owner_tables(2)["lora"], lora).float())
    source = saved(make_policy(spec, owner_tables(2)["lora"], replace(lora, **settings)).float())
    with pytest.raises(ValueError, match=message):
        transplant(target, "agent_0", source, "agent_1")
    with pytest.raises(ValueError, match="no adapter 'nobody'; it has agent_0, agent_1"):
        transplant(target, "nobody", source, "agent_1")


@pytest.mark.parametrize("r", [2, 8], ids=["factored", "dense"])
def test_adapters_of_other_observations_are_refused(r):
    lora = LoRAConfig(r=r)
    target, source = (
        saved(make_policy(team((size,) * 2, (4,) * 2), owner_tables(2)["lora"], lora).float()) for size in (6, 4)
    )
    with pytest.raises(ValueError, match=r"other sizes on layer mlp\.0"):
        transplant(target, "agent_0", source, "agent_1")
