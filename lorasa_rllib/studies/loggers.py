"""The loggers of a study as Tune callbacks: TensorBoard, and the trackers chosen by --logger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from lorasa_rllib.install import installing
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.storage import local_folder
from lorasa_rllib.studies.tensorboard_logger import TensorBoard


@runtime_checkable
class TakesFilms(Protocol):
    """A logger that shows films."""

    def log_film(self, trial: Trial, film: Path, env_steps: int) -> None:
        """Logs a film, a local .mp4 or .gif file, of a policy after `env_steps` environment steps."""


def loggers_of(options: StudyOptions, folder: str) -> list[LoggerCallback]:
    """TensorBoard's and the chosen loggers, connected; Tune adds those of progress.csv and result.json.

    folder: the experiment's, a path or URI. Raises ImportError if a package is missing, ValueError if a tracker cannot
    be used, for example without a key.
    """
    check_installed(options.loggers)
    return [TensorBoard(), *(TRACKERS[name](options, folder) for name in options.loggers)]


def check_installed(names: Sequence[str]) -> None:
    """Raises ImportError, with the remedy, if the package of a logger, which has its name, is missing."""
    for name in names:
        if find_spec(name) is None:
            raise ImportError(
                f"--logger {name} needs the package {name}, which is not installed. Run: {installing(name)}"
            )


def _wandb(options: StudyOptions, folder: str) -> LoggerCallback:
    from lorasa_rllib.studies.wandb_logger import WandB

    logger = WandB(options.name, local_folder(folder))
    logger.setup()  # raises now, not when trials have begun, if there is no key
    return logger


def _mlflow(options: StudyOptions, folder: str) -> LoggerCallback:
    from lorasa_rllib.studies.mlflow_logger import MLflow

    logger = MLflow(options.name)
    logger.setup()  # raises now, not when trials have begun, if there is no server
    return logger


TRACKERS: dict[str, Callable[[StudyOptions, str], LoggerCallback]] = {"wandb": _wandb, "mlflow": _mlflow}
"""Name for --logger -> what makes the logger of an experiment."""
