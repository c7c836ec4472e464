"""Running observation statistics through the Ray layer: learner, runners, files and checkpoints hold the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib import MAPPO, load_policy
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.stock import shared_policy_spec

TEAM = {"num_agents": 3, "unequal": True, "episode_length": 9, "termination": 0.05}
ROLES = {"num_agents": 3, "discrete": True, "deaths": 0.1, "num_roles": 2, "episode_length": 9}
RECURRENT = {"preset": "published", "hidden_size": 16}
CASES = [
    ("MAPPO", TEAM, {}, {}),
    ("A2PO", TEAM, {}, {}),
    ("MAPPO", TEAM, {}, RECURRENT),
    ("MAPPO", ROLES, {"adapter_key": "role"}, {}),
    ("A2PO", ROLES, {"adapter_key": "role"}, RECURRENT),
]


@pytest.mark.parametrize(("algorithm", "env_config", "sharing", "network"), CASES)
@pytest.mark.parametrize("obs_norm", ["running", "running_team"])
def test_the_learner_normalises_a_rollout_as_its_runner_did(
    small_config, build, algorithm, env_config, sharing, network, obs_norm
):
    config = small_config(env_config=env_config, algorithm=algorithm, **sharing)
    algo = build(config.network(**network, obs_norm=obs_norm).training(chunk_length=8))
    learner = algo.learner_group._learner
    sample, seen = algo.env_runner.sample, []

    def recorded(**kwargs):
        samples = sample(**kwargs)
        (rollout,) = samples[0].shards
        check(rollout)
        seen.append(rollout)
        return samples

    def check(rollout):
        rollout, policy = rollout.to("cpu"), learner.policy
        recurrent = policy.actor.recurrent
        with torch.no_grad():
            if recurrent:  # chunk by chunk from the states that were stored
                for chunk in range(2):
                    at = slice(8 * chunk, 8 * chunk + 8)
                    ended = (rollout.terminated | rollout.truncated)[at]
                    keep = torch.cat([torch.ones_like(ended[:1]), ~ended[:-1]]).unsqueeze(-1)
                    pick = {name: getattr(rollout, name) for name in ("roles", "masks")}
                    pick = {name: None if x is None else x[at] for name, x in pick.items()}
                    found = policy.distribution(rollout.obs[at], state=rollout.actor_state[chunk], keep=keep, **pick)
                    compare(found.log_prob(rollout.actions[at]), rollout.log_probs[at], rollout.active[at])
                    values = policy.critic.unroll(rollout.state[at], rollout.critic_state[chunk], keep)[0]
                    torch.testing.assert_close(values, rollout.values[at], rtol=0, atol=1e-5)
            else:
                found = policy.distribution(rollout.obs, roles=rollout.roles, masks=rollout.masks)
                compare(found.log_prob(rollout.actions), rollout.log_probs, rollout.active)

    def compare(found, expected, active):
        torch.testing.assert_close(found[active], expected[active], rtol=0, atol=1e-5)

    algo.env_runner.sample = recorded
    phases = [algo.train()["phase"] for _ in range(4)]
    assert phases == ["backbone"] * 2 + ["adapters"] * 2 and len(seen) == 4
    norm = learner.policy.actor.obs_norm
    obs, active = (np.concatenate([getattr(r, name) for r in seen[:2]]) for name in ("obs", "active"))
    if obs_norm == "running":
        for n, size in enumerate(learner.policy.config.spec.obs_sizes):
            mine = obs[:, :, n, :size][active[:, :, n]].astype(np.float64)
            np.testing.assert_allclose(norm.mean[n, :size], mine.mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(norm.var[n, :size], mine.var(0), rtol=1e-5, atol=1e-6)


def test_files_and_checkpoints_act_with_the_statistics(small_config, build, tmp_path):
    algo = build(small_config().network("normalised"))
    for _ in range(3):
        algo.train()
    norm = algo.learner_group._learner.policy.actor.obs_norm
    policy = load_policy(algo.save_policy(tmp_path / "policy"))
    obs = 5 * torch.randn(6, 3, policy.spec.obs_size) * torch.as_tensor(policy.spec.obs_mask())
    expected = policy.spec.to_environment(algo.env_runner.policy.acting().step(obs)[0].mode().numpy())
    np.testing.assert_allclose(policy.act(obs.numpy())[0], expected, rtol=1e-5, atol=1e-6)
    algo.save_to_path(tmp_path / "checkpoint")
    again = MAPPO.from_checkpoint(str(tmp_path / "checkpoint"))
    try:
        for one in (again.learner_group._learner.policy, again.env_runner.policy):
            torch.testing.assert_close(one.actor.obs_norm.state_dict(), norm.state_dict(), rtol=0, atol=0)
    finally:
        again.stop()


def test_a_backbone_brings_its_statistics_also_to_a_larger_team(small_config, build, tmp_path):
    same = TEAM | {"unequal": False}
    first = build(
        small_config(env_config=same).network("normalised", id_features="none").training(critic_input="state")
    )
    first.train()
    files = first.save_policy(tmp_path / "policy")
    (files / "critic.safetensors").unlink()
    larger = small_config(env_config=same | {"num_agents": 5}, phase_switch=0, backbone=str(files))
    algo = build(larger.network("normalised", id_features="none"))
    old, new = (a.learner_group._learner.policy.actor.obs_norm.mean for a in (first, algo))
    assert torch.equal(new[:3], old) and old.any() and torch.equal(new[3], new[4])
    assert algo.train()["phase"] == "adapters"


def test_old_settings_are_read_and_stock_learners_are_refused():
    config = TeamConfig().environment("synthetic", env_config=TEAM).sharing("ps")
    config.network_settings = {"feature_norm": False}  # of a checkpoint before obs_norm
    config.validate()
    assert config.plan().policy.network.obs_norm is None
    assert config.network(obs_norm="running").plan().policy.network.obs_norm == "running"
    assert TeamConfig().network(feature_norm=False).network_settings["obs_norm"] is None
    with pytest.raises(ValueError, match="needs this package's learners"):
        shared_policy_spec("synthetic", TEAM, network={"obs_norm": "running"})
