"""The encoder in front of the trunk: for every sharing method, and wherever a network runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lorasa_rllib.nn.acting import UnmergedActor
from lorasa_rllib.nn.bank_encoder import BankEncoder
from lorasa_rllib.nn.encoder_classes import name_of
from lorasa_rllib.nn.merged import MergedActor, MergedCritic
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from tests.encoders import IMAGE, Attention, Mixer, Pixels, Sums, encoding_policy, image_team
from tests.helpers import (
    METHODS,
    gradients,
    make_policy,
    outputs,
    owner_tables,
    random_masks,
    random_obs,
    random_roles,
    team,
)

ROWS = team((4, 4, 4), (2, 2, 2))
UNEQUAL = team((4, 2, 3), (2, 3, 1))
IMAGES = image_team(3)
CASES = [
    pytest.param(ROWS, Mixer, id="rows"),
    pytest.param(UNEQUAL, Mixer, id="unequal"),
    pytest.param(IMAGES, Mixer, id="own-images"),
    pytest.param(IMAGES, Pixels, id="convolution"),
    pytest.param(IMAGES, "cnn", id="cnn"),
]
TWO = [CASES[1], CASES[4]]
SMALL = {"cnn": {"channels": [4, 5], "features": 6}}


def case(spec, encoder, method, **network):
    settings = {"encoder_settings": SMALL.get(encoder, {}) if isinstance(encoder, str) else {}, "obs_norm": None}
    return encoding_policy(spec, owner_tables(spec.num_agents)[method], encoder, **settings | network)


def observations(spec, *lead, seed=0):
    obs = random_obs(spec, *lead, seed=seed)
    return (obs * 80).abs() if spec.views else obs


def without_encoder(policy, features):
    """The same policy for observations that are features already."""
    spec = policy.config.spec
    size = features.shape[-1]
    kept = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    plain = type(spec)(**kept | {"obs_sizes": (size,) * spec.num_agents, "views": (), "state_parts": ()})
    network = dataclasses.replace(policy.config.network, encoder=None, encoder_settings={})
    other = make_policy(plain, policy.config.owners, policy.config.lora, network)
    actor = {name: w for name, w in policy.actor.state_dict().items() if not name.startswith("encoder.")}
    other.actor.load_state_dict(actor)
    other.set_phase(policy.phase)
    return other


def one_by_one(policy, obs):
    """Features of every agent by a plain copy of its owner's encoder; obs [B, N, d]."""
    spec, encoder = policy.config.spec, policy.actor.encoder
    owners = policy.config.owners
    several = owners.num_backbones if owners.banked == ("*",) else 1
    found = []
    for n in range(spec.num_agents):
        module = encoder.of_owner(owners.backbone_of[n] if several > 1 else 0)
        found.append(torch.cat([module(row.reshape(1, *spec.obs_shape)) for row in obs[:, n]]))
    return torch.stack(found, 1)


