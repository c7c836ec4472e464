"""User callbacks: calls those of env runners, and lists the RLlib hooks that are never called. Env runners call

    on_environment_created  env_runner, metrics_logger, env, env_context
    on_episode_end          episode, prev_episode_chunks, env_runner, metrics_logger, env, env_index, rl_module
    on_sample_end           env_runner, metrics_logger, samples

`episode` is an `EpisodeSummary` of the whole episode, `prev_episode_chunks` is empty, `samples` is a list with one
`Sampled`, and `env` is the `VectorTeamEnv`. By the time `on_episode_end` is called, the slot's next episode has already
begun. Values logged with `metrics_logger` appear in the results under "env_runners". If a callback raises, the run ends
with a `CallbackError` that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils import force_list

from lorasa_rllib.rllib.faults import CallbackError
from lorasa_rllib.rollout.checks import named
from lorasa_rllib.rollout.episodes import EpisodeSummary, Sampled

if TYPE_CHECKING:
    from lorasa_rllib.rllib.runner import TeamEnvRunner

BY_RUNNERS = ("on_environment_created", "on_episode_end", "on_sample_end")
BY_ALGORITHMS = (
    "on_algorithm_init",
    "on_train_result",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_env_runners_recreated",
    "on_checkpoint_loaded",
)
NEVER = tuple(sorted({n for n in vars(RLlibCallback) if n.startswith("on_")} - {*BY_RUNNERS, *BY_ALGORITHMS}))
"""RLlib hooks that are never called: there are no episode objects while episodes run, and some do not apply here."""


def never_called(callback: type[RLlibCallback] | Callable[[], RLlibCallback]) -> list[str]:
    """Hooks that a callback class (or factory) overrides although they are never called."""
    listener = callback if isinstance(callback, type) else callback()
    return [hook for hook in NEVER if _defines(listener, hook)]


def _defines(listener: RLlibCallback | type[RLlibCallback], hook: str) -> bool:
    """Whether a callback class or object overrides a hook."""
    cls = listener if isinstance(listener, type) else type(listener)
    return getattr(cls, hook) is not getattr(RLlibCallback, hook)


class RunnerCallbacks:
    """The callbacks of one env runner. No overhead if the user has set none."""

    def __init__(self, runner: TeamEnvRunner):
        self._runner = runner
        self._objects = [make() for make in force_list(runner.config.callbacks_class)]

    def environment_created(self) -> None:
        config = self._runner.config
        context = EnvContext(
            config.env_config,
            worker_index=self._runner.worker_index,
            num_workers=config.num_env_runners,
            remote=config.remote_worker_envs,
        )
        self._call("on_environment_created", env=self._runner.env, env_context=context)

    def sample_end(self, sampled: list[Sampled]) -> None:
        self._call("on_sample_end", samples=sampled)

    def episode_end(self) -> Callable[[EpisodeSummary, int], None] | None:
        """Function to call with each finished episode and its environment slot; None if no callback is set."""
        hook = "on_episode_end"
        if not self._functions(hook) and not any(_defines(listener, hook) for listener in self._objects):
            return None
        return self._episode_end

    def _episode_end(self, summary: EpisodeSummary, env_index: int) -> None:
        runner = self._runner
        self._call(
            "on_episode_end",
            episode=summary,
            prev_episode_chunks=[],
            env=runner.env,
            env_index=env_index,
            rl_module=runner.module,
        )

    def _functions(self, hook: str) -> list[Callable[..., object]]:
        return force_list(getattr(self._runner.config, f"callbacks_{hook}"))

    def _call(self, hook: str, **arguments: object) -> None:
        arguments = {"env_runner": self._runner, "metrics_logger": self._runner.metrics} | arguments
        methods = [getattr(listener, hook) for listener in self._objects]
        for function in (*methods, *self._functions(hook)):
            try:
                function(**arguments)
            except Exception as error:
                name = getattr(function, "__qualname__", repr(function))
                raise CallbackError(f"the callback {hook} ({name}) raised {named(error)}") from error
