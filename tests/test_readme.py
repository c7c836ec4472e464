"""README stays true: its example runs, and the files, links and options it names exist, as on the pages it links to."""

from __future__ import annotations

import math
import os
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
DOCS = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("**/*.md"))
PAGES = [f"{folder}README.md" for folder in ("", "cluster/", "results/")] + ["CONTRIBUTING.md", *DOCS]
GENERATED = {"docs/settings.md", "docs/cli.md", "docs/changelog.md"}
"""Pages that exist on the built site alone (`make docs`)."""


def blocks(language: str, pages: list[str] | None = None) -> list[str]:
    texts = [(ROOT / page).read_text() for page in pages or ["README.md"]]
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


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


def test_ones_own_environment_trains_and_learns(tmp_path, ray_address):
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocks("python")[1]],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray_address},
    )
    assert answer.returncode == 0, answer.stderr
    *_, episode_return = answer.stdout.split()
    assert float(episode_return) > 12  # agents that never move get 0, those that meet at once 16.5


BLOCKS = """
import sys
from pathlib import Path
for page in sys.argv[1:]:
    names = {"__name__": page}
    for number, code in enumerate(Path(page).read_text().split("```python\\n")[1:]):
        print("running", page, number, flush=True)
        exec(compile(code.partition("```")[0], f"{page}, block {number}", "exec"), names)
"""


def test_every_python_block_of_the_documentation_runs(tmp_path, ray_address):
    """In one process, pages one after the other; blocks of a page share their names."""
    pages = [str(ROOT / page) for page in DOCS if "```python" in (ROOT / page).read_text()]
    assert len(pages) > 4
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKS, *pages],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray_address},
    )
    assert answer.returncode == 0, f"{answer.stdout[-500:]}\n{answer.stderr[-3000:]}"
    assert answer.stdout.count("running") >= len(pages)


def test_the_front_page_stays_one():
    assert len(README.splitlines()) <= 220


@pytest.mark.parametrize("page", ["README.md", "results/README.md", *DOCS])
def test_files_that_are_named_exist(page):
    named = set(re.findall(r"[\w/]+\.(?:py|csv|png|txt|md|yaml|svg|json)\b", (ROOT / page).read_text()))
    named -= {"policy_config.json", "adapter_config.json", "result.json", "progress.csv"}  # of runs and policies
    known = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("[!.]*/**/*.*")} | {p.name for p in ROOT.glob("*")}
    known |= GENERATED
    missing = {name for name in named if not any(f"/{path}".endswith(f"/{name.lstrip('/')}") for path in known)}
    assert not missing


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
        if target.resolve().relative_to(ROOT.resolve()).as_posix() in GENERATED:
            continue
        assert target.exists(), path
        assert not anchor or anchor in anchors_of(target.read_text()), f"{path}#{anchor}"


def test_options_in_commands_exist():
    commands = [line for block in blocks("bash", ["README.md", *DOCS]) for line in block.splitlines()
                if "tune_configs" in line]  # fmt: skip
    assert len(commands) > 8
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
    lines = [line for block in blocks("bash", ["README.md", *DOCS]) for line in block.splitlines()]
    parts = [part for line in lines for part in line.split("&&") if part.strip().startswith("lorasa ")]
    commands = [part.partition("#")[0].split() for part in parts]
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
