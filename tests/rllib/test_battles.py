"""Battles through the whole stack: win rates, restarts of games, deaths, on stand-ins for a game and on SMAX."""

from __future__ import annotations

import math

import pytest

from tests.envs.starcraft_standin import StandIn


@pytest.mark.parametrize("state", ["global", "agent", "pruned"])
@pytest.mark.parametrize("key", ["agent", "role"])
def test_win_rates_stand_in_results_of_training_and_evaluation(small_config, build, state, key):
    config = small_config(StandIn, {"state": state}, adapter_key=key, schedule="joint")
    config = config.evaluation(evaluation_interval=1, evaluation_duration=32).training(lr=1e-2, num_epochs=8)
    algo = build(config)
    results = [algo.train() for _ in range(20)]
    assert all(0 <= r["env_runners"]["win_rate"] <= 1 for r in results)
    first, last = results[0]["env_runners"], results[-1]["env_runners"]
    assert last["episode_return_mean"] > first["episode_return_mean"]  # attacking is all there is to learn
    assert results[-1]["evaluation"]["env_runners"]["win_rate"] > 0.9


def test_games_that_were_started_again_are_counted(small_config, build):
    algo = build(small_config(StandIn, {}))
    assert algo.train()["env_runners"]["num_simulator_restarts_lifetime"] == 0
    algo.env_runner.env._games[0]._package.faults["step"] = 1
    result = algo.train()
    assert result["env_runners"]["num_simulator_restarts_lifetime"] == 1
    assert math.isfinite(result["env_runners"]["episode_return_mean"])
    assert algo.train()["env_runners"]["num_simulator_restarts_lifetime"] == 1


@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
def test_smax_trains_by_role_with_a_recurrent_policy(small_config, build, algorithm):
    pytest.importorskip("jaxmarl", reason="needs the extra [smax]")
    env_config = {"map_name": "smacv2_5_units", "state": "pruned", "max_episode_steps": 20}
    config = small_config("smax", env_config, algorithm, adapter_key="role", phase_switch=80)
    config = config.network("published", hidden_size=16).training(train_batch_size_per_learner=80, chunk_length=10)
    algo = build(config)
    results = [algo.train() for _ in range(3)]
    assert [r["phase"] for r in results] == ["backbone", "adapters", "adapters"]
    norms = results[-1]["learners"]["shared_policy"]
    assert sum(norms[f"adapter_norm/{k}"] > 0 for k in range(6)) == 6
    assert "win_rate" in results[-1]["env_runners"]
