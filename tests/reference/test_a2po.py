"""A2PO against `trace.npz`, `a2po_loss.npz`, `agent_order.npz` and `a2po_iteration.npz`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lorasa_rllib.learning.a2po import A2POSettings, SequentialUpdate, update
from lorasa_rllib.learning.a2po.corrections import capped_factors, capped_product
from lorasa_rllib.learning.a2po.log import Corrected, Stepped
from lorasa_rllib.learning.a2po.order import ranking, semi_greedy
from lorasa_rllib.learning.batch import standardise
from lorasa_rllib.learning.gae import td_errors
from lorasa_rllib.learning.losses import clipped_surrogate, clipped_value_loss
from lorasa_rllib.learning.normalisers import update_value_norm
from lorasa_rllib.learning.reference import REFERENCE
from lorasa_rllib.learning.rules import Rules
from lorasa_rllib.nn.value_norm import ValueNorm
from tests.reference.iteration import LOGS, RETURNS, optimisers_of, policy_of, rollout_of, same_result, settings_of
from tests.reference.vectors import close

TRACE = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-11, 1e-11)}
LOSS = {torch.float32: (2e-6, 1e-5), torch.float64: (1e-11, 1e-10)}
ORDER = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-11, 1e-11)}


def test_trace(load, dtype):
    file = load("trace")
    log_ratio = (file["logp_new"] - file["logp_old"]).exp().mean(-1).log()
    log_c = log_ratio[..., file["agent_mask"] > 0].sum(-1, keepdim=True)
    close(log_c.exp(), file["c"], *TRACE[dtype])
    assert file.number("c_bar") == 1
    values, ended, cut = file["values"], file["masks"][1:] == 0, file["bad_masks"][1:] == 0
    gamma, lambda_ = file.number("gamma"), file.number("gae_lambda")
    for suffix, rules in (("", Rules()), ("_time_limits", REFERENCE)):
        errors = rules.td_errors(td_errors(file["rewards"], values[:-1], values[1:], ended, gamma), cut)
        product = capped_product(errors, log_c, ended, gamma * lambda_) + values[:-1]
        close(product, file[f"returns_speedup{suffix}"], *TRACE[dtype])
        factors = capped_factors(errors, log_c, ended, gamma * lambda_**2) + values[:-1]  # lambda enters twice
        close(factors, file[f"returns_no_speedup{suffix}"], *TRACE[dtype])


def test_order(load, dtype):
    file = load("agent_order")
    active = file["active_masks"][..., 0] > 0
    advantages = standardise(file["raw_advantages"][..., 0], active)
    close(advantages, file["out_advantages"][..., 0], *ORDER[dtype])
    scores = (advantages / file["value_preds"][..., 0]).abs().mean((0, 1))
    close(scores, file["out_scores"], *ORDER[dtype])
    assert ranking(scores.tolist()) == file["out_ranking"].tolist()
    picks = iter(file["random_picks"].tolist())
    assert semi_greedy(scores.tolist(), lambda left: next(picks)) == file["out_semi_greedy_order"].tolist()


@pytest.mark.parametrize("loop", ["agent", "epoch"])
def test_loss(load, dtype, loop):
    file = load("a2po_loss")
    order, log_ratio = file["order"].tolist(), (file["logp_new"] - file["logp_old"]).exp().mean(-1).log()
    numbers = {"clip": file.number("clip"), "others_clip": file.number("others_clip")}
    settings = A2POSettings(**numbers, clip_growth=file.number("tuner_weight"), loop=loop)
    width, n = settings.others_clip, len(order)
    prefix = "out_" if loop == "agent" else "ppo_loop_"
    for k, agent in enumerate(order, 1):
        mask = file["position_mask"][k - 1].bool() if loop == "agent" else torch.ones(n, dtype=torch.bool)
        mask[agent] = False
        others = log_ratio[:, mask].sum(-1).exp().clamp(1 - width, 1 + width)
        close(others[:, None], file[f"{prefix}M"][k - 1], *LOSS[dtype])
        clip = settings.clip_at(k if loop == "agent" else 1, n)
        assert clip == pytest.approx(file[f"{prefix}eps"][k - 1].item(), rel=1e-6)
        log_probs = file["logp_new"][:, agent].requires_grad_()
        weight = (log_probs - file["logp_old"][:, agent]).exp() * others[:, None]
        active = file["active_masks"][:, agent, 0] > 0
        gain = clipped_surrogate(weight, file["advantages"][:, agent, 0], clip)
        loss = -torch.where(active, gain, 0.0).sum() / active.sum()
        close(loss, file[f"{prefix}policy_loss"][k - 1], *LOSS[dtype])
        close(torch.autograd.grad(loss, log_probs)[0], file[f"{prefix}dlogp"][k - 1], *LOSS[dtype])


def test_value_loss(load, dtype):
    """Each agent's normaliser takes in its own returns just before; the loss is divided by the number of agents."""
    file = load("a2po_loss")
    norm = ValueNorm(len(file["order"])).to(dtype)
    norm.load_state_dict({"mean": file["vn_mean"], "mean_sq": file["vn_mean_sq"], "debias": file["vn_debias"]})
    everything = torch.ones_like(file["returns"][:, :1, 0], dtype=torch.bool)
    for k, agent in enumerate(file["order"].tolist()):
        returns, values = file["returns"][:, [agent], 0], file["values_new"][:, [agent], 0].requires_grad_()
        policy = SimpleNamespace(value_norm=norm, critic=SimpleNamespace(num_values=len(file["order"])))
        update_value_norm(policy, returns, everything, agents=(agent,))
        errors = clipped_value_loss(
            values,
            file["values_old"][:, [agent], 0],
            norm.normalise(returns, [agent]),
            file.number("value_clip"),
            file.number("huber_delta"),
        )
        close(errors.mean(), file["out_value_loss"][k], *LOSS[dtype])
        slopes = torch.autograd.grad(errors.mean() / len(file["order"]), values)[0]
        close(slopes, file["out_dvalues"][k], *LOSS[dtype])
    for name in ("mean", "mean_sq", "debias"):
        close(getattr(norm, name), file[f"out_vn_{name}"], 0.0, LOSS[dtype][1])


