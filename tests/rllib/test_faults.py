"""What env runners, environments and callbacks raise reaches the results, the log and the exception that ends a run."""

from __future__ import annotations

import logging

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rllib.evaluation import EvaluationSkipped
from lorasa_rllib.rllib.faults import CallbackError, Fault, FaultRecord, OnlyOnce
from tests.rllib.failing import Endless, Failing, SecondCopyFails, Slip

TEAM = {"num_agents": 3, "episode_length": 9}
WHERE = pytest.mark.parametrize("runners", [0, 1], ids=["local", "remote"])


@pytest.fixture
def failing(small_config, tmp_path):
    """Configs of an environment that fails on request, with env runners that are restarted."""

    def make(env=Failing, evaluation=None, **env_config):
        orders = {"orders": str(tmp_path)} if env is Failing else {}
        config = small_config(env, TEAM | orders | env_config).fault_tolerance(restart_failed_env_runners=True)
        if evaluation is not None:
            config = config.evaluation(
                evaluation_interval=1, evaluation_duration=6, evaluation_num_env_runners=evaluation
            )
        return config

    return make


def order(folder, *orders):
    for name in orders:
        (folder / name).touch()


# Training


@WHERE
def test_a_fault_of_an_environment_is_told_and_its_traceback_logged_once(failing, build, tmp_path, caplog, runners):
    algo = build(failing().env_runners(num_env_runners=runners))
    order(tmp_path, "raise1", "raise2")
    result = algo.train()
    assert result["num_faults"] == 2 and result["num_env_steps_sampled_lifetime"] == 64
    name = "env runner 1" if runners else "the local env runner"
    told = f"{name}: the environment raised OSError: the simulator lost its licence; environments rebuilt"
    assert result["faults"].count(told) == 2
    assert caplog.text.count(told) == 2 and caplog.text.count("Traceback") == 1
    assert "raise OSError" in caplog.text  # the line of the environment's own code
    assert algo.train()["faults"] == ""


@WHERE
def test_an_environment_that_always_fails_ends_the_run_with_its_words_and_traceback(failing, build, tmp_path, runners):
    algo = build(failing().env_runners(num_env_runners=runners))
    order(tmp_path, "always")
    with pytest.raises(TeamEnvError, match=r"env runner.* raised OSError: no licence at all(.|\n)*in step") as raised:
        algo.train()
    if not runners:  # the exception itself cannot travel
        assert isinstance(raised.value.__cause__.__cause__, OSError)


def test_the_copy_that_failed_is_named(small_config, build):
    algo = build(small_config("pettingzoo", {"env": SecondCopyFails}))
    with pytest.raises(TeamEnvError, match="environment 1 raised RuntimeError: simulator crashed"):
        algo.train()


def test_a_constructor_that_fails_on_an_env_runner_is_shown_with_its_cause(failing, build):
    import os

    config = failing(built_in=os.getpid()).env_runners(num_env_runners=1)
    with pytest.raises(TeamEnvError, match=r"env runner 1.*FileNotFoundError: maps/town_05(.|\n)*in __init__"):
        build(config)


def test_a_constructor_that_ends_its_process_is_tried_three_times(failing, build):
    import os

    config = failing(built_in=os.getpid(), dies=True).env_runners(num_env_runners=1)
    with pytest.raises(TeamEnvError, match=r"env runner 1: its process died 3 times in a row while its environments"):
        build(config)


