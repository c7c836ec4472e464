"""The learner sees what the runner did: log-probabilities before the first optimiser step equal the runner's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lorasa_rllib.learning.batch import prepare
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import shards_of_learners
from tests.envs.games import Guests

ENVIRONMENTS = {
    "unequal agents": ("synthetic", {"num_agents": 3, "unequal": True, "episode_length": 9, "termination": 0.05}),
    "masks, deaths and roles": (
        "synthetic",
        {"num_agents": 3, "discrete": True, "deaths": 0.05, "num_roles": 2, "episode_length": 9, "termination": 0.05},
    ),
    "roles that change in an episode": (
        "synthetic",
        {"num_agents": 4, "num_roles": 3, "role_changes": 0.3, "episode_length": 9, "termination": 0.05},
    ),
    "agents that go and return": ("pettingzoo", {"env": Guests}),
    "HalfCheetah 6x1": ("mamujoco", {"scenario": "HalfCheetah", "agent_conf": "6x1", "max_episode_steps": 11}),
}


def distinct_adapters(policy, generator_seed=0):
    """Fills every adapter with values of its own: at zero effect these tests would prove nothing.

    They are small enough for means of about 1: an action four standard deviations from its mean has a log-probability
    that moves by eleven times what rounding moves the mean.
    """
    generator = torch.Generator().manual_seed(generator_seed)
    with torch.no_grad():
        for parameter in policy.parameters_of("adapters").values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


NETWORKS = {
    "feed-forward": {},
    "recurrent actor": {"recurrent": True},
    "published": {"preset": "published", "hidden_size": 16},
}


def live(x, batch):
    """Rows [L, C, N, ...] of live agents."""
    return x[batch.active]


def log_probs_of_learner(policy, rollout, config):
    """Of the live rows of a rollout, recomputed as a learner does; they and the values have to be the runner's."""
    batch, _ = prepare(copy.deepcopy(policy), rollout, config.plan().update)
    with torch.no_grad():
        distribution = policy.distribution(
            batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.actor_keep
        )
        log_probs = distribution.log_prob(batch.actions)
        values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
    torch.testing.assert_close(live(log_probs, batch), live(batch.log_probs, batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(values, batch.values, rtol=0, atol=1e-5)
    return live(log_probs, batch)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("phase", ["backbone", "adapters", "joint"])
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_log_probs_and_values_on_the_learner_equal_those_of_two_runners_in_every_live_row(
    small_config, env, phase, network, reference=False
):
    name, env_config = ENVIRONMENTS[env]
    by_role = {"adapter_key": "role"} if "num_roles" in env_config else {}
    config = small_config(name, env_config, **by_role).network(**NETWORKS[network])
    config = config.env_runners(num_env_runners=2, num_envs_per_env_runner=3)
    config = config.training(train_batch_size_per_learner=6 * 20, chunk_length=5, reference=reference)
    learner = config.build_learner(spaces=config.spaces())
    distinct_adapters(learner.policy)
    learner.policy.set_phase(phase)
    weights = learner.get_state(components="rl_module", inference_only=True)
    runners = [TeamEnvRunner(config=config, worker_index=index) for index in (0, 0)]
    ended = 0
    for runner in runners:
        runner.make_env()
        runner.set_state({"rl_module": weights["rl_module"], "weights_seq_no": 1})
    for _ in range(2):  # the second fragment begins inside episodes
        sampled = [runner.sample()[0] for runner in runners]
        rollout = shards_of_learners(sampled).rollout(timeout_s=1).to("cpu")
        ended += int((rollout.terminated | rollout.truncated).sum())
        assert rollout.num_envs == 6
        assert log_probs_of_learner(learner.policy, rollout, config).std() > 0
        assert (rollout.values is not None) == (network == "published")
        check_stored_values(learner.policy, rollout)
    assert ended > 6
    for runner in runners:
        runner.stop()


def test_runners_remember_for_absent_agents_where_the_learner_does(small_config):
    test_log_probs_and_values_on_the_learner_equal_those_of_two_runners_in_every_live_row(
        small_config, "agents that go and return", "joint", "published", reference=True
    )


def check_stored_values(policy, rollout):
    """Bootstrap values that the runner stored equal an unroll of whole environments, step by step."""
    if rollout.values is None:
        return
    ended, critic = rollout.terminated | rollout.truncated, policy.critic
    at = {(int(t), int(e)): i for i, (t, e) in enumerate(rollout.final_index)}
    hidden = rollout.critic_state[0]
    with torch.no_grad():
        for t in range(rollout.num_steps):
            hidden = critic.unroll(rollout.state[t : t + 1], hidden)[1][0]
            for e in ended[t].nonzero().flatten().tolist():
                if (t, e) in at:
                    i = at[t, e]
                    value = critic.unroll(rollout.final_state[None, i : i + 1], hidden[e : e + 1])[0]
                    torch.testing.assert_close(rollout.final_values[i], value[0, 0], rtol=0, atol=1e-5)
            hidden = torch.where(ended[t][:, None, None], 0.0, hidden)
        last = critic.unroll(rollout.state[-1:], hidden)[0][0]
    torch.testing.assert_close(rollout.values[-1], last, rtol=0, atol=1e-5)


def test_adapters_change_what_runners_do(small_config):
    config = small_config()
    learner = config.build_learner(spaces=config.spaces())
    distinct_adapters(learner.policy)
    obs = torch.randn(5, 3, 4)
    means = {}
    for phase in ("backbone", "adapters"):
        learner.policy.set_phase(phase)
        means[phase] = learner.policy.acting().step(obs)[0].mean
    assert (means["backbone"] - means["adapters"]).abs().max() > 1e-3


def test_evaluation_runs_a_fixed_share_of_episodes_in_every_slot(small_config, build):
    algo = build(small_config().evaluation(evaluation_interval=1, evaluation_duration=10))
    evaluation = algo.train()["evaluation"]["env_runners"]
    assert evaluation["num_episodes"] == 10
    assert np.isfinite(evaluation["episode_return_mean"])


def test_greedy_evaluation_is_the_default_and_repeats_itself(small_config, build):
    fixed = {"scenario": "HalfCheetah", "agent_conf": "2x3", "max_episode_steps": 5, "reset_noise_scale": 0.0}
    algo = build(small_config("mamujoco", fixed).evaluation(evaluation_interval=1, evaluation_duration=4))
    assert algo.evaluation_config.explore is False
    first, second = (algo.evaluate()["env_runners"] for _ in range(2))
    assert first["episode_return_min"] == first["episode_return_max"] == second["episode_return_mean"]


def test_runners_receive_no_critic(small_config):
    config = small_config()
    learner = config.build_learner(spaces=config.spaces())
    weights = learner.get_state(components="rl_module", inference_only=True)["rl_module"][MODULE_ID]
    assert weights and not any("critic" in name or "value_norm" in name for name in weights)


@pytest.mark.parametrize("in_evaluation", [False, True])
@pytest.mark.parametrize("seed", [0, 3, 429_197, 2**31 - 1])
def test_environments_get_seeds_that_simulators_take(small_config, seed, in_evaluation):
    """`numpy.random.RandomState` takes 32 bits, some simulators a signed integer of as many."""
    config = small_config().debugging(seed=seed)
    config.in_evaluation = in_evaluation
    runner, seen = TeamEnvRunner(config=config, worker_index=2), []
    reset = runner.env.reset
    runner.env.reset = lambda number: seen.append(number) or reset(number)
    for _ in range(2):
        runner.collector.restart()
        runner._remade += 1
    assert isinstance(seen[0], int) and 0 <= seen[0] < 2**31 - runner.num_envs and seen[1] is None
