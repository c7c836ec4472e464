"""Advantages, value normaliser and losses against `gae.npz`, `value_norm.npz` and `mappo_loss.npz`."""

from __future__ import annotations

import torch

from lorasa_rllib.learning.losses import clipped_surrogate, clipped_value_loss
from lorasa_rllib.learning.reference import one_sided_huber
from lorasa_rllib.nn.value_norm import ValueNorm
from tests.helpers import advantages_of
from tests.reference.vectors import Vectors, close

GAE = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-11, 1e-11)}
LOSS = {torch.float32: (2e-6, 1e-5), torch.float64: (1e-11, 1e-10)}
NORM = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-12, 1e-9)}
SUMS = {torch.float32: (0.0, 1e-5), torch.float64: (0.0, 1e-9)}


def test_gae(load, dtype):
    file = load("gae")
    values, ended = file["values"], file["masks"][1:] == 0
    cut = file["bad_masks"][1:] == 0
    numbers = (file.number("gamma"), file.number("gae_lambda"))
    inputs = (file["rewards"], values[:-1], values[1:], ended, ended, *numbers)
    close(advantages_of(*inputs) + values[:-1], file["returns"], *GAE[dtype])
    close(advantages_of(*inputs, zeroed=cut) + values[:-1], file["returns_time_limits"], *GAE[dtype])
    assert cut.any()


def take_in(norm: ValueNorm, batch: torch.Tensor) -> None:
    norm.update(batch.mean(0), batch.square().mean(0))


def test_value_norm(load, dtype):
    file = load("value_norm")
    norm = ValueNorm(1, fresh_var=file.number("min_var")).to(dtype)
    assert (norm.beta, norm.epsilon, norm.min_var) == tuple(map(file.number, ("beta", "epsilon", "min_var")))
    for k in range(len(file["batches"]) + 1):
        if k:
            take_in(norm, file["batches"][k - 1])
        mean, std = norm.statistics()
        close(mean[0], file["out_mean"][k], *NORM[dtype])
        close(std[0].square(), file["out_var"][k], *NORM[dtype])
        for ours, theirs in (("mean", "running_mean"), ("mean_sq", "running_mean_sq"), ("debias", "debias")):
            close(getattr(norm, ours)[0], file[f"out_{theirs}"][k], *SUMS[dtype])
        close(norm.normalise(file["probe"]), file["out_normalized"][k], *NORM[dtype])
        close(norm.denormalise(file["probe"]), file["out_denormalized"][k], *NORM[dtype])


def test_variance_floor(load, dtype):
    file = load("value_norm")
    norm = ValueNorm(1).to(dtype)
    take_in(norm, file["floor_batch"])
    mean, std = norm.statistics()
    close(mean, file["out_floor_mean"], *NORM[dtype])
    close(std.square(), file["out_floor_var"], *NORM[dtype])


def gains(file: Vectors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities to differentiate by, the gain of every live row, and the live rows, all with agents last."""
    log_probs = file["logp_new"].requires_grad_()
    ratio = (log_probs - file["logp_old"]).exp()
    gain = clipped_surrogate(ratio, file["advantages"][..., 0], file.number("clip"))
    active = file["active_masks"][..., 0] > 0
    return log_probs, torch.where(active, gain, 0.0), active


def test_policy_loss_of_one_owner(load, dtype):
    file = load("mappo_loss")
    log_probs, gain, active = gains(file)
    loss = -gain.sum() / active.sum()
    close(loss, file["out_policy_loss_ps"], *LOSS[dtype])
    close(torch.autograd.grad(loss, log_probs)[0], file["out_dlogp_ps"], *LOSS[dtype])


def test_policy_loss_of_an_owner_for_each_agent(load, dtype):
    file = load("mappo_loss")
    log_probs, gain, active = gains(file)
    loss = -(gain.sum(0) / active.sum(0)).sum()
    close(loss, file["out_policy_loss_lora"], *LOSS[dtype])
    close(torch.autograd.grad(loss, log_probs)[0], file["out_dlogp_lora"], *LOSS[dtype])


def test_value_loss(load, dtype):
    file = load("mappo_loss")
    returns, values = file["returns"][..., 0], file["values_new"].requires_grad_()
    norm = ValueNorm(returns.shape[1]).to(dtype)
    norm.load_state_dict({"mean": file["vn_mean"], "mean_sq": file["vn_mean_sq"], "debias": file["vn_debias"]})
    take_in(norm, returns)
    for name in ("mean", "mean_sq", "debias"):
        close(getattr(norm, name), file[f"out_vn_{name}"], *SUMS[dtype])
    errors = clipped_value_loss(
        values[..., 0],
        file["values_old"][..., 0],
        norm.normalise(returns),
        file.number("value_clip"),
        file.number("huber_delta"),
    )
    for loss, name, slope in (
        (errors.mean(), "out_value_loss", "out_dvalues"),
        (errors.mean(0).sum(), "out_value_loss_per_agent", "out_dvalues_per_agent"),
    ):
        close(loss, file[name], *LOSS[dtype])
        close(torch.autograd.grad(loss, values, retain_graph=True)[0], file[slope], *LOSS[dtype])


def test_one_sided_huber(load, dtype):
    file = load("mappo_loss")
    error = file["huber_error"]
    zero = torch.zeros_like(error)
    loss = clipped_value_loss(zero, zero, error, None, file.number("huber_delta"), one_sided_huber)
    close(loss, file["out_huber_one_sided"], *LOSS[dtype])
    symmetric = clipped_value_loss(zero, zero, error, None, file.number("huber_delta"))
    assert not torch.allclose(symmetric, loss)