VARIANTS = {
    "speedup": {"loop": "agent", "two_stage": True, "correction": "capped_product"},
    "no_speedup": {"loop": "agent", "two_stage": True, "correction": "capped_factors"},
    "ppo_loop": {"loop": "epoch", "two_stage": False, "correction": "capped_factors"},
}


def sequence_of(file, variant, **changes):
    """The update of a variant, with the order's picks taken from the file."""
    policy, picks = policy_of(file), iter(file[f"{variant}.picks"].tolist())
    numbers = {"others_clip": file.number("cfg.others_clip"), "clip_growth": file.number("cfg.tuner_weight")}
    settings = settings_of(file, A2POSettings, **numbers, **VARIANTS[variant])
    settings = replace(settings, rules=replace(REFERENCE, **changes))
    optimisers = optimisers_of(policy, file)
    return policy, SequentialUpdate(policy, optimisers, rollout_of(file), settings, lambda left: next(picks))


@pytest.mark.parametrize("variant", VARIANTS)
def test_iteration(load, variant):
    file = load("a2po_iteration")
    policy, run = sequence_of(file, variant)
    log = SimpleNamespace(**{name.replace("log.", ""): x for name, x in file.under(variant).items() if "log." in name})
    active = file["buf.active_masks"][..., 0] > 0
    events, steps, orders = 0, 0, []
    close(run.advantages.targets.returns, file[f"{variant}.gae_returns"][..., 0], *RETURNS)
    close(standardise(run.advantages.gains, active), file[f"{variant}.advantages"][0, ..., 0], *RETURNS)

    def watch(event):
        nonlocal events, steps
        if not orders or orders[-1] != [unit.name for unit in run.order]:
            orders.append([unit.name for unit in run.order])
        if isinstance(event, Corrected):
            corrected = -1 if event.unit is None else event.unit.name
            assert corrected == file[f"{variant}.trace_agent"][events]
            close(event.log_ratios.exp(), file[f"{variant}.trace_c"][events, ..., 0], *RETURNS)
            close(
                run.advantages.gains + run.advantages.targets.baseline,
                file[f"{variant}.trace_returns"][events, ..., 0],
                *RETURNS,
            )
            events += 1
            close(standardise(run.advantages.gains, active), file[f"{variant}.advantages"][events, ..., 0], *RETURNS)
        if isinstance(event, Stepped):
            assert (event.unit.name, 1 + event.critic_only) == (log.agent[steps], log.stage[steps])
            close(event.stats["vf_loss"] / event.stats["value_rows"], log.value_loss[steps], *LOGS)
            close(event.norms["critic"][0], log.critic_grad_norm[steps], *LOGS)
            if not event.critic_only:
                close(event.stats["policy_loss"] / event.stats["live"], log.policy_loss[steps], *LOGS)
                close(event.norms["adapters"][0], log.actor_grad_norm[steps], *LOGS)
            steps += 1

    run.run(watch)
    assert orders == file[f"{variant}.order"].tolist()
    assert (events, steps) == (len(file[f"{variant}.trace_agent"]), len(log.agent))
    same_result(policy, file, f"{variant}.")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_learners_function_does_the_same(load, variant, monkeypatch):
    file = load("a2po_iteration")
    policy, picks = policy_of(file), iter([0, *file[f"{variant}.picks"].tolist()])  # the first seeds the noise
    numbers = {"others_clip": file.number("cfg.others_clip"), "clip_growth": file.number("cfg.tuner_weight")}
    settings = settings_of(file, A2POSettings, **numbers, **VARIANTS[variant])
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.tensor([next(picks)]))
    update(policy, optimisers_of(policy, file), rollout_of(file), settings, torch.Generator())
    same_result(policy, file, f"{variant}.")


@pytest.mark.parametrize(
    ("variant", "quirk"),
    [
        ("no_speedup", "lambda_twice"),
        ("ppo_loop", "first_position"),
        ("speedup", "dead_ratios"),
        ("speedup", "fresh_bootstrap"),
        ("speedup", "single_step_ratios"),
    ],
)
def test_every_quirk_matters(load, variant, quirk):
    file = load("a2po_iteration")
    policy, run = sequence_of(file, variant, **{quirk: False})
    run.run()
    with pytest.raises(AssertionError):
        same_result(policy, file, f"{variant}.")
