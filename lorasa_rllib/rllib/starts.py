"""Env runners whose process dies while it is built: told, and counted, as Ray would restart it a thousand times."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from lorasa_rllib.envs.base import TeamEnvError

STARTS = 3
"""Starts in a row that may end in the death of the process."""

PATIENCE = 10.0
"""Seconds to wait for the answer of an env runner that has probably died."""


def in_worker() -> bool:
    """Whether this is a process of Ray's. Asking for a context elsewhere would start Ray."""
    return ray.is_initialized() and bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


@contextmanager
def counted_start() -> Iterator[None]:
    """Wraps the construction of an actor. Raises TeamEnvError if its process has died `STARTS` times in the body.

    The count is kept in Ray's own store, which outlives the process. Does nothing in processes that are no actors.
    """
    if not in_worker() or (actor := ray.get_runtime_context().get_actor_id()) is None:
        yield
        return
    key = f"lorasa_rllib:starts:{actor}"
    died = int(_internal_kv_get(key) or 0)
    if died >= STARTS:
        raise TeamEnvError(
            f"its process died {died} times in a row while its environments were being built (a simulator that "
            "crashes or ends the process, too little memory). What it printed last is in its log."
        )
    _internal_kv_put(key, str(died + 1), overwrite=True)
    try:
        yield
    finally:  # alive, whatever was raised
        _internal_kv_del(key)


def death_of_runners(error: IndexError | RayError) -> str | None:
    """Why the env runners died whose group raised `error` while RLlib built it; None if it has another cause.

    RLlib's group raises IndexError if no env runner answers, the error of one that does not if none is restarted.
    """
    group = _group_of(error)
    if group is None or (isinstance(error, IndexError) and group.num_healthy_remote_env_runners()):
        return None
    if isinstance(error, RayError):
        return _last_line(error)
    for runner, actor in sorted(group._worker_manager.actors().items()):
        try:
            ray.get(actor.ping.remote(), timeout=PATIENCE)
        except RayActorError as died:
            return f"env runner {runner}: {_last_line(died)}"
        except GetTimeoutError:
            return f"env runner {runner} does not answer"
    return "their processes ended"


def _group_of(error: BaseException) -> EnvRunnerGroup | None:
    """The group whose code raised an error: RLlib's constructor leaves no other trace of it."""
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((one for one in reversed(frames) if isinstance(one, EnvRunnerGroup)), None)


def _last_line(error: RayError) -> str:
    """The last line of an error of Ray's, which has the cause: `ModuleNotFoundError: No module named 'mine'`."""
    return next(iter(str(error).strip().splitlines()[::-1]), type(error).__name__).strip().rstrip(".")


def was_restarted() -> bool:
    """Whether Ray has restarted this process, an actor, after it died."""
    if not in_worker():
        return False
    context = ray.get_runtime_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's property calls a deprecated one of its own
        return bool(context.was_current_actor_reconstructed)
