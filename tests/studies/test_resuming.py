"""Experiments that were killed: what is damaged is set aside, what is whole goes on, nothing begins again silently."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from pyarrow.fs import LocalFileSystem

from benchmarks.chaos import DAMAGES, cut, flip
from lorasa_rllib.rllib.checkpoints import is_whole
from lorasa_rllib.studies.options import read_options
from lorasa_rllib.studies.resuming import RESULTS, NothingToResume, _last_snapshot, put_in_order, tuner_is_whole
from lorasa_rllib.studies.run import _restored
from lorasa_rllib.studies.settings import check_unchanged
from tests.studies.test_mamujoco_script import start

TRIAL = "HalfCheetah-2x3_lora_seed1"
MORE = [
    "--total-env-steps", 1_200, "--phase-switch", 600, "--num-envs-per-env-runner", 4, "--name", "killed",
    "--evaluation-interval", 3, "--env-set", "max_episode_steps=25",
    "--set", "train_batch_size_per_learner=100", "minibatch_size=50", "num_epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The storage of a study that was killed after its third checkpoint."""
    storage = tmp_path_factory.mktemp("storage")
    process, folder = start(*MORE, "--storage-path", storage), storage / "killed"
    deadline = time.monotonic() + 300
    while not (two_checkpoints_are_kept(folder) and state_names_a_checkpoint(folder) and results_of(folder)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    return storage


def two_checkpoints_are_kept(folder: Path) -> bool:
    return len(list(folder.glob("*/checkpoint_*/files.json"))) >= 2


def results_of(folder: Path) -> int:
    """Number of rows that Tune has synced, which it does after the state."""
    file = folder / TRIAL / RESULTS
    return len(file.read_text().splitlines()) if file.is_file() else 0


def state_names_a_checkpoint(folder: Path) -> bool:
    try:
        snapshot, _ = _last_snapshot(folder)
    except FileNotFoundError:
        return False
    return snapshot is not None and snapshot.trials[0].checkpoint is not None


@pytest.fixture
def folder(killed, tmp_path) -> Path:
    """A copy of its experiment, with an older state beside the newest, as a second start leaves it."""
    copy = shutil.copytree(killed, tmp_path / "storage") / "killed"
    for name in ("experiment_state", "basic-variant-state"):
        newest = max(copy.glob(f"{name}-*"))
        shutil.copy(newest, newest.with_name(f"{name}-2020-01-01_00-00-00.json"))
    put_in_order(copy, LocalFileSystem())
    return copy


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / TRIAL).glob("checkpoint_*"))


def goes_on_from(folder: Path) -> str | None:
    snapshot, _ = _last_snapshot(folder)
    checkpoint = snapshot.trials[0].checkpoint
    return None if checkpoint is None else Path(checkpoint.path).name