@pytest.mark.parametrize(("spec", "encoder"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_the_trunk_reads_what_each_owners_encoder_makes_of_each_row(method, spec, encoder):
    policy = case(spec, encoder, method)
    obs, roles = observations(spec, 4), random_roles(policy.config.owners, 4)
    features = one_by_one(policy, obs)
    expected = without_encoder(policy, features).distribution(features, roles=roles)
    torch.testing.assert_close(outputs(policy.distribution(obs, roles=roles)), outputs(expected))


@pytest.mark.parametrize(("spec", "encoder"), TWO)
@pytest.mark.parametrize("method", METHODS)
def test_rows_in_any_order_and_single_agents_equal_the_team(method, spec, encoder):
    policy = case(spec, encoder, method)
    obs, roles = observations(spec, 4), random_roles(policy.config.owners, 4)
    whole = outputs(policy.distribution(obs, roles=roles))
    order = torch.randperm(4 * spec.num_agents, generator=torch.Generator().manual_seed(0))
    agents = torch.arange(spec.num_agents).repeat(4)[order]
    flat_roles = None if roles is None else roles.flatten()[order]
    rows = policy.distribution(obs.flatten(0, 1)[order], agent=agents, roles=flat_roles)
    torch.testing.assert_close(outputs(rows), whole.flatten(0, 1)[order])
    for n in range(spec.num_agents):
        one = policy.distribution(obs[:, n], agent=n, roles=None if roles is None else roles[:, n])
        torch.testing.assert_close(outputs(one), whole[:, n])


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("spec", "encoder"), TWO)
@pytest.mark.parametrize("method", METHODS)
def test_merged_actors_and_critics_equal_them_as_they_are(method, spec, encoder, recurrent):
    policy = case(spec, encoder, method, recurrent=recurrent, critic_recurrent=recurrent, obs_norm="running")
    owners = policy.config.owners
    if owners.by_role and len(set(spec.obs_sizes)) > 1:
        pytest.skip("adapters by role are not merged where observation sizes differ")
    obs, roles, masks = observations(spec, 4), random_roles(owners, 4), random_masks(spec, 4)
    hidden = torch.randn(4, spec.num_agents, 5, dtype=torch.double) if recurrent else None
    merged, plain = MergedActor(policy.actor), UnmergedActor(policy.actor, True)

    def of(x):
        return x if x is None or who is None else x[:, list(who)]

    for who in (None, (2, 0)):
        given = {"roles": of(roles), "available": of(masks), "hidden": of(hidden), "agents": who}
        (found, after), (expected, later) = merged.step(of(obs), **given), plain.step(of(obs), **given)
        torch.testing.assert_close(outputs(found), outputs(expected))
        if recurrent:
            torch.testing.assert_close(after, later)
    if recurrent:
        state = torch.randn(3, spec.state_size, dtype=torch.double)
        memory = torch.randn(3, policy.critic.num_values, 5, dtype=torch.double)
        values, after = MergedCritic(policy.critic).step(state, memory)
        expected, later = policy.critic.unroll(state[None], memory)
        torch.testing.assert_close(values, expected[0])
        torch.testing.assert_close(after, later[0])


@pytest.mark.parametrize("encoder", [Attention, Sums])
@pytest.mark.parametrize("method", ["lora", "nps", "seps_lora"])
def test_encoders_with_attention_and_without_parameters_act_merged_as_they_train(method, encoder):
    policy, obs = case(ROWS, encoder, method), observations(ROWS, 4)
    with torch.inference_mode():
        merged = outputs(MergedActor(policy.actor).step(obs)[0])
    torch.testing.assert_close(merged, outputs(policy.distribution(obs)))
    torch.testing.assert_close(
        merged, outputs(without_encoder(policy, one_by_one(policy, obs)).distribution(one_by_one(policy, obs)))
    )


def test_a_merged_encoder_does_not_follow_later_changes():
    for method in ("ps", "nps"):
        policy, obs = case(IMAGES, Pixels, method), observations(IMAGES, 2)
        merged = MergedActor(policy.actor)
        before = outputs(merged.step(obs)[0])
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(1.0)
        torch.testing.assert_close(outputs(merged.step(obs)[0]), before, rtol=0, atol=0)


def test_encoding_a_rollout_in_parts_changes_nothing(monkeypatch):
    policy, obs = case(IMAGES, "cnn", "lora"), observations(IMAGES, 9)
    with_gradients = outputs(policy.distribution(obs))
    monkeypatch.setattr("lorasa_rllib.nn.bank_encoder.AT_ONCE", 200)
    with torch.no_grad():
        torch.testing.assert_close(outputs(policy.distribution(obs)), with_gradients)


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_is_backbone_every_owner_has_its_own_and_the_switch_freezes_it(method):
    policy = case(ROWS, Mixer, method)
    owners = policy.config.owners
    mine = {n: p for n, p in policy.parameters_of("backbone").items() if n.startswith("encoder.")}
    count = owners.num_backbones if owners.banked == ("*",) else 1
    assert len(mine) == 8 and {len(p) for p in mine.values()} == {count}  # 2 + 2 + 1, the LayerNorm's 2, the gain
    assert not any("encoder" in name for name in policy.parameters_of("adapters"))
    if owners.num_adapters:
        policy.set_phase("adapters")
        assert not any(p.requires_grad for p in mine.values())
    policy.set_phase("joint" if owners.num_adapters else "backbone")
    found = gradients(outputs(policy.distribution(observations(ROWS, 3), roles=random_roles(owners, 3))).sum(), policy)
    assert all(found[f"actor.{name}"].abs().sum() > 0 for name in mine)
    fixed = [name for name in policy.state_dict() if name.endswith(("module.fixed", "module.offset"))]
    assert len(fixed) == 2 and not {f"{name}" for name in fixed} & set(dict(policy.named_parameters()))


def test_the_loss_of_one_agent_leaves_the_encoders_of_others_alone():
    policy = case(IMAGES, "cnn", "nps")
    found = gradients(outputs(policy.distribution(observations(IMAGES, 3)))[:, 1].sum(), policy)
    for name, grad in found.items():
        if name.startswith("actor.encoder"):
            assert grad[1].abs().sum() > 0 and not grad[[0, 2]].any(), name


def test_the_critic_encodes_images_of_all_agents_with_an_encoder_of_its_own():
    for method in ("lora", "nps"):
        policy = case(IMAGES, "cnn", method)
        assert policy.critic.encoder.size == 3 * 6 and policy.critic.obs_norm is None
        state = observations(IMAGES, 5).flatten(1)
        module = policy.critic.encoder.of_owner(0)
        expected = torch.cat([module(state[:, part].reshape(5, *IMAGE)) for part in torch.arange(270).split(90)], -1)
        found = policy.critic.encoder.encode(
            state, policy.critic.router.slots_of_agents(slice(0, 1)), lambda x: x[None]
        )
        torch.testing.assert_close(found[0], expected)
        assert policy.critic(state).shape == (5, 1 if method == "lora" else 3)
    assert case(ROWS, Mixer, "lora").critic.encoder is None


def test_running_statistics_are_of_rows_not_of_images():
    assert case(IMAGES, "cnn", "lora", obs_norm="running").actor.obs_norm is None
    rows = case(ROWS, Mixer, "lora", obs_norm="running")
    assert rows.actor.obs_norm is not None and rows.critic.obs_norm is not None


def test_without_an_encoder_nothing_is_there():
    policy = make_policy(IMAGES, owner_tables(3)["lora"])
    assert policy.actor.encoder is None and not any("encoder" in name for name in policy.state_dict())


class Dropping(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.1))


