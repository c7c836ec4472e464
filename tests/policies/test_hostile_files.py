"""Policies and checkpoints from strangers: read as data, in little time and memory, or refused; nothing is executed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.policies.acting import load_policy
from lorasa_rllib.policies.files import PolicyFileError
from lorasa_rllib.policies.folder import CONFIG, INSIDE, read_policy, save_policy
from lorasa_rllib.policies.merging import merged
from lorasa_rllib.policies.saved import Origin, saved
from lorasa_rllib.rllib.checkpoints import ALGORITHM, BUILT_FROM, MODULE, STATE
from lorasa_rllib.rllib.initial_weights import adapter_weights, backbone_weights
from tests.helpers import make_policy, owner_tables, team

ENV = {"num_agents": 2, "obs_size": 3, "episode_length": 5}


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def policy(folder: Path, env_config: dict | None = None, agents: tuple[str, ...] | None = None) -> Path:
    made = make_policy(SyntheticTeam.team_spec(**ENV), owner_tables(2)["lora"]).float()
    if agents:
        object.__setattr__(made.config.spec, "agents", agents)
    return save_policy(saved(made, Origin("MAPPO", "synthetic", ENV if env_config is None else env_config, 5)), folder)


def checkpoint(folder: Path) -> Path:
    """A checkpoint whose pickles do harm, in a trial's folder."""
    path = folder / "trial" / "checkpoint_000001"
    (path / MODULE).mkdir(parents=True)
    for file in (ALGORITHM, BUILT_FROM, MODULE / STATE, MODULE / BUILT_FROM):
        (path / file).write_bytes(pickle.dumps(Harm(folder / "harmed")))
    (path / "rllib_checkpoint.json").write_text("{}")
    return path


COMMANDS = [
    ["evaluate", "X", "--episodes", "1"],
    ["render", "X", "-o", "OUT.gif"],
    ["export", "X", "--agent", "agent_0", "-o", "OUT.pt2"],
    ["adapters", "list", "X"],
    ["adapters", "show", "X", "agent_0"],
    ["adapters", "export", "X", "-o", "OUT"],
    ["adapters", "merge", "X", "-o", "OUT"],
    ["adapters", "add", "X", "new", "--like", "agent_0", "-o", "OUT"],
    ["adapters", "transplant", "X", "agent_0", "--from", "X", "-o", "OUT"],
    ["adapters", "truncate", "X", "-r", "1", "-o", "OUT"],
    ["adapters", "fold", "X", "-o", "OUT"],
    ["analyze", "TRIAL"],
]
SPOILS = {
    "no files": lambda path: None,
    "a link to nowhere": lambda path: (path / INSIDE).symlink_to("/nowhere"),
    "a pipe": lambda path: os.mkfifo(path / INSIDE),
    "an empty folder": lambda path: (path / INSIDE).mkdir(),
    "a description that is a pipe": lambda path: (policy(path / INSIDE), (path / INSIDE / CONFIG).unlink(),
                                                  os.mkfifo(path / INSIDE / CONFIG)),
    "a description that is a device": lambda path: (path / CONFIG).symlink_to("/dev/zero"),
    "a description that is a folder": lambda path: (path / CONFIG).mkdir(),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_no_command_unpickles_a_strangers_checkpoint(tmp_path, capsys, command, spoil):
    path = checkpoint(tmp_path)
    SPOILS[spoil](path)
    places = {"X": str(path), "TRIAL": str(path.parent), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word.replace("OUT", places["OUT"])) for word in command]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and not (tmp_path / "harmed").exists(), told


@pytest.mark.parametrize("spoil", SPOILS)
def test_no_function_unpickles_a_strangers_checkpoint(tmp_path, spoil):
    path = checkpoint(tmp_path)
    SPOILS[spoil](path)
    config = read_policy(policy(tmp_path / "own")).config
    for given in (path, path.parent):
        for read in (load_policy, lambda p: backbone_weights(p, config), lambda p: adapter_weights(p, config)):
            with pytest.raises(ValueError):
                read(given)
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_with_files_is_read_without_its_pickles(tmp_path, capsys):
    path = checkpoint(tmp_path)
    policy(path / INSIDE)
    config = read_policy(path).config
    for given in (path, path.parent):
        assert backbone_weights(given, config) and adapter_weights(given, config)
        assert main(["adapters", "list", str(given)]) == 0
        assert main(["evaluate", str(given), "--episodes", "2"]) == 0
    assert load_policy(path).act(np.zeros((2, 3)))[0].shape == (2, 2)
    assert main(["adapters", "list", str(path), "--trust"]) == 0
    assert not (tmp_path / "harmed").exists(), "files are read where there are files, trusted or not"