def test_what_is_whole_is_left_alone_and_the_last_checkpoint_is_taken(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert put_in_order(folder, LocalFileSystem()) == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert goes_on_from(folder) == checkpoints(folder)[-1] and tuner_is_whole(folder)


@pytest.mark.parametrize("what", ["newest state emptied", "newest state cut", "searcher's state cut"])
def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(folder, what):
    newest = max(folder.glob("experiment_state-*"))
    DAMAGES[what](folder)
    (told, *_) = put_in_order(folder, LocalFileSystem())
    assert newest.name in told and "set aside" in told and (folder / f"damaged_{newest.name}").is_file()
    assert goes_on_from(folder) == checkpoints(folder)[-1]


def test_without_any_whole_state_nothing_is_changed(folder):
    DAMAGES["all states emptied"](folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no state of the experiment is whole .experiment_state") as caught:
            put_in_order(folder, LocalFileSystem())
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    for path in folder.glob("*/checkpoint_*"):
        shutil.rmtree(path)
    with pytest.raises(NothingToResume, match="begins again"):
        put_in_order(folder, LocalFileSystem())


@pytest.mark.parametrize(
    "what",
    [
        "last checkpoint removed", "a file of the last checkpoint cut", "weights of the last checkpoint flipped",
        "last checkpoint without its list",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, what):
    *_, before, last = checkpoints(folder)
    DAMAGES[what](folder)
    told = put_in_order(folder, LocalFileSystem())
    assert last in told[0] and f"continues from {before}" in told[-1]
    assert goes_on_from(folder) == before == checkpoints(folder)[-1]
    assert put_in_order(folder, LocalFileSystem()) == []


def test_without_a_whole_checkpoint_a_trial_says_that_it_begins_again(folder):
    DAMAGES["all checkpoints emptied"](folder)
    results = (folder / TRIAL / RESULTS).read_bytes()
    told = put_in_order(folder, LocalFileSystem())
    assert "begins again" in told[-1] and goes_on_from(folder) is None
    assert (folder / TRIAL / f"earlier_{RESULTS}").read_bytes() == results


@pytest.mark.parametrize("what", ["result.json cut", "result.json ends in zeros"])
@pytest.mark.parametrize("journal", [True, False])
def test_results_that_were_cut_off_are_taken_from_the_journal_or_named(folder, what, journal):
    DAMAGES[what](folder)
    if not journal:
        shutil.rmtree(folder / "study/results")
    told = put_in_order(folder, LocalFileSystem())
    text = (folder / TRIAL / RESULTS).read_text()
    latest = _last_snapshot(folder)[0].trials[0].run_metadata.checkpoint_manager.latest_checkpoint_result
    reached, there = latest.metrics["training_iteration"], len(text.splitlines())
    lost = f"the results of {reached - there} iteration(s) from {there + 1} to {reached} are lost to the curves"
    assert (there < reached) == (what == "result.json cut" and not journal) == any(lost in line for line in told)
    assert text.endswith("\n") or (not text and "cut" in what)
    assert [json.loads(line)["training_iteration"] for line in text.splitlines()] == list(
        range(1, len(text.splitlines()) + 1)
    )


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b""), cut, flip, lambda f: f.write_bytes(b"x")])
def test_a_damaged_tuner_is_noticed(folder, damage):
    damage(folder / "tuner.pkl")
    assert not tuner_is_whole(folder) or damage is flip  # a flipped byte of a setting is a setting


def test_damaged_options_are_named(folder):
    options = read_options(
        ["--methods", "ps", "--resume", "--storage-path", str(folder.parent), "--name", "killed"], "a study"
    )
    DAMAGES["settings.json emptied"](folder)
    with pytest.raises(ValueError, match=r"killed/study/settings.json is damaged") as caught:
        check_unchanged(options, str(folder))
    assert "\n" not in str(caught.value)


def test_an_experiment_of_a_version_with_other_settings_is_refused_in_one_sentence(folder):
    with pytest.raises(ValueError, match=r"started with a version .* another --name") as refused:
        _restored(read_options(["--methods", "ps"], "a study"), {"a setting of this version": 1}, str(folder))
    assert "\n" not in str(refused.value) and str(refused.value).count(". ") == 0


def test_a_checkpoint_is_whole_only_with_every_byte(folder):
    checkpoint = max((folder / TRIAL).glob("checkpoint_*"))
    files = [file for file in checkpoint.rglob("*") if file.is_file()]
    assert is_whole(checkpoint) and len(files) > 20
    for file in files:
        data = file.read_bytes()
        for damaged in (data[:-1], b"", data + b" ") if data else ():
            file.write_bytes(damaged)
            assert not is_whole(checkpoint) or (file.name == "files.json" and damaged), file
        file.unlink()
        assert not is_whole(checkpoint), file
        file.write_bytes(data)
    assert is_whole(checkpoint)


def test_it_goes_on_from_the_checkpoint_before_a_damaged_one_with_every_step_once(folder):
    DAMAGES["newest state emptied"](folder)
    DAMAGES["a file of the last checkpoint cut"](folder)
    DAMAGES["tuner.pkl emptied"](folder)
    DAMAGES["result.json ends in zeros"](folder)
    process = start(*MORE, "--storage-path", folder.parent, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in output, output
    assert "tuner.pkl is damaged" in output and "continues from checkpoint_" in output
    assert pd.read_csv(folder / "curves.csv")["env_steps"].tolist() == list(range(100, 1300, 100))
