"""The small configs that tests of the Ray layer share."""

from __future__ import annotations

import pytest

from lorasa_rllib import A2POConfig, MAPPOConfig

ALGORITHMS = {"MAPPO": MAPPOConfig, "A2PO": A2POConfig}

UNEQUAL_TEAM = {"num_agents": 3, "unequal": True, "episode_length": 9, "termination": 0.05}


@pytest.fixture(scope="session", autouse=True)
def ray_instance(ray_address):
    """All tests of this folder have a Ray."""


@pytest.fixture
def small_config():
    """Makes quick configs: two-phase LoRASA on an unequal team, 4 environments x 16 steps, switch after 2 rounds."""

    def make(env="synthetic", env_config=None, algorithm="MAPPO", **sharing):
        return (
            ALGORITHMS[algorithm]()
            .environment(env, env_config=UNEQUAL_TEAM if env_config is None else env_config)
            .sharing("lora", **{"r": 2, "total_env_steps": 10_000, "phase_switch": 128} | sharing)
            .network(hidden_size=16)
            .env_runners(num_env_runners=0, num_envs_per_env_runner=4)
            .training(train_batch_size_per_learner=64, num_epochs=2, lr=1e-2, target_kl=None)
            .debugging(seed=3, log_level="ERROR")
            .fault_tolerance(restart_failed_env_runners=False)
        )

    return make


@pytest.fixture
def build():
    """Builds algorithms and stops them after the test."""
    built = []

    def make(config):
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algo in built:
        algo.stop()
