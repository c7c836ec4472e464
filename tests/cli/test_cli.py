"""The `lorasa` command on a real policy: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import typer

import lorasa_rllib
from lorasa_rllib import load_policy
from lorasa_rllib.cli import app, machine, main
from lorasa_rllib.install import installing
from lorasa_rllib.policies.folder import read_policy, save_adapter, save_policy
from lorasa_rllib.policies.saved import Origin, saved
from lorasa_rllib.rllib.checkpoints import BUILT_FROM, MODULE, STATE
from tests.helpers import make_policy, owner_tables, team

CHEETAH = {"scenario": "HalfCheetah", "agent_conf": "2x3", "obs": "local", "agent_obsk": 1, "max_episode_steps": 30}


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A random LoRASA policy for HalfCheetah 2x3 as files."""
    from lorasa_rllib.envs.mamujoco import MAMuJoCo

    made = make_policy(MAMuJoCo.team_spec(**CHEETAH), owner_tables(2)["lora"]).float()
    return save_policy(
        saved(made, Origin("MAPPO", "mamujoco", CHEETAH, 1000)), tmp_path_factory.mktemp("cli") / "policy"
    )


@pytest.fixture(scope="module")
def roles(tmp_path_factory) -> Path:
    """A random policy with adapters by role."""
    spec = team((3,) * 3, (2,) * 3, continuous=False)
    return save_policy(
        saved(make_policy(spec, owner_tables(3)["role"]).float()), tmp_path_factory.mktemp("r") / "roles"
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory, policy) -> dict[str, Path]:
    """What others might hand one."""
    folder = tmp_path_factory.mktemp("others")
    made = make_policy(team((3,) * 2, (2,) * 2), owner_tables(2)["lora"]).float()
    harm = {"env": "subprocess:getoutput", "cmd": f"touch {folder}/harmed"}
    foreign = folder / "foreign" / MODULE
    foreign.mkdir(parents=True)
    for name in (STATE, BUILT_FROM):
        (foreign / name).write_bytes(pickle.dumps([1]))
    return {
        "EVIL": save_policy(saved(made, Origin("MAPPO", "pettingzoo", harm, 0)), folder / "evil"),
        "ONE": save_adapter(read_policy(policy), "agent_1", folder / "one"),
        "FOREIGN": folder / "foreign",
    }


def answer(capsys, *arguments, status=0):
    assert main([str(a) for a in arguments]) == status
    return capsys.readouterr().out


def test_evaluation_is_the_same_under_a_seed_and_tells_intervals(policy, capsys):
    found = [json.loads(answer(capsys, "evaluate", policy, "--episodes", 6, "--sampled", "--seed", 3, "--json"))
             for _ in range(2)]  # fmt: skip
    assert found[0] == found[1] and found[0]["episodes"] == 6 and found[0]["length_mean"] == 30
    low, high = found[0]["return_interval"]
    assert low < found[0]["return_mean"] < high
    other = json.loads(answer(capsys, "evaluate", policy, "--episodes", 6, "--sampled", "--seed", 4, "--json"))
    assert other["return_mean"] != found[0]["return_mean"]


def test_evaluation_plays_what_the_policy_would(policy, capsys):
    """Against a loop of its own, one environment at a time."""
    from lorasa_rllib.envs.mamujoco import MAMuJoCo

    env, loaded, expected = MAMuJoCo(2, **CHEETAH), load_policy(policy), np.zeros(2)
    step = env.reset(5)
    for _ in range(30):
        step = env.step(loaded.act(step.obs)[0])
        expected += step.rewards[:, 0]
    env.close()
    found = json.loads(answer(capsys, "evaluate", policy, "--episodes", 2, "--seed", 5, "--json"))
    np.testing.assert_allclose([found["return_min"], found["return_max"]], sorted(expected), rtol=1e-4)


def test_evaluation_shows_a_table_and_takes_settings_of_the_environment(policy, capsys):
    shown = answer(capsys, "evaluate", policy, "--episodes", 3, "--env", "max_episode_steps=10")
    assert "95 % interval" in shown and "greedy" in shown and "10" in shown


