"""Bank layers: placement, size, scale and first values of adapters, and masked layer normalisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn import bank
from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear, BankSize, BankVector, LoRAConfig
from lorasa_rllib.nn.rows import Slots
from tests.helpers import randomise, seeded


def slots_of(*owners: tuple[int, int]) -> Slots:
    """One slot for each (backbone, adapter)."""
    backbones, adapters = (torch.tensor(column) for column in zip(*owners, strict=True))
    return Slots(len(owners), backbones, adapters, torch.arange(len(owners)))


@given(
    in_size=st.integers(1, 6),
    out_size=st.integers(1, 6),
    r=st.integers(1, 7),
    use_rslora=st.booleans(),
    owners=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=5),
    rows=st.sampled_from([1, 3, bank.MERGE_FROM_ROWS]),
)
def test_a_layer_adds_the_scaled_product_of_its_factors(in_size, out_size, r, use_rslora, owners, rows):
    lora = LoRAConfig(r=r, lora_alpha=3.0, use_rslora=use_rslora)
    layer = randomise(BankLinear("mlp.0", in_size, out_size, BankSize(2, 3, lora), gain=1.0).double())
    x = torch.randn(len(owners), rows, in_size, generator=seeded(0), dtype=torch.double)
    expected = []
    for one, (g, k) in zip(x, owners, strict=True):
        if r >= min(in_size, out_size):
            update = layer.delta[k]
        else:
            update = 3.0 / (math.sqrt(r) if use_rslora else r) * layer.lora_B[k] @ layer.lora_A[k]
        expected.append(F.linear(one, layer.weight[g] + update, layer.bias[g]))
        torch.testing.assert_close(layer.adapter_square_norms()[k], update.square().sum(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layer(x, slots_of(*owners)), torch.stack(expected), rtol=1e-10, atol=1e-11)
    plain = [F.linear(one, layer.weight[g], layer.bias[g]) for one, (g, _) in zip(x, owners, strict=True)]
    without = layer(x, slots_of(*owners), adapters=False)
    torch.testing.assert_close(without, torch.stack(plain), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("in_size", "out_size", "r", "dense"), [(4, 6, 3, False), (4, 6, 4, True), (6, 4, 5, True)])
def test_a_rank_of_at_least_the_smaller_side_becomes_one_dense_matrix(in_size, out_size, r, dense):
    layer = BankLinear("head", in_size, out_size, BankSize(1, 3, LoRAConfig(r=r)), gain=1.0)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if name not in ("weight", "bias")}
    factors = {"lora_A": (3, r, in_size), "lora_B": (3, out_size, r)}
    assert shapes == ({"delta": (3, out_size, in_size)} if dense else factors)


@pytest.mark.parametrize(("init", "zero", "random"), [("lorasa", "lora_A", "lora_B"), ("peft", "lora_B", "lora_A")])
def test_a_new_adapter_has_one_factor_zero_and_the_other_uniform_within_its_fan_in(init, zero, random):
    layer = BankLinear("mlp.0", 50, 40, BankSize(1, 20, LoRAConfig(r=4, init_lora_weights=init)), gain=1.0)
    factor = getattr(layer, random)
    bound = 1 / math.sqrt(factor.shape[-1])
    assert getattr(layer, zero).count_nonzero() == 0
    assert 0.98 * bound < factor.abs().max() <= bound
    assert factor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not torch.equal(factor[0], factor[1])


def test_adapters_sit_where_target_modules_say_with_the_first_rank_that_matches():
    lora = LoRAConfig(r=8, target_modules=("mlp.*", "head"), rank_pattern={"mlp.1": 2, "mlp.*": 3})
    ranks = {name: lora.rank_of(name) for name in ("mlp.0", "mlp.1", "head", "log_std")}
    assert ranks == {"mlp.0": 3, "mlp.1": 2, "head": 8, "log_std": 0}


@pytest.mark.parametrize("bad", [{"r": 0}, {"r": -1}, {"r": 2.5}, {"rank_pattern": {"head": 0}}])
def test_a_rank_below_one_or_not_whole_is_refused(bad):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        LoRAConfig(**bad)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="lora_alpha="):
        LoRAConfig(lora_alpha=alpha)


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="init_lora_weights='gaussian'"):
        LoRAConfig(init_lora_weights="gaussian")


def test_backbones_are_orthogonal_with_the_given_gain_and_differ():
    layer = BankLinear("mlp.0", 5, 8, BankSize(3), gain=2.0)
    for weight in layer.weight:
        torch.testing.assert_close(weight.T @ weight, 4.0 * torch.eye(5))
    assert not torch.equal(layer.weight[0], layer.weight[1])
    assert layer.bias.count_nonzero() == 0


def test_an_id_needs_slots_of_one_agent_each():
    layer = BankLinear("mlp.0", 2, 3, BankSize(), gain=1.0, id_capacity=4)
    with pytest.raises(ValueError, match="id_features='none'"):
        layer(torch.zeros(2, 1, 2), Slots(2))


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), backbones=st.sampled_from([1, 2]), rows=st.integers(1, 3)
)
def test_masked_layer_norm_equals_layer_norm_of_the_real_features_alone(sizes, backbones, rows):
    width = max(sizes)
    norm = randomise(BankLayerNorm("mlp.0", width, BankSize(backbones)).double())
    owners = [n % backbones for n in range(len(sizes))]
    present = torch.arange(width) < torch.tensor(sizes)[:, None]
    x = torch.randn(len(sizes), rows, width, generator=seeded(1), dtype=torch.double) * present[:, None]
    y = norm(x, slots_of(*[(g, 0) for g in owners]), present[:, None])
    for n, (size, g) in enumerate(zip(sizes, owners, strict=True)):
        expected = F.layer_norm(x[n, :, :size], (size,), norm.weight[g, :size], norm.bias[g, :size])
        torch.testing.assert_close(y[n, :, :size], expected)
        assert y[n, :, size:].count_nonzero() == 0


def test_a_vector_is_the_sum_of_its_backbone_and_its_delta():
    vector = randomise(BankVector("log_std", 4, BankSize(2, 3, LoRAConfig()), fill=1.0))
    owners = [(0, 2), (1, 0), (0, 1)]
    expected = torch.stack([vector.weight[g] + vector.delta[k] for g, k in owners])
    torch.testing.assert_close(vector(slots_of(*owners)), expected)
    plain = torch.stack([vector.weight[g] for g, _ in owners])
    torch.testing.assert_close(vector(slots_of(*owners), adapters=False), plain)
