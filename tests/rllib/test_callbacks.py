"""Callbacks of users: called when and with what the documentation says, or refused."""

from __future__ import annotations

from functools import partial

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_context import EnvContext

from lorasa_rllib import MAPPO
from lorasa_rllib.envs.base import VectorTeamEnv
from lorasa_rllib.rllib.callbacks import BY_ALGORITHMS, BY_RUNNERS, NEVER
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rollout.episodes import EpisodeSummary, Sampled

heard: list[tuple[str, dict]] = []


@pytest.fixture(autouse=True)
def nothing_heard():
    heard.clear()


def hear(hook, **arguments):
    heard.append((hook, arguments))
    if "metrics_logger" in arguments and hook in BY_RUNNERS:
        arguments["metrics_logger"].log_value(f"calls_{hook}", 1, reduce="sum")
    if hook == "on_episode_end":
        arguments["metrics_logger"].log_value("longest", arguments["episode"].length, reduce="max", window=100)


class Listener(RLlibCallback):
    """Hears everything that is ever called."""


for _hook in (*BY_RUNNERS, *BY_ALGORITHMS):
    setattr(Listener, _hook, lambda self, _hook=_hook, **arguments: hear(_hook, **arguments))

STYLES = {
    "class": (Listener,),
    "maker": (partial(Listener),),
    "classes": ([RLlibCallback, Listener],),
    "functions": {f"on_{hook}": partial(hear, f"on_{hook}") for hook in ("environment_created", "sample_end")}
    | {"on_episode_end": [partial(hear, "on_episode_end")]},
}


def listening(config, style):
    return config.callbacks(**STYLES[style]) if isinstance(STYLES[style], dict) else config.callbacks(*STYLES[style])


def of(hook) -> list[dict]:
    return [arguments for name, arguments in heard if name == hook]


@pytest.mark.parametrize("style", STYLES)
def test_callbacks_of_env_runners_are_called_and_their_metrics_are_results(small_config, build, style):
    algo = build(listening(small_config(), style))
    (created,) = of("on_environment_created")
    assert isinstance(created["env"], VectorTeamEnv) and created["env"].num_envs == 4
    context = created["env_context"]
    assert isinstance(context, EnvContext) and context["num_agents"] == 3 and context.worker_index == 0
    result = algo.train()["env_runners"]
    ends = of("on_episode_end")
    assert len(ends) == result["num_episodes"] == result["calls_on_episode_end"] > 0
    assert result["longest"] == result["episode_len_max"]
    assert result["calls_on_sample_end"] == result["calls_on_environment_created"] == 1
    (samples,) = (arguments["samples"] for arguments in of("on_sample_end"))
    assert isinstance(samples[0], Sampled) and len(samples) == 1 and samples[0].env_steps() == 64
    assert [arguments["episode"] for arguments in ends] == samples[0].episodes
    for arguments in ends:
        assert isinstance(arguments["episode"], EpisodeSummary) and arguments["prev_episode_chunks"] == []
        assert arguments["env"] is created["env"] and arguments["rl_module"] is algo.env_runner.module
        assert arguments["env_index"] in range(4) and isinstance(arguments["env_runner"], TeamEnvRunner)
    assert len({arguments["env_index"] for arguments in ends}) == 4
    # inside the round: an episode of at most 9 steps ends before the round of 16 steps does
    assert [name for name, _ in heard if name in BY_RUNNERS[1:]][-1] == "on_sample_end"


def test_callbacks_reach_remote_env_runners_and_evaluation(small_config, build):
    config = listening(small_config(), "class").env_runners(num_env_runners=1)
    config = config.evaluation(evaluation_interval=1, evaluation_duration=5, evaluation_num_env_runners=0)
    result = build(config).train()
    assert result["env_runners"]["calls_on_episode_end"] == result["env_runners"]["num_episodes"] > 0
    evaluation = result["evaluation"]["env_runners"]
    # slots that idle along while others finish their share are not reported
    assert evaluation["calls_on_episode_end"] == evaluation["num_episodes"] == 5


def test_callbacks_of_algorithms_work_as_in_rllib(small_config, build, tmp_path):
    algo = build(listening(small_config(), "class").evaluation(evaluation_interval=1, evaluation_duration=1))
    algo.train()
    algo.save_checkpoint(str(tmp_path))
    algo.load_checkpoint(str(tmp_path))
    called = [name for name, _ in heard if name in BY_ALGORITHMS]
    assert called == [
        "on_algorithm_init",
        "on_evaluate_start",
        "on_evaluate_end",
        "on_train_result",
        "on_checkpoint_loaded",
    ]
    assert all(isinstance(of(name)[0]["algorithm"], MAPPO) for name in called)


def test_without_callbacks_the_collector_has_nobody_to_call(small_config):
    for config, listens in ((small_config(), False), (listening(small_config(), "class"), True)):
        runner = TeamEnvRunner(config=config, worker_index=0)
        assert (runner.collector._on_episode_end is not None) == listens
        runner.stop()


@pytest.mark.parametrize("hook", NEVER)
def test_a_callback_that_is_never_called_is_refused_by_name(small_config, hook):
    watcher = type("Watcher", (RLlibCallback,), {hook: lambda self, **kwargs: None})
    for style in (watcher, [RLlibCallback, watcher], partial(watcher)):
        with pytest.raises(ValueError, match=f"callback {hook}.*never call it"):
            small_config().callbacks(style).validate()
    if hasattr(small_config(), f"callbacks_{hook}"):
        with pytest.raises(ValueError, match=f"callbacks_{hook}.*never call it"):
            small_config().callbacks(**{hook: print}).validate()
