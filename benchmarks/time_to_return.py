"""How long until a team performs well? Seconds and environment steps until the greedy return first reaches a threshold.

Compared   ours with default configs, one shared policy and joint LoRASA | ours, one shared policy, with
           `--preset published` | RLlib's stock PPO on the same environment with the settings of our recipe and its own
           observation filter | TorchRL's PPO (one policy, a central critic) with TorchRL's settings
Method     HalfCheetah-2x3 and Walker2d-2x3, local observations (k = 1), two hidden layers of 64; mean of ten greedy
           episodes about every 20,000 environment steps; separate processes with one torch thread, which alternate
           after every evaluation so that slow moments of the machine affect all; seconds exclude all but training
Run        python benchmarks/time_to_return.py --seeds 1 2 3
           hours; if interrupted, the same command continues: contestants that have reached the highest threshold or the
           end of the budget are done, the others restart
           --python torchrl-ppo=PATH runs one of them with another interpreter; without torchrl it is omitted
           (`pip install -e ".[bench]" -c constraints.txt`). --smoke: a quick check of one or two minutes
Recorded   results/time_to_return/runs/<task>_<who>_seed<k>.csv, a row for each evaluation
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.children import Child
from lorasa_rllib.studies.options import steps_of

ROOT = Path(__file__).parents[1]
BARS = {"HalfCheetah-2x3": (3000.0, 5000.0), "Walker2d-2x3": (3000.0,)}
"""Task -> thresholds of the greedy return."""
WHO = ("ours-ps", "ours-lora-joint", "ours-ps-published", "rllib-ppo", "torchrl-ppo")
COLUMNS = ("env_steps", "seconds", "greedy")


@dataclass(frozen=True)
class Race:
    """Settings shared by all contestants. bars: thresholds per task. batch: None: each contestant's default."""

    bars: Mapping[str, tuple[float, ...]]
    total_env_steps: int
    every: int
    episodes: int
    folder: Path
    batch: int | None = None


@dataclass(frozen=True)
class Run:
    """One contestant on one task with one seed."""

    race: Race
    task: str
    who: str
    seed: int

    @property
    def csv(self) -> Path:
        return self.race.folder / f"{self.task}_{self.who}_seed{self.seed}.csv"

    def rows(self) -> list[dict[str, float]]:
        """Evaluations so far."""
        if not self.csv.is_file():
            return []
        with self.csv.open(newline="") as file:
            return [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]

    def done(self) -> bool:
        rows = self.rows()
        top = reached(rows, max(self.race.bars[self.task])) is not None
        return top or (bool(rows) and rows[-1]["env_steps"] >= self.race.total_env_steps)


def reached(rows: Iterable[Mapping[str, float]], bar: float) -> Mapping[str, float] | None:
    """The first evaluation that reached a threshold, or None."""
    return next((row for row in rows if row["greedy"] >= bar), None)


class Playing:
    """A run whose contestant trains in a separate process."""

    def __init__(self, run: Run, python: str):
        race = run.race
        command = [
            python, str(ROOT / "benchmarks" / "contestants.py"), run.who, run.task, "--seed", str(run.seed),
            "--total-env-steps", str(race.total_env_steps), "--every", str(race.every),
            "--episodes", str(race.episodes),
            *([] if race.batch is None else ["--batch", str(race.batch)]),
        ]  # fmt: skip
        self.run, self._child = run, Child(run.who, command)
        run.csv.parent.mkdir(parents=True, exist_ok=True)
        self._file = run.csv.open("w", newline="")
        self._csv = csv.DictWriter(self._file, COLUMNS)
        self._csv.writeheader()

    def turn(self) -> dict[str, float]:
        """Trains until the next evaluation and records it. Raises RuntimeError with the last output on failure."""
        row: dict[str, float] = self._child.ask()
        self._csv.writerow(row)
        self._file.flush()
        return row

    def close(self) -> None:
        self._file.close()
        self._child.close()


def race(runs: list[Run], pythons: Mapping[str, str], console: Console) -> None:
    """Runs the unfinished runs alternately."""
    playing: list[Playing] = []
    try:
        for run in runs:
            playing.append(Playing(run, pythons.get(run.who, sys.executable)))
        while playing:
            for one in list(playing):
                row = one.turn()
                if one.run.done():
                    playing.remove(one)
                    one.close()
                    shown = (
                        f"{row['env_steps']:,.0f} steps, {row['seconds']:,.0f} s, greedy return {row['greedy']:,.0f}"
                    )
                    console.print(f"{one.run.csv.stem}: {shown}", highlight=False)
    finally:
        for one in playing:
            one.close()


def table(runs: Iterable[Run]) -> Table:
    """Medians over seeds; runs that have not reached a threshold count as the slowest."""
    shown = Table("task", "bar", "who", "seconds", "environment steps", "reached by", title="Until the greedy return")
    by_who: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_who.setdefault((run.task, run.who), []).append(run)
    for (task, who), some in by_who.items():
        for bar in some[0].race.bars[task]:
            first = [found for run in some if (found := reached(run.rows(), bar))]
            slower = [math.inf] * (len(some) - len(first))
            middle = [statistics.median([*(row[what] for row in first), *slower]) for what in ("seconds", "env_steps")]
            numbers = [f"{value:,.0f}" if math.isfinite(value) else "not reached" for value in middle]
            shown.add_row(task, f"{bar:,.0f}", who, *numbers, f"{len(first)} of {len(some)}")
    return shown


def has_torchrl(python: str) -> bool:
    return not subprocess.run([python, "-c", "import torchrl"], capture_output=True, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=BARS, default=list(BARS))
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--total-env-steps", type=steps_of, default=1_000_000, help="budget, such as 0.6M")
    parser.add_argument("--every", type=int, default=20_000, help="environment steps between evaluations")
    parser.add_argument("--python", nargs="+", default=[], metavar="WHO=PATH", help="interpreters of some of them")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "time_to_return" / "runs")
    parser.add_argument("--smoke", action="store_true", help="two iterations of one short batch each")
    options = parser.parse_args()
    pythons, console, who = dict(pair.split("=", 1) for pair in options.python), Console(width=120), list(options.who)
    if "torchrl-ppo" in who and not has_torchrl(pythons.get("torchrl-ppo", sys.executable)):
        who.remove("torchrl-ppo")
        console.print('torchrl-ppo is left out: pip install -e ".[bench]" -c constraints.txt', markup=False)
    if options.smoke:
        bars = {task: (math.inf,) for task in options.tasks[:1]}
        with tempfile.TemporaryDirectory() as folder:
            smoke = Race(bars, 640, 320, 1, Path(folder), batch=320)
            runs = [Run(smoke, task, name, 1) for task in bars for name in who]
            race(runs, pythons, console)
            console.print(table(runs))
        return
    whole = Race(BARS, options.total_env_steps, options.every, 10, options.folder)
    runs = [Run(whole, task, name, seed) for task in options.tasks for seed in options.seeds for name in who]
    for task in options.tasks:
        for seed in options.seeds:
            race([run for run in runs if (run.task, run.seed) == (task, seed) and not run.done()], pythons, console)
    console.print(table(runs))


if __name__ == "__main__":
    main()
