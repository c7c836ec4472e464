"""Adapted layers against `lora_linear.npz` and `lora_gru.npz`."""

from __future__ import annotations

import pytest
import torch

from lorasa_rllib.nn import bank
from lorasa_rllib.nn.bank import BankLinear, Banks, BankSize, LoRAConfig
from lorasa_rllib.nn.gru import BankGRU
from lorasa_rllib.nn.rows import Router, Slots
from lorasa_rllib.spec import Owners
from tests.reference.vectors import close, state_of

LINEAR = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-12, 1e-12)}
GRU = {torch.float32: (2e-5, 2e-5), torch.float64: (1e-12, 1e-12)}


@pytest.mark.parametrize("path", ["merged", "factored"])
@pytest.mark.parametrize("prefix", ["", "full_"])
def test_linear(load, dtype, prefix, path, monkeypatch):
    monkeypatch.setattr(bank, "MERGE_FROM_ROWS", 0 if path == "merged" else 10**9)
    file, dense = load("lora_linear"), bool(prefix)
    weight, x = file[f"{prefix}W0"], file[f"{prefix}x"].requires_grad_()
    lora = LoRAConfig(r=file.number(f"{prefix}rank"), lora_alpha=file.number(f"{prefix}alpha"))
    layer = BankLinear("mlp.0", weight.shape[1], weight.shape[0], BankSize(1, len(x), lora), gain=1.0).to(dtype)
    factors = {"delta": "D"} if dense else {"lora_A": "A", "lora_B": "B"}
    theirs = {ours: file[prefix + name] for ours, name in factors.items()}
    layer.load_state_dict({"weight": weight[None], "bias": file[f"{prefix}b0"][None], **theirs})
    y = layer(x, Slots(len(x)))
    close(y, file[f"{prefix}y"], *LINEAR[dtype])
    close(layer.merged(Slots(len(x)))(x), file[f"{prefix}y_merged"], *LINEAR[dtype])
    (file[f"{prefix}g"] * y).sum().backward()
    close(x.grad, file[f"{prefix}dx"], *LINEAR[dtype])
    for ours, name in factors.items():
        close(getattr(layer, ours).grad, file[f"{prefix}d{name}"], *LINEAR[dtype])


@pytest.mark.parametrize("path", ["merged", "factored"])
def test_gru(load, dtype, path, monkeypatch):
    monkeypatch.setattr(bank, "MERGE_FROM_ROWS", 0 if path == "merged" else 10**9)
    file = load("lora_gru")
    x = file["x"]
    owners = Owners("lora", (0,) * x.shape[2], adapter_of=tuple(range(x.shape[2])))
    lora = LoRAConfig(r=file.number("rank"), lora_alpha=file.number("alpha"))
    gru = BankGRU(x.shape[-1], Banks(owners, lora), layer_norm=False).to(dtype)
    gru.load_state_dict(state_of({**{f"input.{k}": v for k, v in file.under("input").items()},
                                  **{f"hidden.{k}": v for k, v in file.under("hidden").items()}}))  # fmt: skip
    rows = Router(owners).layout(x)
    y, states = gru(rows.arrange(x), rows, file["h0"], file["masks"][..., 0] > 0)
    close(rows.restore(y), file["out"], *GRU[dtype])
    close(states[-1], file["h_final"], *GRU[dtype])
    (file["g"] * rows.restore(y)).sum().backward()
    for projection in ("input", "hidden"):
        for factor in ("lora_A", "lora_B"):
            grad = getattr(getattr(gru, projection), factor).grad
            close(grad, file[f"grad.{projection}.{factor}"], *GRU[dtype])
