"""README stays true: its example runs, and the files, links and options it names exist, as on the pages it links to."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lorasa_rllib import cli
from lorasa_rllib.studies.options import parser
from lorasa_rllib.studies.suites import SUITES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [f"{folder}README.md" for folder in ("", "cluster/", "results/")] + ["CONTRIBUTING.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_as_it_stands(tmp_path):
    code = blocks("python")[0].replace("/tmp/lorasa_checkpoint", str(tmp_path / "checkpoint"))
    assert len(code.strip().splitlines()) <= 17
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    phase, episode_return = answer.stdout.split()[-2:]
    assert phase == "backbone" and math.isfinite(float(episode_return))  # of finished episodes
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


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_files_that_are_named_exist(page):
    named = set(re.findall(r"[\w/]+\.(?:py|csv|png|txt|md|yaml)\b", (ROOT / page).read_text()))
    missing = {name for name in named if not list(ROOT.glob(f"**/{name}"))}
    assert len(named) > 5 and not missing


def anchors_of(text):
    """What GitHub makes of headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", re.sub(r"```.*?```", "", text, flags=re.S))
    for path, _, anchor in (link.partition("#") for pair in links if not (link := "".join(pair)).startswith("http")):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors_of(target.read_text()), f"{path}#{anchor}"


def test_options_in_commands_exist():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "tune_configs" in line]
    assert commands
    for command in commands:
        (script,) = re.findall(r"tune_configs/(\w+)\.py", command)
        suite = {"starcraft": "smac"}.get(script, script)
        known = {
            option
            for action in parser("", suite if suite in SUITES else "mamujoco")._actions
            for option in action.option_strings
        }
        if suite not in SUITES:  # a script for several suites, with options of its own
            known |= {
                "--suite",
                *re.findall(r'add_argument\(\s*"(--[a-z-]+)"', (ROOT / f"tune_configs/{script}.py").read_text()),
            }
        assert set(re.findall(r"--[a-z-]+", command.partition(".py")[2])) <= known, command


def test_commands_of_the_command_line_exist_with_these_options():
    commands = [part.partition("#")[0].split() for block in blocks("bash") for line in block.splitlines()
                for part in line.split("&&") if part.strip().startswith("lorasa ")]  # fmt: skip
    assert len(commands) > 8
    named = set()
    for _, *words in commands:
        command = typer.main.get_command(cli.app)
        while getattr(command, "commands", None):
            named.add(words[0])
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= options, words
    assert named >= set(typer.main.get_command(cli.app).commands) - {"train"}