@pytest.mark.parametrize("restart", [False, True])
def test_env_runners_whose_machine_lacks_the_environments_module_say_so(small_config, build, monkeypatch, restart):
    import sys
    import types

    module = types.ModuleType("only_here")
    exec("from tests.envs.games import Game\nclass Mine(Game): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    config = small_config("pettingzoo", {"env": module.Mine}).env_runners(num_env_runners=1)
    config.fault_tolerance(restart_failed_env_runners=restart)
    with pytest.raises(RuntimeError, match=r"could be built: .*No module named 'only_here'\. Their log"):
        build(config)


def test_an_env_runner_that_cannot_make_its_environment_anew_ends_the_run_with_the_cause(failing, build, tmp_path):
    import os

    algo = build(failing(built_in=os.getpid()))
    algo.env_runner.config.env_config["built_in"] = -1
    order(tmp_path, "raise1")
    with pytest.raises(TeamEnvError, match="could not be made: FileNotFoundError: maps/town_05"):
        algo.train()


# Callbacks


@pytest.mark.parametrize(
    ("hook", "runners"),
    [
        ("on_environment_created", 0),
        ("on_episode_end", 0),
        ("on_sample_end", 0),
        ("on_environment_created", 1),
        ("on_episode_end", 1),
    ],
)
def test_a_callback_that_raises_ends_the_run_by_name(failing, build, caplog, hook, runners):
    config = failing().env_runners(num_env_runners=runners).callbacks(Slip.in_hook(hook))
    error = "AttributeError: 'EpisodeSummary'" if hook == "on_episode_end" else "KeyError: 'episode'"
    with pytest.raises(CallbackError, match=rf"the callback {hook} \(Slip.{hook}\) raised {error}") as raised:
        build(config).train()
    assert runners == 0 or "in slip" in str(raised.value)
    assert caplog.text.count("Traceback") <= 1


@WHERE
def test_a_callback_that_raises_in_evaluation_ends_the_run(failing, build, runners):
    algo = build(failing(evaluation=runners).callbacks(Slip.in_hook("on_episode_end", evaluation=True)))
    with pytest.raises(CallbackError, match=r"evaluation env runner.*callback on_episode_end(.|\n)*in slip"):
        algo.train()


# Evaluation


@WHERE
def test_an_environment_that_fails_in_evaluation_is_told_or_ends_the_run(failing, build, tmp_path, runners):
    algo = build(failing(evaluation=runners))
    algo.train()
    order(tmp_path, "raise1")
    assert algo.evaluate()["env_runners"]["num_episodes"] == 6
    assert "evaluation env runner" in algo.train()["faults"]
    order(tmp_path, "always")
    with pytest.raises(TeamEnvError, match=r"evaluation env runner.*OSError: no licence(.|\n)*in step"):
        algo.evaluate()


@WHERE
def test_an_episode_without_end_skips_the_evaluation_and_every_iteration_says_so(failing, build, runners):
    config = failing(Endless, evaluation=runners)
    config = config.evaluation(evaluation_sample_timeout_s=0.5, evaluation_error_after_n_consecutive_skips=3)
    algo = build(config)
    for times in (1, 2):
        result = algo.train()
        assert f"evaluation skipped, {times} in a row: " in result["faults"]
        assert "no episode has ended in 0.5 s" in result["faults"]
        assert all(way in result["faults"] for way in ("max_episode_steps", "evaluation_sample_timeout_s=0.5"))
        assert result["evaluation"]["env_runners"] == {"num_episodes": 0}
    with pytest.raises(EvaluationSkipped, match=r"evaluation_sample_timeout_s=0\.5"):
        algo.train()


def test_a_step_that_takes_long_does_not_make_an_episode_endless(failing, build):
    """The limit counts from one end to the next, not for all episodes of an evaluation."""
    algo = build(failing(evaluation=0).evaluation(evaluation_duration=4000, evaluation_sample_timeout_s=2.0))
    assert algo.evaluate()["env_runners"]["num_episodes"] == 4000


def test_lost_evaluation_env_runners_skip_the_evaluation(failing, build, tmp_path):
    algo = build(failing(evaluation=1).fault_tolerance(delay_between_env_runner_restarts_s=0.0))
    assert algo.train()["evaluation"]["env_runners"]["num_episodes"] == 6
    algo.eval_env_runner_group.foreach_env_runner(
        lambda runner: setattr(runner.env, "step", lambda actions: __import__("os")._exit(3)), local_env_runner=False
    )
    result = algo.train()
    assert "evaluation env runner 1 died; 0 are left" in result["faults"]
    assert "evaluation skipped, 1 in a row" in result["faults"]


@pytest.mark.parametrize("unit", ["timesteps", "auto"])
def test_evaluation_by_steps_and_beside_training(failing, build, unit):
    config = failing(evaluation=1 if unit == "auto" else 0)
    if unit == "auto":
        config = config.evaluation(evaluation_duration="auto", evaluation_parallel_to_training=True)
    else:
        config = config.evaluation(evaluation_duration=100, evaluation_duration_unit="timesteps")
    evaluation = build(config).train()["evaluation"]["env_runners"]
    assert evaluation["num_env_steps_sampled"] >= 100 and evaluation["num_episodes"] >= 8


def test_nobody_to_evaluate_with_is_said_with_the_setting(failing, build):
    algo = build(failing().env_runners(num_env_runners=1))
    with pytest.raises(ValueError, match="evaluation_num_env_runners=1"):
        algo.evaluate()


# The parts


@pytest.mark.parametrize(
    ("error", "line", "kind"),
    [
        (TeamEnvError("agent 'a' is lost\nmore"), "agent 'a' is lost", TeamEnvError),
        (KeyError(), "KeyError", RuntimeError),
        (ZeroDivisionError("one\ntwo"), "ZeroDivisionError: one", RuntimeError),
        (CallbackError("the callback x"), "the callback x", CallbackError),
    ],
)
def test_a_fault_has_a_line_and_a_kind(error, line, kind):
    fault = Fault.of(error, travels=True)
    assert (fault.line, fault.kind, fault.cause) == (line, kind, None)
    assert isinstance(fault.exception("env runner 3"), kind) and "env runner 3: " + line in str(
        fault.exception("env runner 3")
    )


def test_the_record_shows_a_traceback_once(caplog):
    record = FaultRecord()
    for _ in range(3):
        record.tell("line", "Traceback of it")
    record.tell("came back", is_fault=False)
    assert record.count == 3 and record.take() == ["line"] * 3 + ["came back"] and record.take() == []
    assert caplog.text.count("Traceback of it") == 1 and record.last() == "line; line; line"


def test_of_rllibs_log_only_repeated_deaths_are_dropped():
    def passes(message):
        return OnlyOnce().filter(logging.makeLogRecord({"msg": message}))

    assert not passes(ActorDiedError())
    cause = RayTaskError("f", "Traceback ...", KeyError("x"))
    assert passes(cause) and passes(ActorDiedError(cause)) and passes("Worker exception caught during `apply()`")