def test_wins_have_intervals(capsys, tmp_path):
    if find_spec("jaxmarl") is None:  # importing it here would let it print
        pytest.skip("jaxmarl is not installed")
    from lorasa_rllib.envs.smax import SMAXTeam

    battle = {"map_name": "2s3z", "max_episode_steps": 8}
    made = make_policy(SMAXTeam.team_spec(**battle), owner_tables(5)["role"]).float()
    object.__setattr__(made.config.owners, "num_adapters", 3)
    files = save_policy(saved(made, Origin("MAPPO", "smax", battle, 0)), tmp_path / "policy")
    found = json.loads(answer(capsys, "evaluate", files, "--episodes", 4, "--json"))
    assert found["win_rate"] == 0.0 and found["win_rate_interval"][1] > 0.3
    answer(capsys, "render", files, "-o", tmp_path / "battle.gif", "--steps", 3)
    assert (tmp_path / "battle.gif").stat().st_size > 1000


def test_adapters_are_listed_and_shown(policy, roles, capsys):
    found = json.loads(answer(capsys, "adapters", "list", policy, "--json"))
    assert [a["adapter"] for a in found["adapters"]] == ["agent_0", "agent_1"] and found["method"] == "lora"
    assert all(a["moves weights by"] > 0 and a["parameters"] > 10 for a in found["adapters"])
    assert "agent_1" in answer(capsys, "adapters", "list", policy)
    assert len(json.loads(answer(capsys, "adapters", "list", roles, "--json"))["adapters"]) == 3
    layers = json.loads(answer(capsys, "adapters", "show", policy, "agent_1", "--json"))["layers"]
    assert [row["layer"] for row in layers] == ["mlp.0", "mlp.1", "head"]
    assert all(1 <= row["stable rank"] <= row["rank"] for row in layers)
    assert "stable rank" in answer(capsys, "adapters", "show", policy, "agent_1")


def test_edits_write_new_folders(policy, roles, capsys, tmp_path):
    def edited(*arguments):
        out = tmp_path / f"out_{len(list(tmp_path.iterdir()))}"
        answer(capsys, "adapters", *arguments, "-o", out)
        return out

    before = {f: f.read_bytes() for f in policy.rglob("*") if f.is_file()}
    obs = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float32)
    expected, _ = load_policy(policy).act(obs)
    for out in (edited("export", policy), edited("merge", policy), edited("truncate", policy, "-r", 12)):
        np.testing.assert_allclose(load_policy(out).act(obs)[0], expected, rtol=1e-3, atol=1e-3)
    assert not (edited("export", policy, "--no-critic") / "critic.safetensors").exists()
    larger = load_policy(edited("add", policy, "tail", "--like", "agent_0"))
    assert larger.agents == ("agent_0", "agent_1", "tail")
    np.testing.assert_allclose(larger.act(obs[[0, 1, 0]])[0], expected[[0, 1, 0]], rtol=1e-4, atol=1e-5)
    assert load_policy(edited("add", policy, "tail", "--like", "agent_0", "--plain")).agents[2] == "tail"
    one = edited("export", policy, "--adapter", "agent_1")
    for source in (("--from", one), ("--from", policy, "--name", "agent_1")):
        mixed = read_policy(edited("transplant", policy, "agent_0", *source))
        np.testing.assert_allclose(mixed.weights["mlp.1.lora_A"][0], mixed.weights["mlp.1.lora_A"][1])
    assert read_policy(edited("fold", policy, "-r", 12)).config.lora.r == 12
    assert read_policy(edited("add", roles, "role_3", "--like", "role_0")).config.owners.num_adapters == 4
    merged = read_policy(edited("merge", roles, "--roles", "0,2,-1"))
    assert merged.config.owners.method == "nps" and merged.origin.edits == ("merged",)
    assert {f: f.read_bytes() for f in policy.rglob("*") if f.is_file()} == before


def test_one_agents_network_is_exported(policy, capsys, tmp_path):
    import torch

    file = tmp_path / "agent.pt2"
    told = json.loads(answer(capsys, "export", policy, "--agent", "agent_1", "-o", file, "--json"))
    assert told == {"file": str(file), "inputs": ["obs"], "outputs": ["action"]}
    obs = np.random.default_rng(0).standard_normal((4, 2, 12)).astype(np.float32)
    found = torch.export.load(file).module()(torch.as_tensor(obs[:, 1]))
    np.testing.assert_allclose(found, load_policy(policy).act(obs)[0][:, 1], rtol=1e-4, atol=1e-5)