class Batched(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)


class Shapeless(nn.Module):
    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        return x[..., None]


class Narrow(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)


class Twice(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = self.same = nn.Linear(4, 4)


class Delta(nn.Module):
    out_features = 4

    def __init__(self, shape):
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(4))


class Demanding(nn.Module):
    def __init__(self, shape, width):
        super().__init__()


class Branching(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if bool((x > -1).all()) else -self.layer(x)


def test_encoders_that_need_one_owner_at_a_time_are_refused_for_several():
    BankEncoder(name_of(Branching), {}, (1, 4), 1)
    with pytest.raises(ValueError, match=r"several owners at once.*use a method with one backbone"):
        BankEncoder(name_of(Branching), {}, (1, 4), 2)


@pytest.mark.parametrize(
    ("encoder", "remedy"),
    [
        (Dropping, "no dropout"),
        (Batched, "Use LayerNorm or GroupNorm"),
        (Shapeless, r"must map \[B, \*\(4,\)\] to features \[B, f\]; it maps B=2 to \[2, 4, 1\]"),
        (Narrow, "does not take observations"),
        (Twice, "keep it under one name"),
        (Delta, "give it another name"),
        (Demanding, r"called as Encoder\(\(4,\), \*\*encoder_settings\)"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused(encoder, remedy):
    with pytest.raises(ValueError, match=remedy):
        BankEncoder(name_of(encoder), {}, (1, 4), 1)


def test_encoders_are_given_as_classes_that_others_can_find():
    class Local(nn.Module):
        pass

    for wrong, remedy in (
        (Local, "top level of a module"),
        (nn.Linear(2, 2), "hand over its class, Linear"),
        ("vit", "one of"),
        (3, "one of"),
        (dict, "one of"),
    ):
        with pytest.raises(ValueError, match=remedy):
            NetworkConfig.from_dict({"encoder": wrong})
    with pytest.raises(ValueError, match="need an encoder"):
        NetworkConfig(encoder_settings={"width": 3})
    with pytest.raises(ValueError, match="must be a number, a word"):
        NetworkConfig(encoder="cnn", encoder_settings={"channels": torch.ones(3)})
    with pytest.raises(ValueError, match="has not been imported"):
        BankEncoder("somewhere:Else", {}, (1, 4), 1)


@pytest.mark.parametrize(
    ("spec", "settings", "remedy"),
    [
        (ROWS, {}, "Leave encoder out"),
        (image_team(2, (3, 20, 20)), {}, "channels last"),
        (image_team(2, (6, 5, 3), "float32"), {}, "scale"),
    ],
)
def test_the_cnn_refuses_what_is_not_an_image(spec, settings, remedy):
    with pytest.raises(ValueError, match=remedy):
        PolicyConfig(spec, owner_tables(2)["ps"], network=NetworkConfig(encoder="cnn", encoder_settings=settings))


@pytest.mark.parametrize("image", [(1, 1, 1), (6, 5), (20, 31, 3), (9, 9, 12)])
def test_the_cnn_takes_images_of_any_size(image):
    spec = image_team(2, image)
    policy = TeamPolicy(PolicyConfig(spec, owner_tables(2)["lora"], network=NetworkConfig(encoder="cnn")))
    assert policy.distribution(torch.rand(3, 2, spec.obs_size)).log_probs.shape == (3, 2, 3)
