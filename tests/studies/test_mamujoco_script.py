"""The Tune script as a user runs it: through both phases, and on again after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

FOLDERS = tempfile.TemporaryDirectory(prefix="lorasa", ignore_cleanup_errors=True)  # short: sockets lie in it
ROOT = Path(__file__).parents[2]


def start(*arguments, script="mamujoco", address=None) -> subprocess.Popen:
    """Starts the script with a Ray of its own, or in the one at this address."""
    command = [sys.executable, str(ROOT / "tune_configs" / f"{script}.py"), *map(str, arguments)]
    ray = {"RAY_ADDRESS": address} if address else {"RAY_TMPDIR": tempfile.mkdtemp(prefix="r", dir=FOLDERS.name)}
    environment = {**os.environ, **ray}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd="/",
        env=environment,
    )  # fmt: skip


def test_the_smoke_run_goes_through_both_phases_and_leaves_table_figure_and_checkpoint(tmp_path):
    process = start("--smoke", "--storage-path", f"file://{tmp_path}", "--name", "smoke")  # a URI, as s3:// is
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    folder = tmp_path / "smoke"
    assert {"table.csv", "curves.csv", "learning_curves.png"} <= {path.name for path in folder.iterdir()}
    curves = pd.read_csv(folder / "curves.csv")
    assert curves["phase"].drop_duplicates().tolist() == ["backbone", "adapters"]
    assert curves["env_steps"].max() == 1200
    assert list(folder.glob("HalfCheetah-2x3_lora_seed1/checkpoint_*/algorithm_state.pkl"))
    assert "learning_curves.png" in output and "from_checkpoint" in output
    again = start("--smoke", "--storage-path", f"file://{tmp_path}", "--name", "smoke")
    output, _ = again.communicate(timeout=100)
    assert again.returncode == 2 and "already holds an experiment" in output


def test_a_killed_run_resumes_and_ends_with_the_exact_number_of_steps(tmp_path):
    arguments = ["--storage-path", tmp_path, "--name", "smoke_killed", "--smoke"]
    process = start(*arguments)
    folder, deadline = tmp_path / "smoke_killed", time.monotonic() + 200
    while time.monotonic() < deadline and not list(folder.glob("*/checkpoint_*/algorithm_state.pkl")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    resumed = start(*arguments, "--resume")
    output, _ = resumed.communicate(timeout=250)
    assert resumed.returncode == 0, output
    curves = pd.read_csv(folder / "curves.csv")
    assert curves["env_steps"].max() == 1200 and curves["env_steps"].is_unique


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)],
    ids=["SIGTERM", "SIGINT", "SIGTERM to the group, twice, as timeout sends it"],
)
def test_a_terminated_run_saves_a_checkpoint_and_goes_on_from_it(tmp_path, number, whole_group):
    # Tune itself would save for the first time after 40 iterations.
    arguments = ["--total-env-steps", 1_600_000, "--phase-switch", 0, "--storage-path", tmp_path, "--name", "spot"]
    process = start(*arguments)
    trial = tmp_path / "spot" / "HalfCheetah-2x3_lora_seed1"
    wait_for_iterations(process, trial, 2)
    process.send_signal(number)
    if whole_group:
        os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + number and "--resume --name spot continues" in output, output
    assert not living(process.pid)
    assert list(trial.glob("checkpoint_*/algorithm_state.pkl"))
    done = len(iterations(trial))
    resumed = start(*arguments, "--resume")
    wait_for_iterations(resumed, trial, done + 1)
    os.killpg(resumed.pid, signal.SIGKILL)
    resumed.wait(timeout=30)
    assert iterations(trial)[: done + 1] == list(range(1, done + 2))  # none lost, none twice


def living(session: int) -> list[str]:
    """Processes of a session that go on 10 s after its leader's end."""
    deadline = time.monotonic() + 10
    while True:
        listed = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True)
        found = [line for line in listed.stdout.splitlines() if not line.startswith("Z")]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def iterations(trial: Path) -> list[int]:
    results = trial / "result.json"
    lines = results.read_text().splitlines(keepends=True) if results.exists() else []
    return [json.loads(line)["training_iteration"] for line in lines if line.endswith("\n")]


def wait_for_iterations(process: subprocess.Popen, trial: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(iterations(trial)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"fewer than {count} iterations in two minutes"
        time.sleep(0.05)


def test_a_trial_that_never_fits_into_this_machine_is_refused_instead_of_waited_for(tmp_path):
    process = start("--smoke", "--num-learners", 1, "--num-gpus-per-learner", 64, "--storage-path", tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "a trial needs 64 GPUs, but this machine has 0" in output


def test_bad_options_end_with_status_2_and_one_line(tmp_path):
    process = start("--scenario", "HalfCheetah-9x9", "--storage-path", tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "agent_conf='9x9'" in output and "Traceback" not in output
