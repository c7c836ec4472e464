"""Sampling ahead: rounds one update older, every step counted once, ratios that know of it."""

from __future__ import annotations

import pytest

from tests.rllib.conftest import ALGORITHMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ahead", [False, True])
def test_rounds_are_at_most_one_update_older(small_config, build, algorithm, ahead):
    config = small_config(algorithm=algorithm).env_runners(num_env_runners=2, sample_ahead=ahead)
    algo = build(config)
    results = [algo.train() for _ in range(6)]
    seen = [result["env_runners"]["weights_seq_no"] for result in results]
    assert seen == ([0, 0, 1, 2, 3, 4] if ahead else [0, 1, 2, 3, 4, 5])
    assert [result["num_env_steps_sampled_lifetime"] for result in results] == [64 * i for i in range(1, 7)]
    assert [result["phase"] for result in results] == ["backbone"] * 2 + ["adapters"] * 4


def test_a_restored_algorithm_forgets_what_was_sampled_before(small_config, build, tmp_path):
    algo = build(small_config().env_runners(num_env_runners=1, sample_ahead=True))
    algo.train()
    algo.save_to_path(tmp_path / "checkpoint")
    algo.train()
    algo.restore_from_path(tmp_path / "checkpoint")
    result = algo.train()
    assert result["env_runners"]["weights_seq_no"] == 1 and result["num_env_steps_sampled_lifetime"] == 128


def test_it_needs_remote_env_runners(small_config):
    with pytest.raises(ValueError, match="sample_ahead=True needs remote env runners"):
        small_config().env_runners(sample_ahead=True).validate()
