"""Env runners and learners for which there is no CPU or GPU raise an error instead of waiting without limit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lorasa_rllib import MAPPO
from lorasa_rllib.rllib.room import check_address, check_bundles, requests, wait_for_room

TOO_MUCH = {
    "env runners": (lambda c: c.env_runners(num_env_runners=16), "num_env_runners=16 need 16 CPUs"),
    "one env runner": (lambda c: c.env_runners(num_env_runners=1, num_cpus_per_env_runner=9), "9 CPUs"),
    "evaluation": (
        lambda c: c.evaluation(evaluation_interval=1, evaluation_num_env_runners=9),
        "evaluation_num_env_runners=9",
    ),
    "GPUs of learners": (lambda c: c.learners(num_learners=4, num_gpus_per_learner=1), "num_learners=4 need 4 GPUs"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_never_fits_into_a_local_instance_is_refused_at_once(small_config, case):
    change, message = TOO_MUCH[case]
    with pytest.raises(ValueError, match=f"{message}.*Lower num_env_runners"):
        change(small_config()).build_algo()


@pytest.mark.parametrize("case", TOO_MUCH)
def test_so_is_a_trial_that_never_fits(small_config, case):
    """Tune itself would wait for it."""
    change, message = TOO_MUCH[case]
    message = message.replace("16 CPUs", "17 CPUs").replace("9 CPUs", "10 CPUs")  # one for the algorithm itself
    with pytest.raises(ValueError, match=f"{message}.*Lower num_env_runners"):
        MAPPO.default_resource_request(change(small_config()).to_dict())


ONE = {"CPU": 1.0}


@pytest.mark.parametrize(
    ("learners", "bundles", "fits"),
    [
        (0, [ONE] * 4, True),
        (0, [{"CPU": 9.0}, *[{"CPU": 2.0, "GPU": 1.0}] * 3], True),
        (0, [ONE] * 3, False),
        (0, [{"CPU": 4.0}], False),
        (0, [ONE, ONE, ONE, {"CPU": 0.5}], False),
        (1, [ONE] * 4, False),
        (1, [ONE] * 5, True),
        (1, [{"CPU": 2.0}, ONE, ONE, ONE], True),
        (2, [ONE, ONE, ONE, ONE, {"CPU": 2.0}], True),
    ],
)
def test_what_does_not_fit_into_the_placement_group_of_a_trial_is_refused(small_config, learners, bundles, fits):
    config = small_config().env_runners(num_env_runners=2).learners(num_learners=learners)
    config.evaluation(evaluation_num_env_runners=1)
    if fits:
        return check_bundles(config, bundles, ONE)
    with pytest.raises(
        ValueError, match=r"num_env_runners=2.* need \d CPUs .*bundles \[\d.*Leave tune.with_resources out"
    ):
        check_bundles(config, bundles, ONE)


@ray.remote(num_cpus=1)
class Holder:
    """Takes the place of an env runner."""

    def ready(self):
        return True


@ray.remote(num_cpus=1)
class Trial:
    """Builds an algorithm's env runners beside those of another one, in the same placement group."""

    def outcomes(self, config):
        other, outcomes = Holder.options(placement_group_bundle_index=1).remote(), []
        ray.get(other.ready.remote())
        for _ in range(2):
            try:
                wait_for_room(config, limit=3)
                outcomes.append("room")
            except TimeoutError as error:
                outcomes.append(str(error))
                ray.kill(other)  # as stop() does
        return outcomes


def test_room_that_a_second_algorithm_of_the_trial_holds_is_waited_for_up_to_a_limit(small_config):
    group = placement_group([ONE, ONE])
    assert group.wait(30)
    inside = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    trial = Trial.options(scheduling_strategy=inside).remote()
    try:
        said, then = ray.get(trial.outcomes.remote(small_config().env_runners(num_env_runners=1)), timeout=60)
    finally:
        ray.kill(trial)
        remove_placement_group(group)
    assert "num_env_runners=1 need 1 CPUs" in said and "[1 CPU, 1 CPU], [0 CPU, 0 CPU] are free" in said
    assert "stop() the trial's other algorithm" in said and then == "room"


def test_a_constructor_that_fails_hides_nothing(small_config):
    """Ray shows `repr` of the actor with its error; RLlib's needs a config that is not there yet."""
    assert repr(MAPPO.__new__(MAPPO)) == "MAPPO"


def test_room_that_others_hold_is_waited_for_up_to_a_limit(small_config, caplog):
    config = small_config().env_runners(num_env_runners=8)
    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        with pytest.raises(TimeoutError, match=r"num_env_runners=8 need 8 CPUs.*8 CPUs \(7 free\).*Lower num_env"):
            wait_for_room(config, limit=1)
        assert "Waiting up to 1 s" in caplog.text
    finally:
        remove_placement_group(held)
    wait_for_room(config, limit=30)


def test_requests_are_those_of_remote_processes(small_config):
    config = small_config().env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5)
    assert requests(config.learners(num_learners=0, num_gpus_per_learner=1)) == [{"CPU": 0.5}]
    assert requests(config.learners(num_learners=1, num_gpus_per_learner=0)) == [{"CPU": 0.5}, {"CPU": 1.0}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_local_learner_without_its_gpu_is_a_clear_error(small_config):
    with pytest.raises(ValueError, match=r"num_gpus_per_learner=1 .*PyTorch finds none.*num_gpus_per_learner=0"):
        small_config().learners(num_gpus_per_learner=1).build_algo()


def test_an_address_where_nobody_answers_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto", "local", "ray://cluster/path"):
            check_address(address, "--address")
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(
            ValueError, match=rf"no Ray cluster answers at RAY_ADDRESS={address}.*leave RAY_ADDRESS out"
        ):
            check_address(address, "RAY_ADDRESS")


def test_an_algorithm_does_not_wait_for_a_cluster_that_is_gone():
    build = "from lorasa_rllib import MAPPOConfig; MAPPOConfig().environment('synthetic').build_algo()"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = subprocess.run(
        [sys.executable, "-c", build],
        env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"ValueError: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port}" in found.stderr
