"""The actor: all ways to compute it agree with one dense network per row, in values and in gradients."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.nn import bank
from lorasa_rllib.nn.acting import UnmergedActor
from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS, LoRAConfig
from lorasa_rllib.nn.merged import MergedActor
from lorasa_rllib.nn.network import OBS_NORMS, NetworkConfig
from lorasa_rllib.spec import Owners
from tests.helpers import (
    ADAPTED,
    BY_AGENT,
    METHODS,
    ROLES,
    gradients,
    make_policy,
    outputs,
    owner_tables,
    policies,
    random_masks,
    random_obs,
    random_roles,
    randomise,
    row_by_row,
    seeded,
    team,
)

PATHS = {"merged": 1, "factored": 10**9}
EXACT = {"rtol": 1e-9, "atol": 1e-10}
UNEQUAL = team((4, 2, 3), (2, 3, 1))


def team_inputs(policy, *lead):
    spec, owners = policy.config.spec, policy.config.owners
    return random_obs(spec, *lead, seed=1), random_roles(owners, *lead, seed=2), random_masks(spec, *lead, seed=3)


def flat(x, width):
    return None if x is None else x.reshape(-1, width) if width else x.reshape(-1)


def loop(policy, obs, roles, masks):
    """The loop over rows, in the layout of the team."""
    spec = policy.config.spec
    agents = torch.arange(spec.num_agents).expand(obs.shape[:-1]).reshape(-1)
    rows = row_by_row(policy, flat(obs, spec.obs_size), agents, flat(roles, 0), flat(masks, spec.action_size))
    return rows.view(*obs.shape[:-1], *rows.shape[1:])


def assert_equal_values_and_gradients(policy, actual, expected):
    torch.testing.assert_close(actual, expected, **EXACT)
    real = expected > -1e9  # unavailable choices have no gradient
    weights = torch.randn(actual.shape, generator=seeded(4), dtype=actual.dtype)
    ours, theirs = (gradients((weights * torch.where(real, y, 0.0)).sum(), policy.actor) for y in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(data=st.data())
def test_a_team_forward_equals_one_dense_network_per_row(method, path, data):
    policy = data.draw(policies(method))
    lead = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    obs, roles, masks = team_inputs(policy, *lead)
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        actual = outputs(policy.distribution(obs, roles=roles, masks=masks))
    assert_equal_values_and_gradients(policy, actual, loop(policy, obs, roles, masks))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6)
@given(data=st.data())
def test_flat_rows_in_any_order_equal_one_dense_network_per_row(method, path, data):
    policy = data.draw(policies(method))
    spec = policy.config.spec
    agents = torch.tensor(  # very uneven counts, agents without a row included
        data.draw(st.lists(st.sampled_from([0, 0, 0, 0, *range(spec.num_agents)]), min_size=1, max_size=9))
    )
    rows = torch.arange(len(agents))
    obs, roles, masks = (None if x is None else x[rows, agents] for x in team_inputs(policy, len(agents)))
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        actual = outputs(policy.distribution(obs, agent=agents, roles=roles, masks=masks))
    assert_equal_values_and_gradients(policy, actual, row_by_row(policy, obs, agents, roles, masks))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5)
@given(data=st.data())
def test_one_agent_at_a_time_equals_the_team_forward(method, path, data):
    policy = data.draw(policies(method))
    obs, roles, masks = team_inputs(policy, 3, 2)
    whole = outputs(policy.distribution(obs, roles=roles, masks=masks))
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        one_by_one = [
            outputs(
                policy.distribution(
                    obs[..., n, :],
                    agent=n,
                    roles=None if roles is None else roles[..., n],
                    masks=None if masks is None else masks[..., n, :],
                )
            )
            for n in range(policy.config.spec.num_agents)
        ]
    assert_equal_values_and_gradients(policy, torch.stack(one_by_one, 2), whole)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(data=st.data())
def test_the_merged_actor_answers_like_the_actor(method, data):
    policy = data.draw(policies(method))
    obs, roles, masks = team_inputs(policy, 3)
    expected = outputs(policy.distribution(obs, roles=roles, masks=masks))
    if policy.actor.router.by_role and policy.actor.obs_mask is not None:
        assert isinstance(policy.acting(), UnmergedActor)  # what is padded differs from row to row
    else:
        merged = MergedActor(policy.actor)
        torch.testing.assert_close(outputs(merged.step(obs, roles=roles, available=masks)[0]), expected, **EXACT)
    shared, expected = MergedActor(policy.actor, adapters=False), policy.actor(obs, masks=masks, adapters=False)
    torch.testing.assert_close(outputs(shared.step(obs, available=masks)[0]), outputs(expected), **EXACT)


@pytest.mark.parametrize("form", [MergedActor, UnmergedActor])
def test_a_step_refuses_arguments_that_it_does_not_know(form):
    acting = form(make_policy(UNEQUAL, owner_tables(3)["lora"]).actor, True)
    for unknown in ("role", "masks", "keep", "adapters", "state"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{unknown}'"):
            acting.step(random_obs(UNEQUAL, 2), **{unknown: None})


@settings(max_examples=10)
@given(data=st.data(), recurrent=st.booleans())
def test_some_agents_act_as_they_do_in_the_team(data, recurrent):
    policy = data.draw(policies(data.draw(st.sampled_from(METHODS)), recurrent=recurrent))
    n = policy.config.spec.num_agents
    some = tuple(data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))])
    obs, roles, masks = team_inputs(policy, 3)
    shape = 3, n, policy.config.network.hidden_size
    hidden = torch.randn(shape, generator=seeded(4), dtype=torch.double) if recurrent else None
    given = {"roles": roles, "available": masks, "hidden": hidden}
    of_some = {name: None if x is None else x[:, list(some)] for name, x in given.items()}
    for acting in (policy.acting(), UnmergedActor(policy.actor, policy.adapters_on)):
        whole, after = acting.step(obs, **given)
        one, mine = acting.step(obs[:, list(some)], agents=some, **of_some)
        torch.testing.assert_close(outputs(one), outputs(whole)[:, list(some)], **EXACT)
        assert (mine is None) == (after is None)
        if after is not None:
            torch.testing.assert_close(mine, after[:, list(some)], **EXACT)


def test_a_merged_actor_does_not_follow_later_changes():
    policy = make_policy(UNEQUAL, owner_tables(3)["seps_lora"])
    obs = random_obs(UNEQUAL, 2)
    merged = MergedActor(policy.actor)
    before = outputs(merged.step(obs)[0])
    randomise(policy, seed=9)
    torch.testing.assert_close(outputs(merged.step(obs)[0]), before, rtol=0, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_rows_without_a_role_meet_the_plain_backbone(path):
    policy = make_policy(team((3,) * 4, (2,) * 4), owner_tables(4)["role"])
    obs = random_obs(policy.config.spec, 5)
    expected = outputs(policy.actor(obs, adapters=False))
    for nobody in (-1, ROLES, 10**6):
        roles = torch.full(obs.shape[:-1], nobody)
        with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
            actual = outputs(policy.distribution(obs, roles=roles))
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(outputs(policy.acting().step(obs, roles=roles)[0]), expected, rtol=1e-12, atol=1e-13)
    loss = outputs(policy.distribution(obs, roles=torch.full(obs.shape[:-1], -1))).sum()
    grads = gradients(loss, policy.actor)
    assert not any(grad.any() for name, grad in grads.items() if name.endswith(ADAPTER_PARAMETERS))


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_roles_permuted_together_with_the_adapters_change_nothing(recurrent):
    spec, owners = team((3,) * 4, (3,) * 4, False), owner_tables(4)["role"]
    policy = make_policy(spec, owners, network=NetworkConfig(hidden_size=5, recurrent=recurrent))
    obs, roles, masks = team_inputs(policy, 6, 2)
    place = torch.tensor([2, 0, 1])  # role k becomes place[k]
    moved = make_policy(spec, owners, network=policy.config.network)
    moved.load_state_dict(policy.state_dict())
    with torch.no_grad():
        for name, bank_of in moved.parameters_of("adapters").items():
            bank_of[place] = dict(policy.parameters_of("adapters"))[name]
    known = (roles >= 0) & (roles < ROLES)
    renamed = torch.where(known, place[roles.clamp(0, ROLES - 1)], roles)
    first, second = (
        policy.distribution(obs, roles=roles, masks=masks),
        moved.distribution(obs, roles=renamed, masks=masks),
    )
    torch.testing.assert_close(outputs(second), outputs(first), **EXACT)
    torch.testing.assert_close(second.sample(seeded(1)), first.sample(seeded(1)), rtol=0, atol=0)
    weights = torch.rand(obs.shape[:-1], generator=seeded(2), dtype=obs.dtype)
    losses = [(weights * d.log_prob(first.mode())[..., 0]).sum() for d in (first, second)]
    ours, theirs = gradients(losses[0], policy.actor), gradients(losses[1], moved.actor)
    for name, grad in ours.items():
        other = theirs[name][place] if name.endswith(ADAPTER_PARAMETERS) else theirs[name]
        torch.testing.assert_close(other, grad, rtol=1e-7, atol=1e-9)


def test_adapters_keyed_by_role_need_a_roles_column():
    policy = make_policy(UNEQUAL, owner_tables(3)["role"])
    with pytest.raises(ValueError, match="cannot be merged where agents' observations differ"):
        MergedActor(policy.actor)
    with pytest.raises(ValueError, match="no roles column"):
        policy.distribution(random_obs(UNEQUAL, 2))


@pytest.mark.parametrize("init", ["lorasa", "peft"])
@settings(max_examples=10)
@given(data=st.data())
def test_fresh_adapters_reproduce_the_shared_policy(init, data):
    rank = data.draw(st.integers(1, 6))
    lora = LoRAConfig(r=rank, init_lora_weights=init)
    network = NetworkConfig(hidden_size=5)
    shared = make_policy(UNEQUAL, owner_tables(3)["ps"], network=network)
    adapted = make_policy(UNEQUAL, owner_tables(3)["lora"], lora, network)
    fresh = type(adapted)(adapted.config).double()
    fresh.set_phase("joint")
    backbone = dict(shared.actor.state_dict())
    assert not fresh.actor.load_state_dict(backbone, strict=False).unexpected_keys
    obs = random_obs(UNEQUAL, 4)
    expected = outputs(shared.distribution(obs))
    torch.testing.assert_close(outputs(fresh.distribution(obs)), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(outputs(MergedActor(fresh.actor).step(obs)[0]), expected, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(outputs(adapted.distribution(obs)), expected)


@pytest.mark.parametrize("method", ADAPTED)
def test_adapters_left_out_are_bit_equal_to_the_shared_policy_and_at_zero_equal_to_rounding(method):
    adapted = make_policy(UNEQUAL, owner_tables(3)[method], network=NetworkConfig(hidden_size=5, id_features="none"))
    owners = adapted.config.owners
    plain = make_policy(UNEQUAL, Owners("plain", owners.backbone_of), network=adapted.config.network)
    plain.actor.load_state_dict(
        {n: p for n, p in adapted.actor.state_dict().items() if n.rpartition(".")[2] not in ADAPTER_PARAMETERS}
    )
    obs, roles, _ = team_inputs(adapted, 4)
    expected = outputs(plain.distribution(obs))
    adapted.set_phase("backbone")
    exact = {"rtol": 1e-13, "atol": 1e-14} if roles is not None else {"rtol": 0, "atol": 0}  # sorted rows, other shapes
    torch.testing.assert_close(outputs(adapted.distribution(obs, roles=roles)), expected, **exact)
    adapted.set_phase("adapters")
    assert not torch.allclose(outputs(adapted.distribution(obs, roles=roles)), expected)
    with torch.no_grad():
        for parameter in adapted.parameters_of("adapters").values():
            parameter.zero_()
    torch.testing.assert_close(outputs(adapted.distribution(obs, roles=roles)), expected, rtol=1e-13, atol=1e-14)


@settings(max_examples=10)
@given(capacity=st.integers(3, 6), method=st.sampled_from(["ps", "lora", "nps", "seps_lora"]), rank=st.integers(1, 5))
def test_id_features_equal_a_dense_one_hot_appended_after_the_feature_norm(capacity, method, rank):
    spec = team((4, 2, 3), (2, 3, 1), id_capacity=capacity)
    policy = make_policy(spec, owner_tables(3)[method], LoRAConfig(r=rank), NetworkConfig(hidden_size=5))
    actor, obs = policy.actor, random_obs(spec, 4)
    rows = actor.router.layout(obs)
    x = actor.feature_norm(rows.arrange(obs), rows.slots, rows.table_in(actor.obs_mask))
    dense = torch.cat([x, F.one_hot(torch.arange(3), capacity).double()[:, None].expand(-1, 4, -1)], dim=-1)
    layer = actor.mlp[0]
    weight, bias = (rows.slots.pick(p, rows.slots.backbone) for p in (layer.weight, layer.bias))
    expected = torch.einsum("sbi,soi->sbo", dense, weight.expand(3, -1, -1)) + bias[:, None]
    if layer.rank:
        update = layer.delta if layer.dense else layer.scaling * layer.lora_B @ layer.lora_A
        update = update[rows.slots.adapter if rows.slots.adapter is not None else slice(None)]
        expected = expected + torch.einsum("sbi,soi->sbo", torch.cat([x, torch.ones(3, 4, 1)], -1), update)
    for merge_from in PATHS.values():
        with patch.object(bank, "MERGE_FROM_ROWS", merge_from):
            actual = bank.BankLinear.forward(layer, x, rows.slots)
        torch.testing.assert_close(actual, expected, **EXACT)


def test_without_id_features_a_shared_policy_cannot_tell_agents_apart_and_with_them_it_can():
    spec = team((3, 3), (2, 2))
    obs = random_obs(spec, 4)
    obs[:, 1] = obs[:, 0]
    for ids, equal in (("none", True), ("one_hot", False)):
        policy = make_policy(spec, owner_tables(2)["ps"], network=NetworkConfig(hidden_size=5, id_features=ids))
        mean = policy.distribution(obs).mean
        assert torch.allclose(mean[:, 0], mean[:, 1]) is equal


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ["team", "rows"])
@pytest.mark.parametrize("method", [m for m in BY_AGENT if m not in ("ps", "lora_one_for_all")])
def test_the_loss_of_one_agent_leaves_the_slices_of_every_other_owner_alone(method, layout, path):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    owners, obs = policy.config.owners, random_obs(UNEQUAL, 4)
    agents = torch.arange(3).repeat(4)
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        for agent in range(3):
            if layout == "team":
                mine = outputs(policy.distribution(obs))[:, agent]
            else:
                mine = outputs(policy.distribution(obs.flatten(0, 1), agent=agents))[agents == agent]
            for name, grad in gradients(mine.square().sum(), policy.actor).items():
                if len(grad) == 1:
                    continue
                adapter = name.rpartition(".")[2] in ADAPTER_PARAMETERS
                owner = (owners.adapter_of if adapter else owners.backbone_of)[agent]
                others = [o for o in range(len(grad)) if o != owner]
                assert grad[others].count_nonzero() == 0, name
                assert grad[owner].count_nonzero() > 0, name


def test_the_loss_of_one_role_leaves_the_adapters_of_other_roles_alone():
    policy = make_policy(UNEQUAL, owner_tables(3)["role"])
    obs, roles = random_obs(UNEQUAL, 6), random_roles(policy.config.owners, 6)
    mine = outputs(policy.distribution(obs, roles=roles))[roles == 1]
    grads = gradients(mine.square().sum(), policy.actor)
    adapters = {n: g for n, g in grads.items() if n.rpartition(".")[2] in ADAPTER_PARAMETERS}
    assert adapters
    for name, grad in adapters.items():
        assert grad[[0, 2]].count_nonzero() == 0, name
        assert grad[1].count_nonzero() > 0, name


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("obs_norm", OBS_NORMS)
@pytest.mark.parametrize("method", ["ps", "lora", "nps", "role"])
def test_padded_observation_entries_change_neither_outputs_nor_gradients(method, obs_norm, value):
    network = NetworkConfig(hidden_size=5, obs_norm=obs_norm)
    policy = make_policy(UNEQUAL, owner_tables(3)[method], network=network)
    obs, roles, _ = team_inputs(policy, 4)
    filled = torch.where(torch.as_tensor(UNEQUAL.obs_mask()), obs, value)
    results = []
    for x in (obs, filled):
        y = outputs(policy.distribution(x, roles=roles))
        results.append((y, gradients(y.square().sum(), policy.actor)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert all(grad.isfinite().all() for grad in results[0][1].values())


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "gaussian"])
@pytest.mark.parametrize("method", ["lora", "role"])
def test_padded_action_entries_change_neither_log_probabilities_nor_gradients(method, distribution):
    policy = make_policy(
        UNEQUAL, owner_tables(3)[method], network=NetworkConfig(hidden_size=5, distribution=distribution)
    )
    obs, roles, _ = team_inputs(policy, 4)
    real = torch.as_tensor(UNEQUAL.action_mask())
    actions = policy.distribution(obs, roles=roles).sample(seeded(0)).detach()
    results = []
    for fill in (0.0, 0.9, -1.0, 1e6):
        log_prob = policy.distribution(obs, roles=roles).log_prob(torch.where(real, actions, fill))
        assert log_prob[~real.expand_as(log_prob)].count_nonzero() == 0
        results.append((log_prob, gradients(log_prob.sum(), policy.actor)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
    for owner, dims in enumerate(UNEQUAL.action_sizes):  # of the last layer, padded dimensions have no gradient at all
        if method == "lora":
            assert results[0][1]["log_std.delta"][owner, dims:].count_nonzero() == 0


def test_the_layers_of_the_actor_have_the_names_that_files_and_target_modules_use():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"], network=NetworkConfig(hidden_size=5))
    assert {name.rpartition(".")[0] for name, _ in policy.actor.named_parameters()} == {
        "feature_norm",
        "mlp.0",
        "mlp.0.norm",
        "mlp.1",
        "mlp.1.norm",
        "head",
        "log_std",
    }