LARGE = {
    "many lists": lambda: b"[" + b"[]," * 20_000_000 + b"[]]",
    "a few million lists": lambda: b"[" + b"[]," * 2_500_000 + b"[]]",
    "many dictionaries": lambda: b"[" + b"{}," * 2_500_000 + b"{}]",
    "deep lists": lambda: b"[" * 4_000_000,
    "deep dictionaries": lambda: b'{"a":' * 900_000,
    "many numbers": lambda: b"[" + b"7," * 4_000_000 + b"7]",
    "a long name": lambda: b'{"' + b"x" * 8_000_000 + b'": 1}',
    "long numbers": lambda: b"[" + b"9" * 8_000_000 + b"]",
}
READ = """
import resource, sys, time
from lorasa_rllib.policies.folder import read_policy
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    read_policy(sys.argv[1])
except ValueError as error:
    told = len(str(error))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.process_time() - began, (after - before) / 1024)
"""


@pytest.mark.parametrize("kind", LARGE)
def test_large_descriptions_take_little_time_and_memory(tmp_path, kind):
    folder = policy(tmp_path / "policy")
    (folder / CONFIG).write_bytes(LARGE[kind]())
    done = subprocess.run([sys.executable, "-c", READ, folder], capture_output=True, text=True, timeout=120, check=True)
    seconds, mebibytes = map(float, done.stdout.split())
    assert seconds < 2 and mebibytes < 200


@pytest.mark.parametrize(
    ("env_config", "message"),
    [
        ({"num_agents": 10**9}, "num_agents=1,000,000,000"),
        ({"episode_length": 2 * 10**9}, "episode_length=2,000,000,000"),
        ({"obs_size": 10**8}, "obs_size=100,000,000"),
        ({"deep": {"num_agents": 10**9}}, "num_agents"),
        ({"sizes": [3, 10**8]}, "sizes"),
        ({"xml_file": "/etc/passwd"}, "to a path, '/etc/passwd'"),
        ({"model": "body.xml"}, "to a path"),
        ({"model": ["..\\x"]}, "to a path"),
        ({"scenario": "x" * 5000}, "to a path"),
    ],
)
def test_settings_of_environments_that_could_do_harm_are_refused(tmp_path, capsys, env_config, message):
    folder = policy(tmp_path / "policy", ENV | env_config)
    began = time.monotonic()
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 2
    told = capsys.readouterr().err
    assert message in told and "--trust" in told and told.count("\n") == 1 and time.monotonic() - began < 10


def test_control_characters_and_long_names_do_not_reach_the_terminal(tmp_path, capsys):
    folder = policy(tmp_path / "policy", agents=("\x1b[2J\x07evil\n\r", "x" * 1_000_000))
    for words in (["adapters", "list", "X"], ["adapters", "show", "X", "nobody"], ["adapters", "show", "X", "agent_0"]):
        main([str(folder) if word == "X" else word for word in words])
        shown = capsys.readouterr()
        assert not set("\x1b\x07\r") & set(shown.out + shown.err) and len(shown.out + shown.err) < 20_000
    (folder / "backbone.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0\x1b[2J\n")
    with pytest.raises(PolicyFileError):
        read_policy(folder)
    document = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(document | {"\x1b[31m" + "y" * 100_000: 1, "phase": "\x1b" * 5000}))
    assert main(["adapters", "list", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told and len(told) < 2200


def test_extreme_weights_are_not_written_where_they_could_not_be_read_back(tmp_path):
    made = make_policy(team((3,) * 2, (2,) * 2), owner_tables(2)["lora"]).float()
    for parameter in made.parameters():
        parameter.data.fill_(3e38)
    whole = read_policy(save_policy(saved(made), tmp_path / "policy"))
    object.__setattr__(whole, "phase", "adapters")
    with pytest.raises(ValueError, match="holds NaN or infinite numbers"):
        save_policy(merged(whole), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
