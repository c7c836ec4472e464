"""Published actor and critic, whole sequences and single acting steps, and the size of every network."""

from __future__ import annotations

import json

import torch

from tests.reference.vectors import Vectors, close, published_policy, state_of

TOLERANCE = (1e-5, 1e-5)
LOG_PROB = (5e-5, 1e-5)
DISCRETE = (2e-5, 2e-5)


def actor_of(file: Vectors, continuous: bool):
    agents, size = file["obs"].shape[2:]
    actions = file[f"w.head.{'mean' if continuous else 'logits'}.bias"].shape[0]
    policy = published_policy(
        agents,
        size,
        actions,
        states=1,
        hidden=file["h0"].shape[-1],
        continuous=continuous,
        r=file.number("rank"),
        lora_alpha=file.number("alpha"),
        dtype=file.dtype,
    )
    policy.actor.load_state_dict(state_of(file.under("w")))
    return policy


def acting(policy, file: Vectors, masks=None):
    """Distributions and states of every step, acted one step at a time with merged weights."""
    actor, h = policy.acting(), file["h0"]
    for t, obs in enumerate(file["obs"]):
        available = None if masks is None else masks[t]
        distribution, h = actor.step(obs, available=available, hidden=h * file["masks"][t])
        yield t, distribution, h


def test_continuous_actor(load):
    file = load("actor_continuous")
    policy = actor_of(file, continuous=True)
    distribution, states = policy.actor.unroll(file["obs"], state=file["h0"], keep=file["masks"][..., 0] > 0)
    close(distribution.mean, file["out_mean"], *TOLERANCE)
    close(distribution.std, file["out_std"], *TOLERANCE)
    close(distribution.std.log(), file["out_log_std"], *TOLERANCE)
    close(distribution.mode(), file["out_mode"], *TOLERANCE)
    close(distribution.log_prob(file["actions"]), file["out_log_prob"], *LOG_PROB)
    close(states, file["out_rnn_states"], *TOLERANCE)
    close(states[-1], file["out_h_final"], *TOLERANCE)


def test_continuous_actor_step_by_step(load):
    file = load("actor_continuous")
    policy = actor_of(file, continuous=True)
    for t, distribution, h in acting(policy, file):
        close(distribution.mode(), file["out_mode"][t], *TOLERANCE)
        close(distribution.log_prob(file["actions"][t]), file["out_log_prob"][t], *LOG_PROB)
        close(h, file["out_rnn_states"][t], *TOLERANCE)


def test_discrete_actor(load):
    file = load("actor_discrete")
    policy = actor_of(file, continuous=False)
    sequence = {"state": file["h0"], "keep": file["masks"][..., 0] > 0}
    raw, states = policy.actor.unroll(file["obs"], **sequence)
    close(raw.log_probs, torch.log_softmax(file["out_raw_logits"], -1), *DISCRETE)
    available = file["available_actions"] > 0
    distribution, _ = policy.actor.unroll(file["obs"], masks=available, **sequence)
    close(torch.where(available, distribution.log_probs, 0.0), file["out_log_prob_all"], *DISCRETE)
    close(distribution.log_probs.exp(), file["out_prob_all"], *DISCRETE)
    assert (distribution.log_probs.exp()[~available] == 0).all()
    assert (distribution.mode()[..., 0] == file["out_mode"].long()).all()
    close(distribution.log_prob(file["actions"]), file["out_log_prob"], *DISCRETE)
    entropy = distribution.entropy()[..., 0]
    close(entropy, file["out_entropy"], *DISCRETE)
    active = file["active_masks"][..., 0]
    per_agent = (entropy * active).sum((0, 1)) / active.sum((0, 1))
    close(per_agent, file["out_entropy_agent"], *DISCRETE)
    close(per_agent.sum(), file["out_entropy_total"], *DISCRETE)
    close(states, file["out_rnn_states"], *DISCRETE)
    close(states[-1], file["out_h_final"], *DISCRETE)


def test_discrete_actor_step_by_step(load):
    file = load("actor_discrete")
    policy = actor_of(file, continuous=False)
    available = file["available_actions"] > 0
    for t, distribution, h in acting(policy, file, available):
        close(distribution.log_probs.exp(), file["out_prob_all"][t], *DISCRETE)
        close(h, file["out_rnn_states"][t], *DISCRETE)


def critic_of(file: Vectors):
    agents, size = file["inputs"].shape[2:]
    policy = published_policy(agents, 1, 1, size, file["h0"].shape[-1], method="ps", dtype=file.dtype)
    policy.critic.load_state_dict(state_of(file.under("w")))
    return policy


def test_critic(load):
    file = load("critic")
    values, states = critic_of(file).critic.unroll(file["inputs"], file["h0"], file["masks"][..., 0] > 0)
    close(values[..., None], file["out_values"], *TOLERANCE)
    close(states, file["out_rnn_states"], *TOLERANCE)
    close(states[-1], file["out_h_final"], *TOLERANCE)


def test_critic_step_by_step(load):
    file = load("critic")
    critic, h = critic_of(file).acting_critic(), file["h0"]
    for t, inputs in enumerate(file["inputs"]):
        values, h = critic.step(inputs, h * file["masks"][t])
        close(values[..., None], file["out_values"][t], *TOLERANCE)
        close(h, file["out_rnn_states"][t], *TOLERANCE)


def size_of(parameters) -> int:
    return sum(p.numel() for p in parameters.values())


def test_parameter_counts(folder):
    counts = json.loads((folder / "parameter_counts.json").read_text())
    layers = {"num_layers": counts["mlp_layers"], "post_layers": counts["post_gru_layers"]}
    assert counts["scenarios"]
    for name, scenario in counts["scenarios"].items():
        sizes = (scenario["n_agents"], scenario["obs_dim"], scenario["act_dim"], scenario["critic_input_dim"])
        options = {"continuous": scenario["continuous"], **layers}
        shared = published_policy(*sizes, counts["hidden"], method="ps", **options)
        backbone = size_of(shared.parameters_of("backbone"))
        assert backbone == scenario["ps_actor"], name
        assert size_of(shared.parameters_of("critic")) == scenario["critic"], name
        for rank, lora in scenario["lora"].items():
            adapters = size_of(
                published_policy(*sizes, counts["hidden"], r=int(rank), **options).parameters_of("adapters")
            )
            assert adapters == lora["all_agents"] == scenario["n_agents"] * lora["per_agent"], (name, rank)
            assert backbone + adapters == lora["ps_plus_lora"], (name, rank)
