"""TensorBoard: Ray's own callback, with curves over environment steps and films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import TIMESTEPS_TOTAL
from tensorboardX.proto.summary_pb2 import Summary

from lorasa_rllib.studies.curves import STEPS


class TensorBoard(TBXLoggerCallback):
    """Tune callback that writes all numbers of results, below "ray/tune/", over environment steps."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, {**result, TIMESTEPS_TOTAL: result[STEPS]})

    def log_film(self, trial: Trial, film: Path, env_steps: int) -> None:
        """Shows a film as an image; TensorBoard plays GIF only."""
        if film.suffix == ".gif" and trial in self._trial_writer:
            from imageio.v3 import imread

            height, width, _ = imread(film, index=0).shape
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=film.read_bytes())
            summary = Summary(value=[Summary.Value(tag="ray/tune/film", image=image)])
            self._trial_writer[trial].file_writer.add_summary(summary, env_steps)
