"""Adapter statistics: equal to NumPy's on the merged product, and sound where an adapter does nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.analysis import adapters
from lorasa_rllib.analysis.adapters import (
    COLUMNS,
    TAUS,
    TOP,
    adapted_layers,
    adapter_names,
    adapter_statistics,
    draw_relative_norms,
)
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from tests.analysis.banks import with_zero_adapters
from tests.helpers import ADAPTED, BY_AGENT, METHODS, make_policy, owner_tables, policies, team

EQUAL = team((3,) * 3, (2,) * 3)
UNEQUAL = team((4, 2, 3), (2, 3, 1))
NETWORK = NetworkConfig(hidden_size=6, recurrent=True)
LAYERS = ["mlp.0", "mlp.1", "gru.input", "gru.hidden", "post.0", "head", "log_std"]


def by_hand(policy, name, layer, k):
    """The row of one adapter, from dense matrices cut to the entries its agents have."""
    spec, owners, lora = policy.config.spec, policy.config.owners, policy.config.lora
    users = [n for n, a in enumerate(owners.adapter_of) if a == k] or list(range(spec.num_agents))
    if name == "log_std":
        update, weight, width = layer.delta[k][None], layer.weight[:, None], layer.weight.shape[-1]
    else:
        width, weight = layer.in_size, layer.weight
        rank = lora.rank_of(name)
        scale = lora.lora_alpha / (rank**0.5 if lora.use_rslora else rank)
        update = layer.delta[k] if layer.dense else scale * layer.lora_B[k] @ layer.lora_A[k]
    actions, features = (max(sizes[n] for n in users) for sizes in (spec.action_sizes, spec.obs_sizes))
    out = actions if name == "head" else None
    used = actions if name == "log_std" else features if name == "mlp.0" else width
    update = update.detach().numpy()[:out, :used]
    backbones = sorted({owners.backbone_of[n] for n in users}) if len(weight) > 1 else [0]
    weights = weight.detach().numpy()[backbones, :out, :used]
    values = np.linalg.svd(update, compute_uv=False)
    energy = values**2 / np.sum(values**2)
    return [
        np.linalg.norm(update) / np.sqrt(np.mean([np.linalg.norm(w) ** 2 for w in weights])),
        *(np.mean(np.abs(update) <= tau * weights.std()) for tau in TAUS),
        np.linalg.norm(update) ** 2 / np.linalg.norm(update, 2) ** 2,
        *(energy[:top].sum() for top in TOP),
    ]


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", ADAPTED)
@settings(max_examples=6)
@given(data=st.data())
def test_it_is_what_numpy_says_of_the_merged_product(method, recurrent, data):
    """Low rank and dense, by agent and role, one backbone and several, with and without id columns, unequal agents."""
    policy = data.draw(policies(method, recurrent=recurrent))
    found = adapter_statistics(policy)
    layers, count = dict(adapted_layers(policy)), policy.config.owners.num_adapters
    assert list(found["layer"]) == [name for name in layers for _ in range(count)]
    assert list(found["adapter"]) == list(range(count)) * len(layers)
    for row in found.itertuples(index=False):
        expected = by_hand(policy, row.layer, layers[row.layer], row.adapter)
        np.testing.assert_allclose(row[2:], expected, rtol=1e-8, atol=1e-12, err_msg=f"{row.layer} {row.adapter}")


def test_all_layers_are_there_in_the_order_of_the_network():
    found = adapter_statistics(make_policy(EQUAL, owner_tables(3)["lora"], network=NETWORK))
    assert tuple(found.columns) == COLUMNS
    assert list(dict.fromkeys(found["layer"])) == LAYERS
    assert np.isfinite(found[list(COLUMNS[2:])].to_numpy()).all()
    assert (found["stable_rank"] <= 2 + 1e-9).all()  # r = 2, dense ones have two rows


def test_only_adapted_layers_are_there():
    lora = LoRAConfig(r=1, target_modules=("mlp.1", "head"))
    assert set(adapter_statistics(make_policy(EQUAL, owner_tables(3)["lora"], lora))["layer"]) == {"mlp.1", "head"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["lora", "role", "nps_lora_one_for_all"])
def test_adapters_without_effect_have_no_size_and_no_rank(method):
    policy = with_zero_adapters(make_policy(UNEQUAL, owner_tables(3)[method]))
    for layer in (0, 1):
        policy.actor.mlp[layer].lora_B.data.fill_(0.3)  # as they start: A = 0, B is not
    found = adapter_statistics(policy)
    assert (found["relative_norm"] == 0).all()
    assert (found[[f"below_{tau}" for tau in TAUS]] == 1).all(axis=None)
    assert found[["stable_rank", *(f"energy_{k}" for k in TOP)]].isna().all(axis=None)


@given(factor=st.floats(0.1, 10.0), seed=st.integers(0, 20))
def test_a_larger_adapter_has_a_larger_norm_and_the_same_rank(factor, seed):
    policy = make_policy(EQUAL, owner_tables(3)["lora"], network=NETWORK, seed=seed)
    before = adapter_statistics(policy)
    for name, parameter in policy.parameters_of("adapters").items():
        if not name.endswith("lora_A"):
            parameter.data[1] *= factor
    after = adapter_statistics(policy)
    mine = before["adapter"] == 1
    np.testing.assert_allclose(after["relative_norm"], before["relative_norm"] * np.where(mine, factor, 1), rtol=1e-9)
    ranks = ["stable_rank", *(f"energy_{k}" for k in TOP)]
    np.testing.assert_allclose(after[ranks], before[ranks], rtol=1e-9)
    sparsity = before[[f"below_{tau}" for tau in TAUS]].to_numpy()
    assert (np.diff(sparsity, axis=1) >= 0).all()


def test_id_columns_do_not_count():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    before, first = adapter_statistics(policy), policy.actor.mlp[0]
    assert first.id_capacity
    first.lora_A.data[..., -1] = 50.0
    first.weight.data[..., first.in_size :] = 50.0
    pd.testing.assert_frame_equal(adapter_statistics(policy), before)


def test_adapters_in_blocks_are_those_at_once(monkeypatch):
    policy = make_policy(UNEQUAL, owner_tables(3)["seps_lora"], network=NETWORK)
    at_once = adapter_statistics(policy)
    monkeypatch.setattr(adapters, "BLOCK", 1)
    pd.testing.assert_frame_equal(adapter_statistics(policy), at_once)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ADAPTED])
def test_policies_without_adapters_have_an_empty_table_and_no_figure(method, tmp_path):
    table = adapter_statistics(make_policy(EQUAL, owner_tables(3)[method]))
    assert table.empty and tuple(table.columns) == COLUMNS
    with pytest.raises(ValueError, match="no adapters to draw"):
        draw_relative_norms(table, tmp_path / "norms.png", "PS")


def test_adapters_are_called_by_who_uses_them():
    names = {m: adapter_names(make_policy(EQUAL, owner_tables(3)[m])) for m in (*BY_AGENT, "role") if m in ADAPTED}
    assert names["lora"] == ["agent_0", "agent_1", "agent_2"]
    assert names["lora_groups"] == ["agent_0, agent_2", "agent_1"]
    assert names["lora_one_for_all"] == ["adapter 0"]
    assert names["lora_with_spares"][2:] == ["agent_2", "adapter 3", "adapter 4"]
    assert names["role"] == ["role 0", "role 1", "role 2"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("agents", [2, 40])
def test_the_figure_shows_every_layer_and_adapter(agents, tmp_path):
    policy = make_policy(team((3,) * agents, (2,) * agents), owner_tables(agents)["lora"], network=NETWORK)
    draw_relative_norms(adapter_statistics(policy), tmp_path / "new" / "norms.png", "LoRASA", adapter_names(policy))
    (picture,) = (tmp_path / "new").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_thin_product_has_the_singular_values_of_the_whole():
    up, down = torch.randn(3, 20, 2, dtype=torch.double), torch.randn(3, 2, 9, dtype=torch.double)
    expected = np.linalg.svd((up @ down).numpy(), compute_uv=False)[:, :2]
    np.testing.assert_allclose(adapters._singular_values(up, down), expected, rtol=1e-10)
