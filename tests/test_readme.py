"""README stays true: its example runs, and the files and options it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lorasa_rllib.studies.options import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_as_it_stands(tmp_path):
    code = blocks("python")[0].replace("/tmp/lorasa_checkpoint", str(tmp_path / "checkpoint"))
    assert len(code.strip().splitlines()) <= 16
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert "backbone" in answer.stdout
    assert (tmp_path / "checkpoint" / "algorithm_state.pkl").exists()


def test_ones_own_environment_trains_and_learns(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocks("python")[1]],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    *_, episode_return = answer.stdout.split()
    assert float(episode_return) > 12  # agents that never move get 0, those that meet at once 16.5


def test_files_that_are_named_exist():
    named = set(re.findall(r"[\w/]+\.(?:py|csv|png|txt|md|yaml)\b", README))
    missing = {name for name in named if not list(ROOT.glob(f"**/{name}"))} - {"algorithm_state.pkl"}
    assert len(named) > 5 and not missing


def test_options_in_commands_exist():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "tune_configs" in line]
    assert commands
    for command in commands:
        (suite,) = re.findall(r"tune_configs/(\w+)\.py", command)
        known = {option for action in parser("", suite)._actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", command.partition(".py")[2])) <= known, command
