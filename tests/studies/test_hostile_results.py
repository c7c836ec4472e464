"""`lorasa compare` on results that are damaged, foreign, or made to harm: one line, at once, and nothing is copied."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.studies.analyze import commands_of
from lorasa_rllib.studies.curves import COLUMNS

RUN = {"scenario": "a", "obs": "", "algorithm": "mappo", "phase": "", "versions": "", "commit": ""}


def curves(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        RUN | {"method": method, "seed": seed, "env_steps": steps, "episode_return": 1.0 * seed}
        for method in ("ps", "lora") for seed in (1, 2) for steps in (100, 200)
    ]  # fmt: skip
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "curves.csv", index=False)
    return folder


def result(folder: Path, text: str) -> None:
    (folder / "curves.csv").unlink()
    (folder / "trial").mkdir()
    (folder / "trial/result.json").write_text(text)


def link(file: Path, to: str) -> None:
    file.unlink()
    file.symlink_to(to)


def change(file: Path, edit) -> None:
    file.write_text(edit(file.read_text()))


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "curves.csv").write_bytes(os.urandom(5000)), "is not a table"),
        (lambda f: (f / "curves.csv").write_bytes(b""), "is not a table"),
        (lambda f: (f / "curves.csv").write_bytes(b"\0" * 100), "is not a table"),
        (lambda f: (f / "curves.csv").write_text("name,price\nx,1\n"), "the column scenario is missing"),
        (lambda f: change(f / "curves.csv", lambda text: text.replace("100", "x\x1b[31m")), "env_steps"),
        (lambda f: change(f / "curves.csv", lambda text: text[:150]), ""),
        (lambda f: link(f / "curves.csv", "/dev/zero"), "is not a regular file"),
        (lambda f: pipe(f / "curves.csv"), "is not a regular file"),
        (lambda f: ((f / "curves.csv").unlink(), (f / "runs").mkdir(), pipe(f / "runs/x.csv")), "not a regular file"),
        (lambda f: (result(f, ""), pipe(f / "trial/result.json")), "is not a regular file"),
        (lambda f: (result(f, ""), pipe(f / "trial/params.json")), "is not a regular file"),
        (lambda f: (result(f, ""), (f / "trial/params.json").write_text("[" * 100_000)), "recursion"),
        (lambda f: (result(f, ""), (f / "trial/params.json").write_text("[1]")), "holds no settings"),
        (lambda f: result(f, "[1]\n3\nnull\n{}\n\0\0\n"), "no trial has reported a return"),
        (lambda f: result(f, '{"training_iteration": 1, "env_runners": [1], "evaluation": 3}'), "no trial has"),
        (lambda f: result(f, '{"training_iteration": 1, "env_runners": {"episode_return_mean": {}}}'), "no trial has"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_results_end_in_one_line(tmp_path, capsys, damage, message):
    folder = curves(tmp_path / "mine")
    damage(folder)
    status = main(["compare", str(folder), "--out", str(tmp_path / "all.html")])
    told = capsys.readouterr()
    if not message and status == 0:  # cut off between two rows
        return
    assert status == 2 and told.err.count("\n") == 1 and message in told.err and "\x1b" not in told.err, told
    assert len(told.err) < 2200 and not (tmp_path / "all.html").exists()


def test_a_command_that_is_a_link_is_not_shown(tmp_path):
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "command.txt").symlink_to(tmp_path / "secret")
    assert commands_of(tmp_path) == []
    (tmp_path / "command.txt").unlink()
    os.mkfifo(tmp_path / "command.txt")
    assert commands_of(tmp_path) == []
    (tmp_path / "command.txt").unlink()
    (tmp_path / "command.txt").write_text("lorasa \x1b[31mtrain\n")
    assert commands_of(tmp_path) == ["lorasa \N{REPLACEMENT CHARACTER}[31mtrain"]
