"""What a study prints while it runs, at any width of the window."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace

import pytest

from lorasa_rllib.printable import shortened
from lorasa_rllib.studies import progress as module
from lorasa_rllib.studies.progress import NO_PHASES, Progress
from lorasa_rllib.studies.terminal import compact, console, duration, three_figures, width

NAME = "HalfCheetah-2x3_lora-role-joint_seed12"


def result(steps=420_000, value=1234.5, seconds=420.0, episodes=7, **runners):
    return {
        "num_env_steps_sampled_lifetime": steps,
        "env_runners": {"episode_return_mean": value, "num_env_steps_sampled": 4000, "num_episodes_lifetime": episodes}
        | runners,
        "time_this_iter_s": 4.0,
        "time_total_s": seconds,
        "phase": "backbone",
    }


def trial(name, status="RUNNING", method="lora"):
    done = status in ("TERMINATED", "ERROR")

    class Named(SimpleNamespace):
        def __str__(self):
            return name

    config = {"method": method}
    return Named(trial_id=name, status=status, config=config, is_finished=lambda: done)


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", ["a", NAME, NAME * 3])
def test_lines_fit_the_window(columns, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for told in (
        Progress(10_000_000).line(name, result(steps=9_999_999)),
        Progress(10_000_000).line(name, result(value=-0.00123, seconds=1e6)),
        Progress(10_000_000).line(name, result(episodes=0)),
    ):
        assert len(told) <= columns and "left" in told
    assert "1,234" in Progress(1_000_000).line(name, result()) or columns < 60


def test_lines_have_all_that_there_is_room_for(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    told = Progress(1_000_000).line(NAME[:36], result())
    assert told.split() == [
        NAME[:36], "420k/1M", "steps", "backbone", "return", "1,234", "1k", "steps/s", "9:40", "left"
    ]  # fmt: skip
    assert "won 43%" in Progress(1_000_000).line("x", result(win_rate=0.43))
    assert NO_PHASES in Progress(1_000_000).line("x", result(), adapts=False)
    monkeypatch.delenv("COLUMNS")
    assert width() > 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234"), (56.789, "56.8"), (0.012345, "0.0123"), (-0.5, "-0.500"), (0.0, "0"), (math.nan, "-"),
     (1.5e-7, "1.50e-07"), (-99.96, "-100.0"), (1e6, "1,000,000")],
)  # fmt: skip
def test_returns_have_three_figures(value, shown):
    assert three_figures(value) == shown


def test_numbers_and_times_are_short():
    assert [compact(n) for n in (0, 950, 999, 1000, 12_345, 999_600, 1_234_567)] == [
        "0", "950", "999", "1k", "12.3k", "1M", "1.23M"
    ]  # fmt: skip
    assert [duration(s) for s in (5, 65, 3600, math.inf)] == ["0:05", "1:05", "1:00:00", "?"]
    assert shortened("abcdefghij", 6) == "a…ghij" and shortened("abc", 3) == "abc"


def test_the_study_takes_what_all_its_trials_take():
    trials = [trial("a"), trial("b"), trial("c", "PENDING"), trial("d", "TERMINATED")]
    told = Progress(10_000, trials=6, begun={"c": 4000, "never": 2000})
    told.on_trial_result(1, trials, trials[0], result(steps=4000, seconds=4.0))  # 1,000 steps/s
    assert told.seconds_left(trials[:1]) == (6 + 5 * 10 - 6)  # of six, two of which begin later
    told.on_trial_result(1, trials, trials[1], result(steps=4000, seconds=2.0))
    told.on_trial_result(2, trials, trials[1], result(steps=8000, seconds=4.0))  # 2,000 steps/s since its first result
    left = 6000 + 2000 + 6000 + 2 * 10_000 - 2000
    assert told.seconds_left(trials) == left / 3000
    assert told.study_line(trials) == "study: 1 of 6 trials done, 2 running, 3 waiting; about 0:11 left"
    slow = Progress(10_000, trials=2)
    slow.on_trial_result(1, trials[:2], trials[0], result(steps=4000, seconds=4.0))
    slow._paces["b"] = module.Pace(9_990, 1.0, (0, 0.0))
    assert slow.seconds_left(trials[:2]) == 10  # the slowest ends last


def test_a_trial_that_ends_counts_as_done_at_once(capsys):
    trials = [trial("a"), trial("b")]
    told = Progress(10_000, trials=2)
    for one in trials:
        told.on_trial_result(1, trials, one, result(steps=4000, seconds=4.0))
    told.on_trial_complete(2, trials, trials[0])  # which Tune still calls RUNNING
    told.on_trial_complete(3, trials, trials[1])
    assert capsys.readouterr().out.count("study: 1 of 2 trials done, 1 running, 0 waiting; about 0:06 left") == 1
    assert told.seconds_left(trials) == 0


def test_waiting_is_told_of_trials_that_find_no_room(capsys, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(module, "WAIT", 0.0)
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: {"CPU": 2})
    waiting = trial("a", "PENDING")
    waiting.placement_group_factory = SimpleNamespace(required_resources={"CPU": 1})
    free = {"CPU": 0}
    monkeypatch.setattr(module.ray, "available_resources", lambda: free)
    told = Progress(10_000)
    told.on_step_begin(1, [waiting])
    assert "a waits for 1 CPUs and 0 GPUs; the cluster has 2 CPUs" in capsys.readouterr().out
    free["CPU"] = 2
    told.on_step_begin(2, [waiting])
    assert not capsys.readouterr().out  # it starts


def test_nothing_is_said_of_studies_of_one_trial_or_before_anything_is_known(capsys):
    one = Progress(10_000)
    one.on_trial_result(1, [trial("a")], trial("a"), result(steps=4000))
    assert Progress(10_000, trials=2).seconds_left([trial("a")]) == math.inf
    one._tell_study([trial("a")])
    assert "study" not in capsys.readouterr().out


def test_experiments_that_an_older_version_began_go_on():
    old = Progress.__new__(Progress)
    old.__dict__ = {"_total": 500, "_every": 3.0, "_tell_at": 7.0, "_last": {"a": 1e9}}
    again = pickle.loads(pickle.dumps(old))
    assert again._total == 500 and again._every == 3.0 and again._last == {} and again._trials == 1


def test_the_end_of_a_trial_says_what_its_time_went_to(monkeypatch):
    progress, plain = Progress(1_000_000), {"split": {"sample": 2.0, "transfer": 0.0, "learn": 1.5, "sync": 0.1}}
    assert progress.end_line("x") == "x done"
    for number in range(10):
        evaluated = {"evaluation": {}, "time_this_iter_s": 7.6} if number == 9 else {}
        progress.on_trial_result(number, [], trial("x"), result(steps=4000 * (number + 1)) | plain | evaluated)
    monkeypatch.setenv("COLUMNS", "80")
    assert progress.end_line("x") == "x done: 46% sampling, 34% learning, 9% evaluating"
    progress._spent[NAME * 2] = progress._spent["x"]
    assert len(progress.end_line(NAME * 2)) == 80
    monkeypatch.setenv("COLUMNS", "60")
    assert progress.end_line("x") == "x done"


def test_folders_and_names_are_printed_as_they_are(capsys):
    told = "Writes into /data/runs[old]/:bug:/team"
    console().print(told, soft_wrap=True)
    assert capsys.readouterr().out == f"{told}\n"
