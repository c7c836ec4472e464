"""Distances of activations: found where adapters act, equal to SciPy's, and without a trace in the network."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from lorasa_rllib.analysis import layers
from lorasa_rllib.analysis.adapters import adapter_statistics
from lorasa_rllib.analysis.layers import activations, draw_layers, layer_distances, layers_of, mean_per_layer
from lorasa_rllib.analysis.observations import ObservationBank, inputs_of
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from tests.analysis.banks import random_bank, with_zero_adapters
from tests.encoders import Mixer, encoding_policy
from tests.helpers import make_policy, owner_tables, team

EQUAL = {"continuous": team((3,) * 4, (2,) * 4), "discrete": team((3,) * 4, (3,) * 4, continuous=False)}
UNEQUAL = team((4, 2, 3), (2, 3, 1))
FEED_FORWARD = NetworkConfig(hidden_size=5, id_features="none")
RECURRENT = replace(FEED_FORWARD, recurrent=True, post_layers=2)
NETWORKS = pytest.mark.parametrize("network", [FEED_FORWARD, RECURRENT], ids=["feed-forward", "recurrent"])
NAMES = ["feature_norm", "mlp.0", "mlp.1", "gru", "post.0", "post.1", "head"]
FIRST = ("feature_norm", "mlp.0", "mlp.1", "head")


def by_hand(policy, inputs):
    """Layer -> outputs [T * B, d] of one agent: the layers called one after the other."""
    actor, agent = policy.actor, inputs["agent"]
    rows = actor.router.layout(inputs["obs"], agent)
    x = actor.feature_norm(rows.arrange(inputs["obs"]), rows.slots)
    made = {"feature_norm": x}
    for k, layer in enumerate(actor.mlp):
        made[f"mlp.{k}"] = x = layer(x, rows.slots)
    if actor.gru is not None:
        states = actor.unroll(inputs["obs"], agent=agent, keep=inputs["keep"])[1]
        made["gru"] = x = actor.gru.norm(rows.arrange(states), rows.slots)
        for k, layer in enumerate(actor.post):
            made[f"post.{k}"] = x = layer(x, rows.slots)
    return {name: y[0].detach() for name, y in (made | {"head": actor.head(x, rows.slots)}).items()}


@NETWORKS
@pytest.mark.parametrize("kind", EQUAL)
def test_it_is_the_definition_with_the_distance_of_scipy(kind, network):
    policy = make_policy(EQUAL[kind], owner_tables(4)["lora"], network=network)
    bank = random_bank(policy)
    rows = bank.active_rows()
    found = layer_distances(policy, bank)
    made = [by_hand(policy, inputs) for inputs in inputs_of(policy, bank)]
    assert list(found) == list(made[0]) == [name for name in NAMES if network.recurrent or name in FIRST]
    for name, matrix in found.items():
        seen = np.stack([one[name].numpy()[rows] for one in made])  # [N, R, units]
        deviation = seen.std((0, 1))
        for i in range(4):
            for j in range(4):
                apart = [wasserstein_distance(seen[i, :, u], seen[j, :, u]) for u in range(seen.shape[-1])]
                expected = np.mean([w / s if s > 0 else 0.0 for w, s in zip(apart, deviation, strict=True)])
                np.testing.assert_allclose(matrix[i, j], expected, rtol=1e-9, atol=1e-12)
        assert mean_per_layer(found)[name] == pytest.approx(matrix.sum() / 12)
    with patch.object(layers, "BLOCK", 1):
        np.testing.assert_allclose(layer_distances(policy, bank)["head"], found["head"], rtol=1e-12)


@NETWORKS
@pytest.mark.parametrize("method", ["lora", "role"])
@pytest.mark.parametrize("kind", EQUAL)
def test_agents_differ_from_the_first_adapted_layer_on_and_nowhere_before(kind, method, network):
    parts = {"mlp.1": "mlp.1", "post.0": "post.0", "head": "head", "gru.hidden": "gru"}
    for adapted, first in parts.items():
        if adapted not in network.layers():
            continue
        policy = make_policy(EQUAL[kind], owner_tables(4)[method], LoRAConfig(2, target_modules=(adapted,)), network)
        means = mean_per_layer(layer_distances(policy, random_bank(policy)))
        at = list(means).index(first)
        assert list(means.values())[:at] == [0.0] * at
        assert min(list(means.values())[at:]) > 0


@NETWORKS
@pytest.mark.parametrize("method", ["ps", "lora", "role"])
def test_the_same_policy_is_exactly_0_apart_in_every_layer(method, network):
    policy = make_policy(EQUAL["continuous"], owner_tables(4)[method], network=network)
    if method != "ps":
        with_zero_adapters(policy)
    found = layer_distances(policy, random_bank(policy))
    assert list(found) == list(layers_of(policy.actor))
    assert max(matrix.max() for matrix in found.values()) == 0


def test_layers_are_named_as_in_files_and_the_gru_is_one():
    recurrent = make_policy(EQUAL["continuous"], owner_tables(4)["ps"], network=RECURRENT)
    assert list(layers_of(recurrent.actor)) == NAMES
    plain = make_policy(EQUAL["continuous"], owner_tables(4)["ps"], network=replace(FEED_FORWARD, obs_norm=None))
    assert list(layers_of(plain.actor)) == ["mlp.0", "mlp.1", "head"]


@pytest.mark.parametrize("phase", ["joint", "backbone"])  # without adapters, roles are sorted by agent
@pytest.mark.parametrize("method", ["lora", "role"])
def test_rows_come_in_the_order_of_the_bank_however_the_actor_sorts_them(method, phase):
    """By role the actor sorts rows into blocks that may end in empty rows: those must not be seen."""
    policy = make_policy(UNEQUAL, owner_tables(3)[method], network=FEED_FORWARD)
    policy.set_phase(phase)
    bank = random_bank(policy, steps=5, limit=7)
    for inputs in inputs_of(policy, bank):
        rows = bank.active_rows()
        mean = policy.actor.unroll(**inputs)[0].mean.flatten(0, 1)[rows]
        head = activations(policy.actor, inputs, rows)["head"]
        real = mean != 0
        torch.testing.assert_close(head[real], mean[real].detach(), rtol=1e-12, atol=1e-12)


def test_only_units_that_both_agents_have_count():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"], LoRAConfig(2, target_modules=("log_std",)), FEED_FORWARD)
    bank = random_bank(policy)
    before = layer_distances(policy, bank)
    with torch.no_grad():  # action 2 belongs to agent 1 alone, action 1 to agents 0 and 1
        policy.actor.head.bias[:, 2] += 5.0
        policy.actor.head.weight[:, 2] *= 3.0
    after = layer_distances(policy, bank)
    np.testing.assert_allclose(after["head"], before["head"], rtol=1e-9)
    with torch.no_grad():
        policy.actor.feature_norm.bias[:, 3] += 5.0  # an observation entry of agent 0 alone
    np.testing.assert_allclose(layer_distances(policy, bank)["feature_norm"], before["feature_norm"], rtol=1e-9)


def test_all_features_of_an_encoder_count_whatever_agents_observe():
    policy = encoding_policy(UNEQUAL, owner_tables(3)["lora"], Mixer, obs_norm="layer")
    bank = random_bank(policy)
    found = layer_distances(policy, bank)
    assert list(found) == list(FIRST) and all(matrix[0, 1] > 0 for matrix in found.values())
    assert set(adapter_statistics(policy)["layer"]) == {"mlp.0", "mlp.1", "head", "log_std"}


def test_by_role_only_units_that_all_agents_have_count():
    policy = make_policy(UNEQUAL, owner_tables(3)["role"], LoRAConfig(2, target_modules=("head",)), FEED_FORWARD)
    bank = random_bank(policy)
    before = layer_distances(policy, bank)["head"]
    assert before[0, 1] > 0
    with torch.no_grad():  # agent 2 has action 0 only
        policy.actor.head.lora_B[:, 1:] = torch.rand(3, 2, policy.actor.head.rank)
    np.testing.assert_allclose(layer_distances(policy, bank)["head"], before, rtol=1e-9)


def test_a_shift_of_every_unit_by_its_deviation_is_a_distance_of_1():
    policy = make_policy(team((3, 3), (2, 2)), owner_tables(2)["nps"], network=FEED_FORWARD)
    for parameter in policy.actor.parameters():
        parameter.data[1] = parameter.data[0]
    bank = random_bank(policy, steps=40)
    assert layer_distances(policy, bank)["head"].max() == 0
    mean = np.stack([policy.actor(**i).mean.detach().flatten(0, 1).numpy() for i in _plain(policy, bank)])
    deviation = mean[0][bank.active_rows()].std(0)
    policy.actor.head.bias.data[1] += torch.as_tensor(deviation)
    # two humps of deviation s, their means s apart: pooled deviation s * sqrt(1 + 1/4)
    np.testing.assert_allclose(layer_distances(policy, bank)["head"][0, 1], 1 / np.sqrt(1.25), rtol=1e-9)


def _plain(policy, bank):
    return [{k: v for k, v in inputs.items() if k in ("obs", "agent")} for inputs in inputs_of(policy, bank)]


def test_units_that_never_vary_count_as_0():
    policy = make_policy(EQUAL["continuous"], owner_tables(4)["ps"], network=FEED_FORWARD)
    with torch.no_grad():
        policy.actor.head.weight.zero_()
    assert (layer_distances(policy, random_bank(policy))["head"] == 0).all()


def test_at_most_so_many_rows_count():
    policy = make_policy(EQUAL["continuous"], owner_tables(4)["lora"], network=RECURRENT)
    bank = random_bank(policy, steps=6)
    few = np.zeros(bank.active.size, bool)
    few[bank.active_rows(5)] = True
    expected = layer_distances(policy, replace(bank, active=few.reshape(bank.active.shape)))
    for name, matrix in layer_distances(policy, bank, rows=5).items():
        np.testing.assert_allclose(matrix, expected[name], rtol=1e-12)


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays_behind_even_if_something_raises(fails):
    policy = make_policy(EQUAL["continuous"], owner_tables(4)["lora"], network=RECURRENT)
    bank = random_bank(policy)
    if fails:
        with patch.object(policy.actor.head, "forward", side_effect=KeyError("head")), pytest.raises(KeyError):
            layer_distances(policy, bank)
        with pytest.raises(ValueError, match="not of this team"):
            layer_distances(policy, ObservationBank(np.zeros((1, 1, 9))))
    else:
        layer_distances(policy, bank)
    assert not any(module._forward_hooks for module in policy.actor.modules())
    assert all(parameter.grad is None for parameter in policy.actor.parameters())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("agents", [1, 2, 5])
def test_the_figure_of_any_team_is_drawn_whole(agents, tmp_path):
    owners = owner_tables(agents)["lora"]
    policy = make_policy(team((3,) * agents, (2,) * agents), owners, network=RECURRENT)
    found = layer_distances(policy, random_bank(policy))
    draw_layers(found, tmp_path / "new" / "layers.png", "HalfCheetah")
    (picture,) = (tmp_path / "new").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(np.isnan(mean) == (agents == 1) for mean in mean_per_layer(found).values())
