"""VMAS through the whole stack: environments of tensors, and columns that learners read in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lorasa_rllib.cli import main
from lorasa_rllib.rllib.sampled import resolved

pytest.importorskip("vmas", reason="needs the extra [vmas]")

SETTINGS = {"scenario": "navigation", "n_agents": 3, "max_episode_steps": 20}


@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
@pytest.mark.parametrize(("scenario", "recurrent"), [("navigation", True), ("simple_speaker_listener", False)])
def test_it_trains_and_old_log_probs_are_those_of_the_learner(small_config, build, algorithm, scenario, recurrent):
    env_config = SETTINGS if scenario == "navigation" else {"scenario": scenario, "continuous_actions": False}
    config = small_config("vmas", env_config, algorithm).network(recurrent=recurrent).training(chunk_length=8)
    algo = build(config)
    for _ in range(2):
        result = algo.train()
    assert np.isfinite(result["env_runners"]["episode_return_mean"]) or not result["env_runners"]["num_episodes"]
    assert np.isfinite(result["learners"]["shared_policy"]["total_loss"])


def test_a_learner_in_the_same_process_reads_the_columns_where_they_are(small_config, build):
    algo = build(small_config("vmas", SETTINGS))
    (shard,) = algo.env_runner.sample()[0].shards
    rollout = resolved(shard, None)
    assert isinstance(rollout.obs, torch.Tensor) and not rollout.obs.is_inference()
    assert rollout.to("cpu").obs.data_ptr() == rollout.obs.data_ptr()
    policy = algo.env_runner.policy
    with torch.no_grad():
        now = policy.distribution(rollout.obs).log_prob(rollout.actions)
    torch.testing.assert_close(now, rollout.log_probs, rtol=1e-4, atol=1e-5)
    assert len(rollout.final_index) == int(rollout.truncated.sum())


def test_the_command_line_plays_and_draws_a_policy(small_config, build, tmp_path, capsys):
    algo = build(small_config("vmas", SETTINGS))
    algo.train()
    policy = algo.save_to_path(str(tmp_path / "checkpoint"))
    assert main(["evaluate", policy, "--episodes", "4"]) in (0, None)
    assert "4" in capsys.readouterr().out
    assert main(["render", policy, "-o", str(tmp_path / "team.gif"), "--steps", "5"]) in (0, None)
    with Image.open(tmp_path / "team.gif") as film:
        assert film.n_frames >= 2 and np.ptp(np.asarray(film.convert("L"))) > 50
