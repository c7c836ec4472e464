"""Our env runner samples what RLlib's does: same weights, seeds and greedy actions give the same columns.

A new environment is one line in `ENVIRONMENTS`.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from lorasa_rllib import shared_policy_spec
from lorasa_rllib.rllib.module import MODULE_ID, map_to_shared_policy
from lorasa_rllib.rllib.runner import TeamEnvRunner
from tests.envs import games
from tests.rllib.test_sampling import distinct_adapters

STEPS, ENVS, SEED = 40, 4, 5
SEED_OF_ENVIRONMENTS = SEED * 10_007  # our collector spreads seeds of env runners out

UNEQUAL = {"num_agents": 4, "unequal": True, "episode_length": 9, "termination": 0.08}
DISCRETE = UNEQUAL | {"discrete": True, "action_size": 5}
SPREAD = {"env": "mpe2.simple_spread_v3", "max_cycles": 9}
ENVIRONMENTS = {  # (environment, its settings, settings of sharing, how its episodes end)
    "continuous": ("synthetic", UNEQUAL, {}, {"terminated", "truncated"}),
    "discrete, deaths": ("synthetic", DISCRETE | {"deaths": 0.1}, {}, {"terminated", "truncated"}),
    "own rewards": ("synthetic", DISCRETE | {"shared_reward": False}, {}, {"terminated", "truncated"}),
    "by role": ("synthetic", DISCRETE | {"num_roles": 2}, {"adapter_key": "role"}, {"terminated", "truncated"}),
    "HalfCheetah": ("mamujoco", {"agent_conf": "6x1", "max_episode_steps": 7}, {}, {"truncated"}),
    "Hopper": ("mamujoco", {"scenario": "Hopper", "agent_conf": "3x1", "max_episode_steps": 60}, {}, {"terminated"}),
    "spread": ("pettingzoo", SPREAD, {}, {"truncated"}),
    "spread, continuous": ("pettingzoo", SPREAD | {"continuous_actions": True}, {}, {"truncated"}),
    "masked": ("pettingzoo", {"env": games.Masked}, {}, {"truncated"}),
    "leavers": ("pettingzoo", {"env": games.Leavers, "length": 9}, {}, {"truncated"}),
    "Pusher": ("mamujoco", {"scenario": "Pusher", "agent_conf": "3p", "max_episode_steps": 12}, {}, {"truncated"}),
}

slot_of_episode: dict[str, int] = {}


def remember_slot(*, episode, env_index, **kwargs):
    slot_of_episode[episode.id_] = env_index


def stock_steps(env, env_config, spec, weights) -> dict[int, list[dict]]:
    """What RLlib's runner sampled: for each environment slot its steps in order."""
    config = (
        PPOConfig()
        .environment(env, env_config=env_config, disable_env_checking=True)  # the check ignores action masks
        .multi_agent(policies={MODULE_ID}, policy_mapping_fn=map_to_shared_policy)
        .rl_module(rl_module_spec=spec)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS)
        .callbacks(on_episode_created=remember_slot)
        .debugging(seed=SEED_OF_ENVIRONMENTS)
    )
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    module = runner.module[MODULE_ID]
    module.set_state(weights)
    steps = defaultdict(list)
    # Slots that reset skip a step here: more steps in all, so that every slot has enough.
    for episode in runner.sample(num_timesteps=2 * STEPS * ENVS, explore=False):
        steps[slot_of_episode[episode.id_]] += steps_of(episode, module)
    runner.stop()
    return steps