def test_films_are_made_without_a_screen(policy, capsys, tmp_path):
    if machine._program(machine.DRAW, "")[0] != machine.OK:
        pytest.skip("MuJoCo cannot draw on this machine")
    import imageio

    for name in ("team.mp4", "team.gif"):
        told = json.loads(answer(capsys, "render", policy, "-o", tmp_path / name, "--steps", 5, "--json"))
        assert told["pictures"] == 5
        pictures = [picture for picture in imageio.get_reader(tmp_path / name)]
        assert len(pictures) == 5 and np.ptp(pictures[2]) > 50 and (pictures[0] != pictures[4]).any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["team.gif", "team.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "absent"], "absent is neither a policy's files nor a checkpoint: it does not exist"),
        (["evaluate", "POLICY", "--episodes", "0"], "--episodes"),
        (["evaluate", "POLICY", "--env", "steps"], "must be name=value"),
        (["evaluate", "POLICY", "--env", "obs=global"], "the policy's obs_sizes are 12, 12, those of environment"),
        (["evaluate", "ROLES"], "does not say which environment"),
        (["render", "POLICY", "-o", "film.avi"], "must end in .mp4 or .gif"),
        (["export", "POLICY", "--agent", "nobody", "-o", "x.pt2"], "no agent 'nobody'"),
        (["export", "POLICY", "--agent", "agent_0", "-o", "x.h5"], "must end in .onnx or .pt2"),
        (["export", "POLICY", "--agent", "agent_0", "--mask", "-o", "x.pt2"], "actions are continuous"),
        (["adapters", "show", "POLICY", "nobody"], "no adapter 'nobody'; it has agent_0, agent_1"),
        (["adapters", "export", "POLICY", "-o", "POLICY"], "exists already, and nothing is overwritten"),
        (["adapters", "merge", "ROLES", "-o", "x"], "give roles, one for each of the 3 agents"),
        (["adapters", "merge", "ROLES", "-o", "x", "--roles", "a,b"], "must list whole numbers"),
        (["adapters", "add", "POLICY", "agent_0", "--like", "agent_1", "-o", "x"], "has an agent 'agent_0' already"),
        (["adapters", "add", "ROLES", "role_9", "--like", "role_1", "-o", "x"], "the next role is role_3"),
        (["nonsense"], "No such command 'nonsense'"),
        (["evaluate", "POLICY", "--env", "nonsense=3"], "the unknown setting 'nonsense'"),
        (["evaluate", "POLICY", "--env", "max_episode_steps=abc"], "max_episode_steps"),
        (["evaluate", "POLICY", "--seed", "-1"], "--seed"),
        (["evaluate", "EVIL", "--episodes", "1"], "name the Python module 'subprocess:getoutput'"),
        (["render", "EVIL"], "name the Python module 'subprocess:getoutput'"),
        (["export", "POLICY", "--agent", "agent_0", "--role", "1", "-o", "x.pt2"], "a role is for policies whose"),
        (
            ["adapters", "merge", "ROLES", "-o", "x", "--roles", "7,0,0"],
            "roles [7] must lie between -1 (the plain backbone) and 2",
        ),
        (["adapters", "export", "POLICY", "-o", "/proc/none/x"], "No such file or directory"),
        (["adapters", "export", "POLICY", "--adapter", "agent_0", "--no-critic", "-o", "x"], "an adapter has none"),
        (
            ["adapters", "transplant", "POLICY", "agent_0", "--from", "ONE", "--name", "y", "-o", "x"],
            "a single adapter",
        ),
        (["adapters", "list", "FOREIGN"], "is a checkpoint without policy files"),
        (["adapters", "list", "FOREIGN", "--trust"], "cannot be read"),
        (["train", "--suite", "nonsense"], "lorasa train: argument --suite: invalid choice: 'nonsense'"),
    ],
)
def test_mistakes_end_with_status_2_and_one_reason(
    arguments, message, policy, roles, others, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {"POLICY": str(policy), "ROLES": str(roles), **{name: str(path) for name, path in others.items()}}
    assert main([places.get(word, word) for word in arguments]) == 2
    found = capsys.readouterr()
    assert message in " ".join(found.err.replace("│", " ").split()) and not found.out
    assert list(tmp_path.iterdir()) == []


def test_environments_and_the_machine_are_told(capsys):
    found = {row["name"]: row for row in json.loads(answer(capsys, "envs", "--json"))}
    assert found["mamujoco"]["here"] == found["synthetic"]["here"] == "works"
    assert "install_starcraft" in answer(capsys, "envs") or found["smac"]["here"] == "works"
    rows = {row["what"]: row for row in json.loads(answer(capsys, "doctor", "--quick", "--json"))}
    assert rows["torch"]["status"] == "works" and "processors" in rows
    for what, (_, distribution, *_) in machine.OPTIONAL.items():
        assert rows[what]["found"] == version(distribution), what


def test_optional_parts_that_are_missing_are_told_with_how_to_install_them(capsys, monkeypatch):
    monkeypatch.setattr(machine, "_found", lambda find_spec, module: module not in ("wandb", "alembic"))
    rows = {row["what"]: row for row in json.loads(answer(capsys, "doctor", "--quick", "--json"))}
    for extra, what in (("wandb", "W&B (--logger wandb)"), ("mlflow", "MLflow (--logger mlflow)")):
        assert rows[what] == {"what": what, "status": "missing", "found": installing(extra)}


def test_what_is_broken_is_told_with_status_1(capsys, monkeypatch):
    monkeypatch.setattr(machine, "VERSIONS", ("torch", "a-package-nobody-has"))
    assert '"broken"' in answer(capsys, "doctor", "--quick", "--json", status=1)


def commands():
    def below(command, *path):
        if getattr(command, "commands", None):
            for name, one in command.commands.items():
                yield from below(one, *path, name)
        else:
            yield path, command

    return list(below(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_every_command_has_help_with_examples(path, command):
    assert f"lorasa {' '.join(path)}" in command.help.partition("Examples")[2]
    assert all(p.help for p in command.params if p.name != "help")


def test_train_shows_the_options_of_the_scripts_and_examples(capsys):
    assert main(["train", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--total-env-steps" in told and "usage: lorasa train" in told and "  lorasa train --smoke" in told


def test_train_without_options_shows_help_and_starts_nothing(capsys):
    assert main(["train"]) == 2
    assert "--total-env-steps" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lorasa {lorasa_rllib.__version__}\n"


def test_names_of_agents_are_shown_as_they_are_but_for_control_characters(capsys, tmp_path):
    spec = replace(team((3,) * 2, (2,) * 2), agents=("unit [/x]", "\x1b[31mred"))
    files = save_policy(saved(make_policy(spec, owner_tables(2)["lora"]).float()), tmp_path / "policy")
    told = answer(capsys, "adapters", "list", files)
    assert "unit [/x]" in told and "red" in told and "\x1b[31mred" not in told


def test_what_is_missing_comes_with_the_extra_to_install(capsys, monkeypatch):
    monkeypatch.setitem(machine.PACKAGES, "smax", ("a_package_nobody_has",))
    found = {row["name"]: row["how to get it"] for row in json.loads(answer(capsys, "envs", "--json"))}
    assert found["smax"].startswith('pip install -e ".[smax]" -c constraints.txt')


def test_a_single_episode_has_no_interval(policy, capsys):
    assert json.loads(answer(capsys, "evaluate", policy, "--episodes", 1, "--json"))["return_interval"] is None
    assert "95 % interval" not in answer(capsys, "evaluate", policy, "--episodes", 1)


def test_few_episodes_have_a_t_interval_that_is_wider_than_what_was_seen(policy, capsys):
    found = json.loads(answer(capsys, "evaluate", policy, "--episodes", 2, "--sampled", "--json"))
    low, high = found["return_interval"]
    assert low < found["return_min"] < found["return_max"] < high
    assert "Student's t" in answer(capsys, "evaluate", policy, "--episodes", 2, "--sampled")


WATCHED = """
from pathlib import Path
from lorasa_rllib.envs.mamujoco import MAMuJoCo

class Watched(MAMuJoCo):
    steps = 0
    def step(self, actions):
        self.steps += 1
        if self.steps == 40:  # the first episodes have ended
            Path("begun").touch()
        return super().step(actions)
"""


def test_ctrl_c_tells_what_was_played(policy, tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    command = [sys.executable, "-W", "ignore", "-m", "lorasa_rllib.cli", "evaluate", str(policy), "--json"]
    process = subprocess.Popen(
        [*command, "--env", "watched:Watched", "--env", "max_episode_steps=30", "--episodes", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "begun").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=10)
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert json.loads(out)["episodes"] >= 1 and "interrupted after" in err


def test_help_and_listing_need_no_ray():
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from lorasa_rllib.cli import main
assert main(["--help"]) == 0 and main(["adapters", "list", sys.argv[1]]) == 0
assert main(["evaluate", sys.argv[1], "--episodes", "1"]) == 0
"""
    made = make_policy(team((4,) * 3, (2,) * 3), owner_tables(3)["lora"]).float()
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        spec = {"num_agents": 3}
        files = save_policy(saved(made, Origin("MAPPO", "synthetic", spec, 0)), Path(folder) / "policy")
        done = subprocess.run([sys.executable, "-c", code, str(files)], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
