"""The race to a return, without its contestants: turns, bars, what is done, and the table."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from benchmarks.contestants import answer
from benchmarks.time_to_return import Race, Run, reached, table


class Climber:
    """Trains 300 steps an iteration; its return is the number of its steps."""

    steps = 0

    def train(self):
        self.steps += 300
        return self.steps

    def greedy(self):
        return float(self.steps)


def evaluations(every, lines):
    answers = io.StringIO()
    answer(Climber(), every, io.StringIO("go\n" * lines), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_every_turn_trains_to_the_next_evaluation_whatever_a_batch_is():
    assert [row["env_steps"] for row in evaluations(1000, 4)] == [1200, 2100, 3000, 4200]
    assert [row["env_steps"] for row in evaluations(300, 3)] == [300, 600, 900]
    seconds = [row["seconds"] for row in evaluations(1000, 3)]
    assert 0 < seconds[0] < seconds[1] < seconds[2]


@pytest.fixture
def run(tmp_path):
    def make(seed, greedy, budget=1000):
        run = Run(Race({"A-1x1": (10.0, 50.0)}, budget, 100, 1, tmp_path), "A-1x1", "ours-ps", seed)
        rows = [f"{100 * k},{k},{value}" for k, value in enumerate(greedy, 1)]
        run.csv.write_text("\n".join(["env_steps,seconds,greedy", *rows, ""]))
        return run

    return make


def test_a_run_is_done_at_the_highest_bar_or_at_the_end_of_its_budget(run):
    assert not run(1, []).done()
    assert not run(1, [12, 40]).done()
    assert run(1, [12, 60, 5]).done()
    assert run(1, [12, 40], budget=200).done()
    assert not Run(run(1, []).race, "A-1x1", "ours-ps", 9).done()


def test_the_first_evaluation_that_reaches_a_bar_counts_and_seeds_that_do_not_are_the_slowest(run):
    rows = run(1, [5, 10, 60, 9]).rows()
    assert reached(rows, 10.0) == {"env_steps": 200, "seconds": 2, "greedy": 10}
    assert reached(rows, math.inf) is None
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([run(1, [5, 10, 60]), run(2, [20, 20]), run(3, [1, 1])]))
    first, second = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "A-1x1" in line]
    assert [cell.strip() for cell in first] == ["A-1x1", "10", "ours-ps", "2", "200", "2 of 3"]
    assert [cell.strip() for cell in second] == ["A-1x1", "50", "ours-ps", "not reached", "not reached", "1 of 3"]
