"""compare_methods.py, the ablations and the `lorasa` command on real trials, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lorasa_rllib.studies.methods import PAPERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def joins(ray_address, monkeypatch):
    """Scripts run in the Ray of these tests."""
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(folder: Path, *command: str, timeout: int = 280) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command], capture_output=True, text=True, timeout=timeout, cwd=folder,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def smoke(script: str, folder: Path, *options: str) -> Path:
    """Runs a script's smoke; returns the experiment's folder."""
    run(
        folder,
        str(ROOT / "tune_configs" / script),
        "--smoke",
        "--storage-path",
        str(folder),
        "--name",
        "smoke",
        "--max-concurrent",
        "2",
        *options,
    )
    assert {"curves.csv", "table.csv", "learning_curves.png"} <= {f.name for f in (folder / "smoke").iterdir()}
    return folder / "smoke"


@pytest.mark.slow
def test_methods_are_compared_and_the_trials_analysed(tmp_path):
    folder = smoke("compare_methods.py", tmp_path)
    assert tuple(pd.read_csv(folder / "table.csv")["method"]) == PAPERS
    told = run(tmp_path, "-m", "lorasa_rllib.cli", "analyze", str(folder), "--env-steps", "200", timeout=60)
    page = (folder / "analysis.html").read_text()
    assert told.strip().endswith("analysis.html")
    for shown in ("HalfCheetah-2x3_seps-lora_seed1", "How differently do they act?", "What have adapters become?"):
        assert shown in page
    assert page.count("data:image/png") == 2 * 6 + 2  # distances and layers; adapters of two methods
    assert page.count("Only 2 checkpoints were kept, too few for a curve.") == 6
    commands = page.partition("<h2>Made by</h2>")[2]
    assert "compare_methods.py --smoke" in commands and f"analyze {folder} --env-steps 200" in commands
    run(tmp_path, "-m", "lorasa_rllib.cli", "compare", str(folder), "--out", str(tmp_path / "all.html"), timeout=60)
    assert "Probability of improvement" in (tmp_path / "all.html").read_text()


@pytest.mark.slow
def test_adapter_phases_fork_from_one_backbone(tmp_path):
    folder = smoke("ablation_switch.py", tmp_path, "--methods", "lora-joint")
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["method"]) == {"lora-joint", "lora:switch=400", "lora:switch=800"}
    early, late = (curves[curves["method"] == f"lora:switch={step}"] for step in (400, 800))
    for fork, step in ((early, 400), (late, 800)):
        assert (fork["phase"] == "adapters").tolist() == (fork["env_steps"] > step).tolist()
        assert fork["env_steps"].is_monotonic_increasing and fork["env_steps"].iloc[-1] == 1200
    same = [frame.loc[frame["env_steps"] <= 400, "episode_return"].tolist() for frame in (early, late)]
    assert same[0] == same[1] and same[0]  # one backbone
    assert [p.name for p in tmp_path.glob("smoke_trunks/*_trunk_seed1")] == ["HalfCheetah-2x3_trunk_seed1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "methods"),
    [
        (
            "ablation_rank.py",
            ["--ranks", "2", "64", "--suite", "pettingzoo", "--methods", "nps"],
            ["nps", "lora:r=2", "lora:r=64"],
        ),
        ("ablation_placement.py", ["--placements", "head"], ["ps", "lora:on=head"]),
    ],
)
def test_ablations_run(tmp_path, script, options, methods):
    assert pd.read_csv(smoke(script, tmp_path, *options) / "table.csv")["method"].tolist() == methods


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "absent"], "is not a folder"),
        (["analyze", "."], "holds no trial with a checkpoint"),
        (["compare", "."], "holds neither curves.csv nor runs/*.csv"),
        (["analyze", ".", "--env-steps", "0"], "--env-steps"),
    ],
)
def test_folders_without_results_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    from lorasa_rllib.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def curves(folder: Path, algorithm: str, methods: list[str], scenario: str = "one", wins: bool = False) -> str:
    """A folder as a study leaves it, three seeds of every method; returns rise with the place in the list."""
    rows = [
        {
            "scenario": scenario, "obs": "local", "algorithm": algorithm, "method": method, "seed": seed,
            "env_steps": steps, "episode_return": 100.0 * (k + 1) + seed, "evaluation_return": None,
            "win_rate": 0.5 if wins else None, "evaluation_win_rate": 0.1 * (k + 1) if wins else None,
            "phase": "backbone", "episodes": 3, "seconds": 1.0,
        }
        for k, method in enumerate(methods) for seed in (1, 2, 3) for steps in (100, 200)
    ]  # fmt: skip
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "curves.csv", index=False)
    return str(folder)


def compared(tmp_path: Path, *folders: str) -> str:
    from lorasa_rllib.cli import main

    out = tmp_path / "all.html"
    assert main(["compare", *folders, "--out", str(out)]) == 0
    return out.read_text()


def test_comparisons_over_algorithms_variants_and_battles(tmp_path):
    one = curves(tmp_path / "a", "mappo", ["ps", "lora", "lora:r=16"])
    other = curves(tmp_path / "b", "a2po", ["ps", "lora", "lora:r=16"])
    page = compared(tmp_path, one, other)
    assert "<td>MAPPO, LoRASA, two phases, r = 16</td>" in page and "<td>A2PO, PS (one shared policy)</td>" in page
    battles = compared(tmp_path, curves(tmp_path / "c", "mappo", ["nps", "lora-role"], "3s5z", wins=True))
    assert first_cells(battles, "LoRASA by role, two phases")[0] == "0.2 (0.2 to 0.2)"  # win rates stay as they are
    mixed = compared(
        tmp_path,
        curves(tmp_path / "e", "mappo", ["ps", "lora"]),
        curves(tmp_path / "f", "mappo", ["ps", "lora"], "3s5z", wins=True),
    )
    gap = first_cells(mixed, "LoRASA, two phases")[3]
    assert gap == "0 (0 to 0)"  # twice as good on both: win rates in units of PS, too
    without_baseline = compared(tmp_path, curves(tmp_path / "d", "mappo", ["nps", "lora"]))
    assert first_cells(without_baseline, "LoRASA, two phases")[0].startswith("202 (")  # and returns of a single task


def first_cells(page: str, method: str) -> list[str]:
    """Cells of the first row of a method: interquartile mean, median, mean, optimality gap."""
    return re.findall("<td>(.*?)</td>", page.partition(f"<td>{method}</td>")[2])[:4]


def test_curves_of_single_runs_are_compared_too(tmp_path):
    whole = Path(curves(tmp_path / "a", "mappo", ["ps", "lora"]))
    (tmp_path / "b" / "runs").mkdir(parents=True)
    for k, (_, run) in enumerate(pd.read_csv(whole / "curves.csv").groupby(["method", "seed"], sort=False)):
        run.to_csv(tmp_path / "b" / "runs" / f"{k}.csv", index=False)
    tables = [re.findall("<table.*?</table>", compared(tmp_path, str(tmp_path / name)), re.S) for name in ("a", "b")]
    assert tables[0] and tables[0][-1] == tables[1][-1]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    from lorasa_rllib.cli import main

    one = curves(tmp_path / "a", "mappo", ["nps", "lora"])
    two = curves(tmp_path / "b", "mappo", ["nps", "lora"], "two")
    short = pd.read_csv(Path(one) / "curves.csv").assign(method="ps")
    (tmp_path / "c").mkdir()
    short[short["env_steps"] < 200].to_csv(tmp_path / "c" / "curves.csv", index=False)
    assert main(["compare", one, str(tmp_path / "c")]) == 2
    assert "ps, seed 1, ends after 100 steps, others after 200" in capsys.readouterr().err
    assert main(["compare", one, one]) == 2
    assert "run one local mappo nps 1 is in a and in a" in capsys.readouterr().err
    assert main(["compare", one, two]) == 2
    assert "need a --baseline" in capsys.readouterr().err


def test_an_interrupted_analysis_reports_the_trials_that_are_done(tmp_path, monkeypatch):
    from lorasa_rllib.studies import analyze

    folders = [tmp_path / f"{method}_seed1" for method in ("lora", "ps")]
    trials = [analyze.Trial(folder, {10: folder / "checkpoint_000000"}) for folder in folders]

    def one(trial, temporary, env_steps, trust):
        if trial.name == "ps_seed1":
            raise KeyboardInterrupt
        return [analyze.Part(trial.name, "as it acts", level=2)], {"trial": trial.name}

    monkeypatch.setattr(analyze, "find_trials", lambda folder, trust: trials)
    monkeypatch.setattr(analyze, "_trial", one)
    monkeypatch.setattr(analyze, "load_policy_of", lambda checkpoint, trust: None)
    monkeypatch.setattr(analyze, "_sizes", lambda policy: {})
    told = []
    with pytest.raises(KeyboardInterrupt):
        analyze.analyze(tmp_path, tmp_path / "report.html", shown=lambda done, of: told.append((done, of)))
    page = (tmp_path / "report.html").read_text()
    assert told == [(1, 2)] and "as it acts" in page and "by their own folders: ps_seed1" in page
