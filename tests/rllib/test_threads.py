"""Threads of torch: one in every process, more for a learner that has its cores to itself."""

from __future__ import annotations

import pytest
import torch

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.rllib.threads import ROWS_PER_THREAD, cores, threads, threads_of_learner


def config(steps=ROWS_PER_THREAD * 4, **learners):
    base = MAPPOConfig().environment("synthetic", env_config={"num_agents": 2}).sharing("ps").learners(**learners)
    return base.training(train_batch_size=steps, minibatch_size=None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c, 6),
        (lambda c: c.training(train_batch_size=ROWS_PER_THREAD), 2),
        (lambda c: c.training(minibatch_size=64), 1),
        (lambda c: c.training(minibatch_size="auto"), 1),
        (lambda c: c.env_runners(num_env_runners=1), 1),
        (lambda c: c.evaluation(evaluation_num_env_runners=1), 1),
        (lambda c: c.learners(num_learners=1), 1),
        (lambda c: c.learners(num_learners=2, learner_threads=3), 3),
        (lambda c: c.learners(learner_threads=5).training(minibatch_size=64), 5),
    ],
)
def test_a_learner_uses_the_cores_that_it_has_to_itself(monkeypatch, change, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads_of_learner(change(config())) == expected


def test_cores_are_those_of_the_process_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() >= 1


def test_an_update_computes_with_its_threads_and_sampling_with_one(small_config, build, monkeypatch):
    algo = build(small_config().learners(learner_threads=2))
    learner = algo.learner_group._learner
    seen, update = [], learner.update_policy
    monkeypatch.setattr(learner, "update_policy", lambda *a: (seen.append(torch.get_num_threads()), update(*a))[1])
    algo.train()
    assert seen == [2] and torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), threads(2):
        _ = 1 / 0
    assert torch.get_num_threads() == 1
