"""Real kills on a cluster of several raylets: training goes on or resumes, every step is counted once, nothing hangs.

A killed driver and SIGTERM: tests/studies/test_mamujoco_script.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pyarrow.fs import PyFileSystem
from ray import tune

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.envs.base import TeamEnvError
from tests.cluster.faulty import BATCH, ENVS, FaultyTeam, KillsALearner, LocalDiskThatFailsOnce

pytestmark = pytest.mark.cluster

PATIENCE = 3  # seconds of sampling until an env runner counts as stuck


def make_config(orders: Path, seconds: float = 0.0, num_env_runners: int = 2):
    env_config = {"orders": str(orders), "seconds": seconds, "num_agents": 3}
    config = MAPPOConfig().environment(FaultyTeam, env_config=env_config)
    return (
        config.sharing("lora", r=2, total_env_steps=100_000, phase_switch=0.5)
        .network(hidden_size=16)
        .env_runners(
            num_env_runners=num_env_runners,
            num_envs_per_env_runner=ENVS,
            custom_resources_per_env_runner={"runner": 1},
            sample_timeout_s=PATIENCE,
        )
        .training(train_batch_size_per_learner=BATCH, num_epochs=1)
        .debugging(seed=1, log_level="ERROR")
    )


@pytest.fixture
def algo(nodes, tmp_path, request):
    """Two env runners on two nodes; `indirect` parameters are those of `make_config`."""
    algo = make_config(tmp_path, **getattr(request, "param", {})).build_algo()
    yield algo
    algo.stop()


def trained(result) -> tuple[int, int]:
    return result["num_env_steps_sampled_lifetime"], result["learners"]["__all_modules__"][
        "num_env_steps_trained_lifetime"
    ]


def train(algo, iterations: int = 1):
    """Trains; every iteration samples and trains one batch."""
    before = trained(algo.train())
    for _ in range(iterations - 1):
        result = algo.train()
        assert trained(result) == (before[0] + BATCH, before[1] + BATCH)
        before = trained(result)
    return before


def until(algo, word: str, limit: float = 60.0) -> str:
    """Trains until a fault with this word is reported; every iteration adds exactly one batch. Returns all faults."""
    faults, deadline, steps = "", time.monotonic() + limit, None
    while word not in faults:
        assert time.monotonic() < deadline, f"{word!r} is not in {faults!r}"
        result = algo.train()
        now = trained(result)
        assert now[0] == now[1] and (steps is None or now[0] == steps + BATCH)
        steps, faults = now[0], faults + result["faults"]
        time.sleep(0.05)
    return faults


def pids(algo) -> list[int]:
    return algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)


@pytest.mark.parametrize("algo", [{"seconds": 0.2}], indirect=True)
def test_an_env_runner_killed_while_it_samples_costs_its_part_of_a_round(algo):
    train(algo)
    victim, survivor = pids(algo)
    threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
    faults = until(algo, "died")
    assert "its round is lost, 1 are left" in faults
    until(algo, "came back")
    assert survivor in pids(algo) and victim not in pids(algo) and len(pids(algo)) == 2


def test_a_lost_node_costs_nothing_but_speed_and_its_runner_moves_to_a_new_one(algo, nodes):
    train(algo)
    nodes.remove()
    until(algo, "died")
    started = time.monotonic()
    train(algo, 20)
    assert time.monotonic() - started < 15  # RLlib's own probe would wait 30 s in every iteration
    nodes.add()
    until(algo, "came back", limit=100)
    assert algo.env_runner_group.num_healthy_remote_workers() == 2


@pytest.mark.parametrize(
    ("order", "word"),
    [("raise", "OSError: the simulator lost its licence"), ("nan", "NaN or infinite value in rewards")],
)
def test_an_environment_that_fails_once_is_made_anew(algo, tmp_path, order, word):
    train(algo)
    (tmp_path / order).touch()
    assert word in until(algo, word)
    train(algo, 5)


def test_an_environment_that_hangs_loses_its_process(algo, tmp_path):
    train(algo)
    before = pids(algo)
    (tmp_path / "hang").touch()
    started = time.monotonic()
    until(algo, "died")
    assert PATIENCE <= time.monotonic() - started < PATIENCE + 8
    until(algo, "came back")
    assert len(set(pids(algo)) - set(before)) == 1


@pytest.mark.parametrize("algo", [{"num_env_runners": 1}], indirect=True)
def test_with_no_runner_left_training_waits_for_one(algo):
    train(algo)
    os.kill(pids(algo)[0], signal.SIGKILL)
    assert "waiting for one to come back" in until(algo, "came back")


def test_a_rollout_lost_on_its_way_to_the_learner_is_sampled_once_more(algo):
    steps, _ = train(algo)
    sampled = algo._sample()
    for pid in pids(algo):  # with them goes what they have sampled
        os.kill(pid, signal.SIGKILL)
    time.sleep(2)
    assert not algo._update(sampled)
    assert trained(algo.train()) == (steps + 2 * BATCH, steps + BATCH)


class AlwaysFails(FaultyTeam):
    def step(self, actions):
        raise OSError("no licence")


def test_an_environment_that_always_fails_ends_training_with_its_own_words(nodes, tmp_path):
    config = make_config(tmp_path).environment(AlwaysFails)
    algo = config.build_algo()
    with pytest.raises(TeamEnvError, match=r"OSError: no licence(.|\n)*in step"):
        algo.train()
    algo.stop()


def fit(config, storage: Path, **run):
    results = tune.Tuner(
        "MAPPO",
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(storage),
            stop={"num_env_steps_sampled_lifetime": 6 * BATCH},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
            **run,
        ),
    ).fit()
    (result,) = results
    return result


def test_a_killed_learner_resumes_from_the_last_checkpoint(nodes, tmp_path):
    config = make_config(tmp_path, num_env_runners=0).learners(num_learners=1).callbacks(KillsALearner)
    result = fit(config, tmp_path / "results")
    assert result.error is None and (tmp_path / "killed").exists()
    assert trained(result.metrics) == (6 * BATCH, 6 * BATCH)
    steps = result.metrics_dataframe["training_iteration"].tolist()
    assert steps == [1, 2, 3, 3, 4, 5, 6]  # killed after the third, went on from the second


def test_storage_that_fails_once_costs_the_way_back_to_the_last_checkpoint(nodes, tmp_path):
    filesystem = PyFileSystem(LocalDiskThatFailsOnce(str(tmp_path / "failed")))
    result = fit(make_config(tmp_path, num_env_runners=0), tmp_path / "results", storage_filesystem=filesystem)
    assert result.error is None and (tmp_path / "failed").exists()
    assert trained(result.metrics) == (6 * BATCH, 6 * BATCH)
