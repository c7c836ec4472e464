"""What fails on request: a team environment, a learner, storage."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler
from ray.rllib.callbacks.callbacks import RLlibCallback

from lorasa_rllib.envs.synthetic import SyntheticTeam

ENVS, BATCH = 4, 64


class FaultyTeam(SyntheticTeam):
    """Fails once for every file that somebody puts into the folder `orders`: "raise", "nan" or "hang".

    seconds: time that a step takes, so that there is time to be killed in.
    """

    def __init__(self, num_envs: int, orders: str = "", seconds: float = 0.0, **settings):
        super().__init__(num_envs, **settings)
        self._orders, self._seconds = Path(orders), seconds

    @classmethod
    def team_spec(cls, orders: str = "", seconds: float = 0.0, **settings):
        return super().team_spec(**settings)

    def step(self, actions):
        time.sleep(self._seconds)
        step = super().step(actions)
        if self._taken("raise"):
            raise OSError("the simulator lost its licence")
        if self._taken("hang"):
            time.sleep(10_000)
        if self._taken("nan"):
            step.rewards = np.full_like(step.rewards, np.nan)
        return step

    def _taken(self, order: str) -> bool:
        try:
            (self._orders / order).unlink()
        except FileNotFoundError:
            return False
        return True


class KillsALearner(RLlibCallback):
    """Kills the learner after the third iteration, once; remembers it in the file "killed" in the folder `orders`."""

    def on_train_result(self, *, algorithm, result, **kwargs):
        done = Path(algorithm.config.env_config["orders"], "killed")
        if result["training_iteration"] == 3 and not done.exists():
            done.touch()
            (pid,) = algorithm.learner_group.foreach_learner(lambda learner: os.getpid())
            os.kill(pid.get(), signal.SIGKILL)


class LocalDiskThatFailsOnce(FSSpecHandler):
    """For `PyFileSystem`. Fails at the second checkpoint written to it; remembers it in the file `failed`."""

    def __init__(self, failed: str):
        super().__init__(LocalFileSystem())
        self._failed = Path(failed)

    def open_output_stream(self, path, metadata):
        if "checkpoint_000001" in path and not self._failed.exists():
            self._failed.touch()
            raise OSError("the storage is not available")
        return super().open_output_stream(path, metadata)
