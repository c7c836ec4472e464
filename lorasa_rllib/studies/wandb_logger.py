"""Weights & Biases: one run for each trial, grouped by study, through Ray's own callback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
import wandb
from ray.air.integrations.wandb import WandbLoggerCallback, _QueueItem, _WandbLoggingActor
from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION

from lorasa_rllib.printable import printable
from lorasa_rllib.studies.curves import STEPS
from lorasa_rllib.studies.full import cause_of
from lorasa_rllib.studies.terminal import console
from lorasa_rllib.studies.tracked import hyper_parameters, tracked_result

PROJECT = "lorasa"


class _Run(_WandbLoggingActor):
    """The process that logs one trial; curves are drawn over environment steps."""

    def _handle_result(self, result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if wandb.run is not None:
            wandb.define_metric("*", step_metric=STEPS)
        return super()._handle_result(result)


class WandB(WandbLoggerCallback):
    """Tune callback that logs hyper-parameters, tracked results and films to W&B.

    The project is WANDB_PROJECT or "lorasa"; WANDB_MODE=offline needs no account. A resumed trial continues its run.
    """

    _logger_actor_cls = _Run

    def __init__(self, study: str, folder: Path | None):
        """study: the runs' group. folder: the local folder in which W&B keeps its files; None: it chooses."""
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        place = {} if folder is None or "WANDB_DIR" in os.environ else {"dir": str(folder)}
        super().__init__(project=project, group=study, resume="allow", **place)

    def setup(self, *arguments: object, **info: object) -> None:
        try:
            super().setup(*arguments, **info)
        except ValueError as error:
            raise ValueError(
                "--logger wandb: W&B has no key for your account. Run `wandb login` once, or set WANDB_API_KEY; "
                "WANDB_MODE=offline needs none and writes files for `wandb sync`."
            ) from error

    def log_trial_start(self, trial: Trial) -> None:
        self.kwargs["config"] = hyper_parameters(trial.config)
        super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        tracked = tracked_result(result)
        del tracked[TRAINING_ITERATION]  # Ray would make it W&B's step, which must grow, and films come in between
        super().log_trial_result(iteration, trial, tracked)

    def _cleanup_logging_actors(self, timeout: int = 0, kill_on_timeout: bool = False) -> None:
        """Reports processes that failed, which Ray does not."""
        waiting = list(self._trial_logging_futures.values())
        for done in ray.wait(waiting, num_returns=len(waiting), timeout=timeout)[0] if waiting else []:
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                trial = self._logging_future_to_trial[done]
                console().print(printable(f"{trial!s}: W&B failed: {cause_of(error)}"), style="yellow", markup=False)
        super()._cleanup_logging_actors(timeout, kill_on_timeout)

    def log_film(self, trial: Trial, film: Path, env_steps: int) -> None:
        caption = f"{env_steps:,} environment steps"
        video = wandb.Video(str(film), caption=caption, format="gif" if film.suffix == ".gif" else "mp4")
        self._trial_queues[trial].put((_QueueItem.RESULT, {"film": video}))
