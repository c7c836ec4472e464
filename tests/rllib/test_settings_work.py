"""Every setting of RLlib's that is named as working changes something that is seen."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from lorasa_rllib import MAPPO
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.rllib.evaluation import Evaluation
from lorasa_rllib.rllib.faults import FaultRecord
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampling import Sampling
from lorasa_rllib.rllib.validation import BY_RLLIB, JUDGED, WORKS
from tests.rllib.conftest import UNEQUAL_TEAM


class Other(SyntheticTeam):
    """Another environment."""


class OtherRunner(TeamEnvRunner):
    """Another env runner."""


def comes_to(config) -> list:
    """What everything that samples, learns or asks for resources is made from."""
    config = config.copy(copy_frozen=False)
    request = MAPPO.placement_of_trial(config.copy())
    group = EnvRunnerGroup(config=config, _setup=False)
    evaluation = config.get_evaluation_config_object()
    return [
        config.env,
        config.team_spec(),
        dataclasses.asdict(config.plan().update),
        config.plan().rates,
        config.plan().entropy_coeff,
        config.total_train_batch_size,
        config.get_rollout_fragment_length(),
        (request.bundles, request.strategy),
        (group._remote_args, group._ignore_ray_errors_on_env_runners),
        evaluation.explore,
    ]


RUNNERS = {"num_env_runners": 1}
LEARNERS = {"num_learners": 2}
IN_NUMBERS = {
    "env": (Other, {}),
    "env_config": (UNEQUAL_TEAM | {"num_agents": 4}, {}),
    "gamma": (0.9, {}),
    "lambda_": (0.8, {}),
    "lr": (0.1, {}),
    "clip_param": (0.3, {}),
    "vf_clip_param": (0.3, {}),
    "vf_loss_coeff": (0.3, {}),
    "entropy_coeff": (0.3, {}),
    "grad_clip": (0.3, {}),
    "num_epochs": (7, {}),
    "minibatch_size": (32, {}),
    "train_batch_size": (128, {"_train_batch_size_per_learner": None}),
    "_train_batch_size_per_learner": (128, {}),
    "rollout_fragment_length": (8, {}),
    "num_envs_per_env_runner": (8, {}),
    "num_env_runners": (2, {}),
    "num_cpus_per_env_runner": (2, RUNNERS),
    "num_gpus_per_env_runner": (0.5, RUNNERS),
    "custom_resources_per_env_runner": ({"simulator": 1}, RUNNERS),
    "num_learners": (2, {}),
    "num_cpus_per_learner": (3, LEARNERS),
    "num_gpus_per_learner": (1, LEARNERS),
    "custom_resources_per_learner": ({"fast": 1}, LEARNERS),
    "num_cpus_for_main_process": (4, {}),
    "custom_resources_for_main_process": ({"head": 1}, {}),
    "placement_strategy": ("SPREAD", {}),
    "evaluation_config": ({"explore": True}, {}),
    "evaluation_num_env_runners": (2, {"evaluation_interval": 1}),
    "restart_failed_env_runners": (True, {}),
    "ignore_env_runner_failures": (True, {}),
    "max_num_env_runner_restarts": (3, {"restart_failed_env_runners": True}),
}
"""Setting -> another value, and settings that it needs beside it."""


@pytest.mark.parametrize("name", IN_NUMBERS)
def test_of_those_that_are_numbers_for_somebody(small_config, name):
    value, beside = IN_NUMBERS[name]
    plain = small_config(env_config=UNEQUAL_TEAM)
    for other, its_value in beside.items():
        setattr(plain, other, its_value)
    changed = plain.copy()
    setattr(changed, name, value)
    assert comes_to(plain) != comes_to(changed)
    assert comes_to(plain) == comes_to(plain.copy())


# In an env runner, or in what asks env runners


def runner_of(config, **options):
    return TeamEnvRunner(config=config, **options)


def with_settings(config, **settings):
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def draws_actions(config) -> bool:
    """Whether actions depend on random numbers."""
    found = []
    for seed in range(2):
        torch.manual_seed(0)  # of the weights
        runner = runner_of(config, worker_index=0)
        runner.collector._generator.manual_seed(seed)
        found.append(runner.sample()[0].shards[0].actions)
    return not np.array_equal(*found)


def has_environment(config) -> bool:
    return runner_of(config, worker_index=0).collector is not None


def learns_to_reduce(config) -> bool:
    try:
        runner_of(config, worker_index=0).metrics.log_value("x", 1.0, reduce="of_mine")
    except ValueError:
        return False
    return True


def first_observations(config) -> float:
    return float(runner_of(config, worker_index=0).sample()[0].shards[0].obs[0].sum())


def is_slow_to_go(config) -> bool:
    def slip(runner):
        raise RuntimeError("a slip")

    began = time.monotonic()
    with pytest.raises(SystemExit):
        runner_of(config, worker_index=0).apply(slip)
    return time.monotonic() - began > 0.5


def waits_for_env_runners(config) -> str:
    group = EnvRunnerGroup(config=config, _setup=False)
    with pytest.raises(RuntimeError) as lost:
        Sampling(group, config, FaultRecord(), lambda: None)._wait_for_a_runner()
    return str(lost.value)


def steps_at_a_time(config) -> tuple[int, int]:
    evaluation = Evaluation(config, FaultRecord())
    return evaluation._steps(0.0), evaluation._steps(1e9)


def first_request(config) -> dict:
    return Evaluation(config, FaultRecord())._request(5, first=True)


IN_RUNNERS = {
    "seed": (7, {}, first_observations),
    "explore": (False, {}, draws_actions),
    "create_env_on_local_worker": (True, RUNNERS, has_environment),
    "delay_between_env_runner_restarts_s": (0.6, {"restart_failed_env_runners": True}, is_slow_to_go),
    "env_runner_restore_timeout_s": (0.6, {"restart_failed_env_runners": True}, waits_for_env_runners),
    "evaluation_auto_duration_min_env_steps_per_sample": (17, {}, steps_at_a_time),
    "evaluation_auto_duration_max_env_steps_per_sample": (1700, {}, steps_at_a_time),
    "evaluation_force_reset_envs_before_iteration": (False, {"evaluation_duration_unit": "timesteps"}, first_request),
    "evaluation_duration_unit": ("timesteps", {}, first_request),
}
"""Setting -> another value, settings that it needs beside it, and where it is seen."""
SHORT = {"delay_between_env_runner_restarts_s": 0.0, "env_runner_restore_timeout_s": 0.0}


@pytest.mark.parametrize("name", IN_RUNNERS)
def test_of_those_that_env_runners_go_by(small_config, name):
    value, beside, seen = IN_RUNNERS[name]
    plain = with_settings(small_config(), **SHORT, **beside)
    assert seen(plain) != seen(with_settings(plain.copy(), **{name: value}))


def test_another_set_of_statistics(small_config):
    plain = small_config()
    lookup = {**plain.stats_cls_lookup, "of_mine": plain.stats_cls_lookup["mean"]}
    changed = plain.copy().reporting(custom_stats_cls_lookup=lookup)
    assert learns_to_reduce(changed) and not learns_to_reduce(plain)


def test_a_gpu_that_is_not_there_is_named_by_its_number(small_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # without any, the number is not looked at
    config = small_config().learners(num_gpus_per_learner=1, local_gpu_idx=97)
    with pytest.raises(ValueError, match="local_gpu_idx=97 must be below 1,"):
        config.build_algo()


# In a run


def sampled(algo) -> int:
    return algo.train()["env_runners"]["num_env_steps_sampled"]


def evaluated(algo) -> list[int | None]:
    """Episodes of the evaluation of two iterations, None for one without."""
    results = [algo.train().get("evaluation") for _ in range(2)]
    return [r and r.get("own", r.get("env_runners", {}).get("num_episodes")) for r in results]


def own_evaluation(algo, group):
    return {"own": 77}, 0, 0


def recent_return(algo) -> float:
    for _ in range(3):
        result = algo.train()
    return result["env_runners"]["episode_return_mean"]


IN_A_RUN = {
    "env_runner_cls": (OtherRunner, lambda algo: type(algo.env_runner)),
    "log_level": ("CRITICAL", lambda algo: logging.getLogger("ray.rllib").level),
    "log_sys_usage": (False, lambda algo: algo._monitor.is_alive()),
    "metrics_num_episodes_for_smoothing": (1, recent_return),
    "min_time_s_per_iteration": (0.5, sampled),
    "min_train_timesteps_per_iteration": (100, sampled),
    "min_sample_timesteps_per_iteration": (100, sampled),
    "evaluation_interval": (2, evaluated),
    "evaluation_duration": (3, evaluated),
    "custom_evaluation_function": (own_evaluation, evaluated),
}
"""Setting -> another value, and what is seen of the run."""


@pytest.fixture(scope="module")
def plain_runs():
    """What was seen of runs with settings as they are."""
    return {}


@pytest.mark.parametrize("name", IN_A_RUN)
def test_of_those_that_are_seen_in_a_run(small_config, build, plain_runs, name):
    value, seen = IN_A_RUN[name]
    base = with_settings(small_config(), evaluation_interval=None if seen is not evaluated else 1)
    if seen not in plain_runs:
        plain_runs[seen] = seen(build(base))
    assert plain_runs[seen] != seen(build(with_settings(base.copy(), **{name: value})))


ELSEWHERE = {
    "sample_timeout_s": "cluster/test_faults.py",
    "evaluation_sample_timeout_s": "rllib/test_faults.py",
    "evaluation_parallel_to_training": "rllib/test_faults.py",
    "evaluation_error_after_n_consecutive_skips": "rllib/test_faults.py",
    "create_local_env_runner": "rllib/test_workers.py",
    "stats_cls_lookup": "rllib/test_settings_work.py",
    "local_gpu_idx": "rllib/test_settings_work.py",
}
"""Setting -> the tests that see what it does, with processes of their own."""


def test_all_are_accounted_for():
    callbacks = {name for name in WORKS if name.startswith("callbacks_")}  # see test_callbacks.py
    assert {*IN_NUMBERS, *IN_RUNNERS, *IN_A_RUN, *ELSEWHERE, *callbacks, *BY_RLLIB, *JUDGED} == WORKS
    tests = Path(__file__).parents[1]
    for name, file in ELSEWHERE.items():
        assert name in (tests / file).read_text(), name
