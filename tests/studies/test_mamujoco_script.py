"""The Tune script as a user runs it: through both phases, and on again after it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tune_configs" / "mamujoco.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd="/"
    )


def test_the_smoke_run_goes_through_both_phases_and_leaves_table_figure_and_checkpoint(tmp_path):
    process = start("--smoke", "--storage-path", tmp_path, "--name", "smoke")
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    folder = tmp_path / "smoke"
    assert {"table.csv", "curves.csv", "learning_curves.png"} <= {path.name for path in folder.iterdir()}
    curves = pd.read_csv(folder / "curves.csv")
    assert curves["phase"].drop_duplicates().tolist() == ["backbone", "adapters"]
    assert curves["env_steps"].max() == 1200
    assert list(folder.glob("HalfCheetah-2x3_lora_seed1/checkpoint_*/algorithm_state.pkl"))
    assert "learning_curves.png" in output and "from_checkpoint" in output


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


def test_bad_options_end_with_status_2_and_one_line(tmp_path):
    process = start("--scenario", "HalfCheetah-9x9", "--storage-path", tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "agent_conf='9x9'" in output and "Traceback" not in output