def steps_of(episode, module) -> list[dict]:
    """An episode of RLlib, agent by agent, as one dictionary per step. "last": the rows after its last step."""
    parts = episode.agent_episodes
    length = max(len(part) for part in parts.values())
    steps = [{"rewards": 0.0, "rows": {}, "actions": {}, "log_probs": {}, "last": {}} for _ in range(length)]
    for agent, part in parts.items():
        observations, actions, rewards = part.get_observations(), part.get_actions(), part.get_rewards()
        inputs = torch.as_tensor(np.asarray(part.get_extra_model_outputs("action_dist_inputs")))
        distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
        log_probs = distribution.logp(torch.as_tensor(np.asarray(actions)))
        for t in range(len(part)):
            steps[t]["rows"][agent] = {name: column[t] for name, column in observations.items()}
            steps[t]["actions"][agent] = np.atleast_1d(actions[t])
            steps[t]["log_probs"][agent] = float(log_probs[t])
            steps[t]["rewards"] += float(rewards[t])
        steps[len(part) - 1]["last"][agent] = {name: column[len(part)] for name, column in observations.items()}
    for t, step in enumerate(steps):
        step["terminated"] = episode.is_terminated and t == length - 1
        step["truncated"] = episode.is_truncated and t == length - 1
    return steps


def our_rollouts(config, weights) -> list:
    """Two rollouts: the second begins inside episodes."""
    runner = TeamEnvRunner(config=config, worker_index=0)
    runner.module[MODULE_ID].set_state(weights)
    rollouts = [runner.sample(num_timesteps=STEPS // 2 * ENVS, explore=False)[0].shards[0] for _ in range(2)]
    runner.stop()
    return rollouts


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_columns_equal_those_of_rllibs_env_runner(small_config, name):
    env, env_config, sharing, ends = ENVIRONMENTS[name]
    spec = shared_policy_spec(env, env_config, "lora", r=2, network={"hidden_size": 16}, **sharing)
    module = spec.build()
    distinct_adapters(module.policy)
    config = small_config(env, env_config, **sharing).network(obs_norm="layer")  # RLlib's learners update no statistics
    config = config.env_runners(num_envs_per_env_runner=ENVS).debugging(seed=SEED)
    theirs = stock_steps(env, env_config, spec, module.get_state())
    ours = our_rollouts(config, module.get_state())
    team = module.policy.config.spec
    # Merged weights and rows sorted by agent round differently; contacts of bodies amplify that within a few steps.
    tolerance = 1e-2 if env == "mamujoco" else 1e-5
    seen = set()
    for e in range(ENVS):
        steps = iter(theirs[e])
        for rollout in ours:
            for t in range(rollout.num_steps):
                step = next(steps)
                check_step(rollout, t, e, step, team, {"rtol": tolerance, "atol": tolerance})
                seen |= {end for end in ("terminated", "truncated") if step[end]}
    assert seen == ends
    assert ours[0].actions.std() > 0.1


def check_step(rollout, t, e, step, team, close) -> None:
    """Compares one step of one environment slot. Stock rows of an environment without masks allow every choice."""
    alive = [(n, agent) for n, agent in enumerate(team.agents) if rollout.active[t, e, n]]
    assert {agent for _, agent in alive} == set(step["rows"])
    for n, agent in alive:
        row = step["rows"][agent]
        assert row["agent"] == n
        np.testing.assert_allclose(rollout.obs[t, e, n], row["obs"], **close)
        np.testing.assert_allclose(rollout.state[t, e], row["state"], **close)
        np.testing.assert_allclose(rollout.actions[t, e, n], step["actions"][agent], **close)
        np.testing.assert_allclose(rollout.log_probs[t, e, n].sum(), step["log_probs"][agent], **close)
        if rollout.masks is not None:
            allowed = row["action_mask"] if team.has_masks else team.action_mask()[n]
            np.testing.assert_array_equal(rollout.masks[t, e, n], allowed)
        if rollout.roles is not None:
            assert rollout.roles[t, e, n] == row["role"]
    np.testing.assert_allclose(rollout.rewards[t, e].sum(), step["rewards"], **close)
    assert (rollout.terminated[t, e], rollout.truncated[t, e]) == (step["terminated"], step["truncated"])
    if step["truncated"]:
        (k,) = np.flatnonzero((rollout.final_index == (t, e)).all(-1))
        for n, agent in alive:
            np.testing.assert_allclose(rollout.final_obs[k, n], step["last"][agent]["obs"], **close)
            np.testing.assert_allclose(rollout.final_state[k], step["last"][agent]["state"], **close)
