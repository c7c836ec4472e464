"""`lorasa evaluate` for environments that are classes of the user's, in scripts and modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.envs.names import imported, name_of
from lorasa_rllib.policies.folder import read_policy, save_policy
from lorasa_rllib.policies.saved import Origin, saved
from tests.helpers import make_policy, owner_tables

GAME = """
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

class Meet(ParallelEnv):
    metadata = {"name": "meet"}
    def __init__(self, length=5):
        self.possible_agents, self.length, self.render_mode = ["a", "b"], length, None
    def observation_space(self, agent):
        return Box(-1, 1, (3,), np.float32)
    def action_space(self, agent):
        return Discrete(3)
    def _told(self, what):
        return {agent: what for agent in self.agents}
    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return self._told(np.full(3, 0.1, np.float32)), self._told({})
    def step(self, actions):
        self.t += 1
        told = [self._told(x) for x in (np.full(3, 0.1, np.float32), 1.0, False, self.t >= self.length, {})]
        self.agents = self.agents if self.t < self.length else []
        return told
"""
TRAIN = """
from lorasa_rllib import MAPPOConfig
from own import Meet
class Mine(Meet): ...

if __name__ == "__main__":
    for env, name in ((Mine, "script"), (Meet, "module"), (lambda length: Meet(length), "lambda")):
        config = MAPPOConfig().environment("pettingzoo", env_config={"env": env, "length": 4})
        algo = config.sharing("lora", schedule="joint", r=2).env_runners(num_envs_per_env_runner=2).build_algo()
        algo.save_to_path(f"{__import__('os').getcwd()}/{name}_checkpoint")
        algo.save_policy(f"{name}_files")
        algo.stop()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_address) -> Path:
    """A folder with the scripts above, and what they left."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(GAME)
    (folder / "train.py").write_text(TRAIN)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "train.py"], cwd=folder, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_ADDRESS": ray_address}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Python that has not imported anything of the user's yet."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    for name in ("own", "train", "other"):
        sys.modules.pop(name, None)


def evaluate(capsys, *arguments, status=0):
    assert main(["evaluate", *map(str, arguments), "--episodes", "2", "--json"]) == status
    told = capsys.readouterr()
    return json.loads(told.out) if status == 0 else told.err


@pytest.mark.parametrize("name", ["script", "module", "lambda"])
def test_a_checkpoint_brings_its_environment_if_trusted(name, trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert evaluate(capsys, f"{name}_checkpoint", status=2) and not {"own", "train"} & set(sys.modules)
    assert evaluate(capsys, f"{name}_checkpoint", "--trust")["return_mean"] == 8  # two agents, four steps
    assert evaluate(capsys, f"{name}_checkpoint", "--env", "length=3", "--trust")["return_mean"] == 6
    assert evaluate(capsys, f"file://{trained}/{name}_checkpoint", "--trust")["return_mean"] == 8


@pytest.mark.parametrize(("name", "recorded"), [("script", "train:Mine"), ("module", "own:Meet")])
def test_files_name_the_environment_which_is_imported_if_trusted(name, recorded, trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert read_policy(f"{name}_files").origin.env_config == {"env": recorded, "length": 4}
    assert f"name the Python module '{recorded}'" in (told := evaluate(capsys, f"{name}_files", status=2))
    assert "--trust" in told and not {"own", "train"} & set(sys.modules)
    assert evaluate(capsys, f"{name}_files", "--trust")["return_mean"] == 8
    assert evaluate(capsys, f"file://{trained}/{name}_files", "--trust")["return_mean"] == 8
    assert evaluate(capsys, f"{name}_files", "--env", recorded)["return_mean"] == 8  # its name was typed here


def test_what_has_no_name_is_asked_for(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert "--env module:Class" in evaluate(capsys, "lambda_files", status=2)
    assert evaluate(capsys, "lambda_files", "--env", "own:Meet", "--env", "length=7")["return_mean"] == 14
    assert "nobody cannot be imported" in evaluate(capsys, "lambda_files", "--env", "own:nobody", status=2)
    assert "must be name=value, or module:Class" in evaluate(capsys, "lambda_files", "--env", "own", status=2)


def test_where_its_code_is_gone_another_environment_can_be_named(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "No module named 'own'" in evaluate(capsys, trained / "module_checkpoint", "--trust", status=2)
    assert main(["adapters", "list", str(trained / "module_checkpoint")]) == 0 and capsys.readouterr()
    (tmp_path / "other.py").write_text(
        GAME.replace("class Meet", "class Outer: ...\nclass Meet") + "Outer.Meet = Meet\n"
    )
    assert evaluate(capsys, trained / "module_checkpoint", "--env", "other:Outer.Meet")["return_mean"] == 8


TEAM = """
from lorasa_rllib.envs.synthetic import SyntheticTeam
class Own(SyntheticTeam): ...
"""


def test_a_vectorised_team_goes_by_its_name_too(capsys, monkeypatch, tmp_path):
    from lorasa_rllib.envs.synthetic import SyntheticTeam

    made = make_policy(SyntheticTeam.team_spec(num_agents=3), owner_tables(3)["lora"]).float()
    save_policy(saved(made, Origin("MAPPO", "other:Own", {"num_agents": 3}, 0)), tmp_path / "files")
    (tmp_path / "other.py").write_text(TEAM)
    monkeypatch.chdir(tmp_path)
    assert "--trust" in evaluate(capsys, "files", status=2) and "other" not in sys.modules
    assert evaluate(capsys, "files", "--trust")["episodes"] == 2
    assert evaluate(capsys, "files", "--env", "other:Own")["episodes"] == 2


def test_names_are_those_that_can_be_imported():
    assert name_of(Origin) == "lorasa_rllib.policies.saved:Origin" and imported(name_of(Origin)) is Origin
    assert name_of(Origin.__init__) is None or imported(name_of(Origin.__init__)) is Origin.__init__

    class Local: ...

    for unnamed in (Local, lambda: None, 3, "text", None):
        assert name_of(unnamed) is None
