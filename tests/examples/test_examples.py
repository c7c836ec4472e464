"""The examples run as they stand, and need no more than they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasa_rllib import load_policy
from tests.test_layers import BLOCK

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_without_ray(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in `folder` in a process where `import ray` raises."""
    path = EXAMPLES / name
    lines = [
        f"sys.argv = {[str(path), *arguments]!r}",
        "import runpy",
        f"runpy.run_path({str(path)!r}, run_name='__main__')",
    ]
    code = BLOCK.format(blocked=("ray",)) + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_team_trains_in_forty_lines_without_ray(tmp_path):
    code = (EXAMPLES / "train_without_ray.py").read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 42
    printed = run_without_ray("train_without_ray.py", tmp_path, "4")
    assert [line.split(":")[0] for line in printed.splitlines()[:4]] == [
        "1/4 backbone",
        "2/4 backbone",
        "3/4 adapters",
        "4/4 adapters",
    ]
    assert load_policy(tmp_path / "policy").agents == ("agent_0", "agent_1")


@pytest.mark.parametrize("encoder", ["cnn", "own"])
def test_a_team_trains_with_an_encoder(encoder, tmp_path, ray_address):
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "own_encoder.py"), "2", encoder]
    joins = {**os.environ, "RAY_ADDRESS": ray_address}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=tmp_path, env=joins)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert [line.split(":")[0] for line in printed[:2]] == ["1/2 backbone", "2/2 adapters"]
    if encoder == "own":  # a class of the script, which is gone
        with pytest.raises(ValueError, match="__main__:Keypoints"):
            load_policy(tmp_path / "policy")
    else:
        assert load_policy(tmp_path / "policy").agents == ("ada", "ben")
