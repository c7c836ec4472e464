"""MLflow: one run for each trial, in an experiment of the study's name, through Ray's own callback."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial

from lorasa_rllib.printable import printable
from lorasa_rllib.studies.curves import STEPS
from lorasa_rllib.studies.terminal import console
from lorasa_rllib.studies.tracked import hyper_parameters, tracked_result

TRIAL = "tune_trial_id"
"""Tag by which a resumed trial finds its run."""

BATCH = 100
"""Parameters in one request; MLflow's limit."""


class MLflow(MLflowLoggerCallback):
    """Tune callback that logs hyper-parameters, tracked results (over environment steps) and films to MLflow.

    The store is MLFLOW_TRACKING_URI, or MLflow's default. A resumed trial continues its run. A result that the store
    does not take is reported and left out; training goes on.
    """

    def __init__(self, study: str):
        super().__init__(experiment_name=study)

    def setup(self, *arguments: object, **info: object) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        try:
            super().setup(*arguments, **info)
        except MlflowException as error:
            raise ValueError(
                f"--logger mlflow: {error.message} MLFLOW_TRACKING_URI names the store: a server's address, "
                "sqlite:///FILE or file:///FOLDER."
            ) from error

    def log_trial_start(self, trial: Trial) -> None:
        if trial in self._trial_runs:
            return
        util, client = self.mlflow_util, self.mlflow_util._get_client()
        before = client.search_runs([util.experiment_id], f"tags.{TRIAL} = '{trial.trial_id}'", max_results=1)
        if before:
            self._trial_runs[trial] = before[0].info.run_id
            client.update_run(before[0].info.run_id, status="RUNNING")
            return
        run = client.create_run(util.experiment_id, tags={TRIAL: trial.trial_id}, run_name=str(trial)).info.run_id
        self._trial_runs[trial] = run
        params = [Param(_named(key), str(value)[:500]) for key, value in hyper_parameters(trial.config).items()]
        for start in range(0, len(params), BATCH):
            client.log_batch(run, params=params[start : start + BATCH])

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        now, step = int(1000 * time.time()), int(result[STEPS])
        metrics = [Metric(_named(key), value, now, step) for key, value in tracked_result(result).items()]
        try:
            self.mlflow_util._get_client().log_batch(self._trial_runs[trial], metrics=metrics)
        except MlflowException as error:
            console().print(printable(f"{trial!s}: a result is missing in MLflow: {error.message}"), style="yellow")

    def log_film(self, trial: Trial, film: Path, env_steps: int) -> None:
        self.mlflow_util._get_client().log_artifact(self._trial_runs[trial], str(film), "films")


def _named(key: str) -> str:
    """A key in the letters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", key)
