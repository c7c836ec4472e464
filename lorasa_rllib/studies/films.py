"""Films of greedy episodes while a study runs, one of every checkpoint, each made in a Ray task of its own.

Drawing in another process costs training no time, and a graphics library that crashes ends no trial. Films lie beside
the trial, `films/0000300000.mp4` after 300,000 environment steps, and go to the loggers that show them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.folder import INSIDE, read_policy
from lorasa_rllib.policies.saved import SavedPolicy
from lorasa_rllib.printable import printable
from lorasa_rllib.rllib.storage import on_this_machine
from lorasa_rllib.studies.curves import STEPS
from lorasa_rllib.studies.full import cause_of
from lorasa_rllib.studies.loggers import TakesFilms
from lorasa_rllib.studies.playing import Environment, environment_of, record
from lorasa_rllib.studies.terminal import console

FOLDER = "films"
SECONDS = 120.0
"""Time allowed for films that are not finished when their trial ends."""

LONGEST, FPS = 300, 25
"""Environment steps of a film, unless the episode ends before, and pictures per second; as `lorasa render` has them."""


@dataclass(frozen=True)
class Pending:
    """A film that is being made. film: reference to its contents; env_steps: those its policy was trained for."""

    trial: Trial
    env_steps: int
    film: ray.ObjectRef


class Films(Callback):
    """Tune callback that films a greedy episode of every checkpoint. A failed film is reported; training goes on.

    takers: loggers that show films; they must follow this callback, which waits for a trial's films before its end.
    """

    def __init__(self, takers: Sequence[TakesFilms] = ()):
        self._takers = list(takers)
        self._pending: list[Pending] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_takers": self._takers, "_pending": []}  # films are not made twice

    def on_checkpoint(self, trial: Trial, checkpoint: Any, **info: object) -> None:
        try:
            with on_this_machine(f"{checkpoint.path}/{INSIDE}", checkpoint.filesystem) as here:
                policy = read_policy(here, trust=True)
        except ValueError as error:
            _report(trial, error)
            return
        environment = Environment(trial.config["env"], dict(trial.config["env_config"]), trusted=True)
        film = _filmed.remote(policy, environment, trial.config.get("seed") or 0)
        self._pending.append(Pending(trial, int(trial.last_result[STEPS]), film))

    def on_step_begin(self, **info: object) -> None:
        self._collect([one for one in self._pending if ray.wait([one.film], timeout=0)[0]])

    def on_trial_complete(self, trial: Trial, **info: object) -> None:
        self._collect([one for one in self._pending if one.trial == trial])

    def on_trial_error(self, trial: Trial, **info: object) -> None:
        self.on_trial_complete(trial)

    def _collect(self, made: Sequence[Pending]) -> None:
        for one in made:
            self._pending.remove(one)
            try:
                suffix, contents = ray.get(one.film, timeout=SECONDS)
                path = (
                    Path(one.trial.local_path) / FOLDER / f"{one.env_steps:010d}{suffix}"
                )  # Tune copies it to storage
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(contents)
            except (ray.exceptions.RayError, OSError) as error:
                _report(one.trial, error)
                continue
            for taker in self._takers:
                taker.log_film(one.trial, path, one.env_steps)


@ray.remote(num_cpus=0, max_retries=0)
def _filmed(policy: SavedPolicy, environment: Environment, seed: int) -> tuple[str, bytes]:
    """Suffix and contents of a film of the environment's first copy."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    suffix = ".mp4" if find_spec("imageio_ffmpeg") else ".gif"
    team = environment_of(policy, 1, {}, rendered=True, environment=environment)
    try:
        with tempfile.TemporaryDirectory(prefix="lorasa_film_") as folder:
            path = Path(folder) / f"film{suffix}"
            record(team, LoadedPolicy(policy), path, LONGEST, FPS, greedy=True, seed=seed)
            return suffix, path.read_bytes()
    finally:
        team.close()


def _report(trial: Trial, error: Exception) -> None:
    console().print(printable(f"{trial!s}: no film: {cause_of(error)}"), style="yellow", markup=False)
