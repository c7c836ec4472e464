"""Loggers and films of the scripts: numbers under their documented keys, over environment steps; films that play."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
from ray.tune.experiment import Trial
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from lorasa_rllib import A2POConfig, MAPPOConfig
from lorasa_rllib.studies.loggers import check_installed
from lorasa_rllib.studies.tensorboard_logger import TensorBoard
from lorasa_rllib.studies.tracked import hyper_parameters, tracked_result

ROOT = Path(__file__).parents[2]
TRACKERS = [name for name in ("wandb", "mlflow") if find_spec(name)]
RETURN = "env_runners/episode_return_mean"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of two iterations of 600 environment steps, with films and all installed trackers."""
    place = tmp_path_factory.mktemp("study")
    command = [sys.executable, ROOT / "tune_configs/mamujoco.py", "--smoke", "--storage-path", place, "--name", "smoke"]
    options = ["--films", "--set", "train_batch_size_per_learner=600", *(["--logger", *TRACKERS] if TRACKERS else [])]
    with tempfile.TemporaryDirectory(prefix="lorasa", ignore_cleanup_errors=True) as sockets:
        environment = {
            **os.environ, "RAY_TMPDIR": sockets, "WANDB_MODE": "offline", "WANDB_CONSOLE": "off",
            "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        }  # fmt: skip
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=280, cwd=place, env=environment
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no film" not in done.stdout, done.stdout
    return place / "smoke"


def events(folder: Path) -> list[Event]:
    (file,) = folder.glob("events.out.tfevents.*")
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):  # length (8 bytes), its checksum (4), the event, its checksum (4)
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    return found


def test_a_film_of_every_checkpoint_lies_beside_the_trial(study):
    films = sorted((study / "HalfCheetah-2x3_lora_seed1/films").iterdir())
    assert [film.stem for film in films] == ["0000000600", "0000001200"]
    pictures = imageio.v3.imread(films[-1])
    assert len(pictures) == 40 and pictures.std() > 5  # the whole episode, and there is something on it


def test_tensorboard_draws_over_environment_steps(study):
    of_trial = events(study / "HalfCheetah-2x3_lora_seed1")
    points = [event.step for event in of_trial for value in event.summary.value if value.tag == f"ray/tune/{RETURN}"]
    assert points == [600, 1200]


@pytest.mark.skipif("mlflow" not in TRACKERS, reason="needs mlflow")
def test_mlflow_has_settings_curves_and_films(study):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{study.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "HalfCheetah-2x3_lora_seed1"
    assert run.data.params["r"] == "8" and run.data.params["env_config/agent_conf"] == "2x3"
    assert [point.step for point in client.get_metric_history(run.info.run_id, RETURN)] == [600, 1200]
    assert len(client.list_artifacts(run.info.run_id, "films")) == 2


@pytest.mark.skipif("wandb" not in TRACKERS, reason="needs wandb")
def test_wandb_has_settings_curves_and_films(study):
    (folder,) = study.glob("wandb/offline-run-*")
    assert len(list(folder.glob("files/media/videos/film_*"))) == 2
    (log,) = folder.glob("*.wandb")
    text = log.read_bytes()
    assert text.count(RETURN.encode()) >= 2 and b"env_config/agent_conf" in text and b"HalfCheetah-2x3_lora" in text
    assert b"num_env_steps_sampled_lifetime" in text and b"lorasa" in text  # the axis, the project


@pytest.mark.skipif("mlflow" not in TRACKERS, reason="needs mlflow")
def test_a_resumed_trial_continues_its_mlflow_run(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    from lorasa_rllib.studies.mlflow_logger import MLflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = MAPPOConfig().environment("mamujoco", env_config={"scenario": "Ant"}).to_dict()
    trial = Trial("MAPPO", config=config, stub=True)
    for steps in (400, 800):
        logger = MLflow("study")
        logger.setup()
        logger.log_trial_start(trial)
        result = {"num_env_steps_sampled_lifetime": steps, "env_runners": {"agents' returns": {"größe": 1.5}}}
        logger.log_trial_result(1, trial, result)
        logger.log_trial_end(trial)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    key = "env_runners/agents_ returns/größe"
    assert [point.step for point in client.get_metric_history(run.info.run_id, key)] == [400, 800]


def test_a_missing_package_is_named_with_the_remedy():
    with pytest.raises(ImportError, match=r'--logger no_tracker needs the package .*pip install -e "\.\[no_tracker\]"'):
        check_installed(["no_tracker"])


def test_results_are_tracked_under_their_documented_keys():
    result = {
        "env_runners": {"episode_return_mean": 3.0, "num_agent_steps_sampled": {"a": 5}, "win_rate": float("nan")},
        "learners": {"shared_policy": {"entropy": 1}, "__all_modules__": {"entropy": 1}},
        "config": {"lr": 1.0}, "phase": "joint", "phase_index": 2, "pid": 77,
    }  # fmt: skip
    assert tracked_result(result) == {RETURN: 3.0, "learners/shared_policy/entropy": 1, "phase_index": 2}


@pytest.mark.parametrize("config", [MAPPOConfig, A2POConfig])
def test_hyper_parameters_are_the_settings_by_their_names(config):
    built = (
        config()
        .environment("synthetic", env_config={"num_agents": 3})
        .sharing("lora", r=4, target_modules=("head",))
        .network(hidden_size=32)
        .training(lambda_=0.9, train_batch_size_per_learner=500)
    )
    found = hyper_parameters(built.to_dict())
    expected = {
        "r": 4, "lambda": 0.9, "method": "lora", "network/hidden_size": 32, "target_modules": "['head']", "gamma": 0.99,
        "env_config/num_agents": 3, "train_batch_size_per_learner": 500, "seed": None,
    }  # fmt: skip
    assert expected.items() <= found.items()
    assert "train_batch_size" not in found and len(found) < 70


def test_tensorboard_shows_films_that_are_gifs(tmp_path):
    logger, trial = TensorBoard(), Trial("MAPPO", stub=True)
    logger._trial_writer[trial] = SummaryWriter(str(tmp_path))
    imageio.v3.imwrite(tmp_path / "film.gif", np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3), np.uint8))
    logger.log_film(trial, tmp_path / "film.gif", 700)
    logger._trial_writer[trial].close()
    (event,) = [event for event in events(tmp_path) if event.summary.value]
    image = event.summary.value[0].image
    assert (event.step, image.height, image.width) == (700, 20, 30)
    assert image.encoded_image_string == (tmp_path / "film.gif").read_bytes()
