"""The shortest configs train: defaults for schedule and switch, and a word when adapters never trained."""

from __future__ import annotations

import pytest

from lorasa_rllib import A2POConfig, MAPPOConfig


@pytest.mark.parametrize("algorithm", [MAPPOConfig, A2POConfig])
def test_an_environment_is_all_that_a_config_needs(build, algorithm):
    config = algorithm().environment("synthetic").training(train_batch_size=64)
    algo = build(config)
    assert algo.train()["phase"] == "joint"


def test_the_defaults_need_nothing_but_an_environment():
    for algorithm in (MAPPOConfig, A2POConfig):
        for env in ("synthetic", "mamujoco"):
            algorithm().environment(env).validate()


def test_with_a_budget_there_are_two_phases(build):
    config = MAPPOConfig().environment("synthetic").training(train_batch_size=64).sharing(total_env_steps=256)
    algo = build(config)
    assert [algo.train()["phase"] for _ in range(4)] == ["backbone", "backbone", "adapters", "adapters"]
    assert config.plan().rates["adapters"] == [[0, pytest.approx(3 * config.lr)], [256, 0.0]]
    together = MAPPOConfig().environment("synthetic").plan().rates
    assert together["adapters"] == together["backbone"] == config.lr / 2


@pytest.mark.parametrize(
    ("sharing", "rounds", "warns"),
    [
        ({"phase_switch": 100, "total_env_steps": 128}, 2, True),  # the switch lies within the last round
        ({"phase_switch": 1000, "total_env_steps": None}, 1, True),
        ({"phase_switch": 128}, 1, False),  # stopped early, the budget is larger
        ({"phase_switch": 64, "total_env_steps": 128}, 2, False),
        ({"schedule": "joint"}, 1, False),
        ({"method": "ps", "total_env_steps": 64}, 1, False),
    ],
)
def test_a_run_that_never_trains_its_adapters_says_so(small_config, caplog, sharing, rounds, warns):
    config = small_config()
    algo = config.sharing(**sharing).build_algo()
    for _ in range(rounds):
        algo.train()
    caplog.clear()
    algo.stop()
    assert ("the adapters never trained" in caplog.text) == warns
