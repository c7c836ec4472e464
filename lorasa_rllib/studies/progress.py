"""Live progress of a study: a line per trial every few seconds, in place of Tune's large tables."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from lorasa_rllib.printable import printable, shortened
from lorasa_rllib.studies.curves import STEPS
from lorasa_rllib.studies.terminal import compact, console, duration, three_figures, width

WAIT, FIRST_WAIT = 60.0, 20.0
"""Seconds between two lines about waiting trials, and before the first one."""

STUDY = 60.0
"""Seconds between two lines about the whole study."""

NAME, LEAST_NAME = 36, 18
"""Width of a trial's name if there is room, and the minimum width for which other fields are dropped."""

NO_PHASES = "one phase"


PARTS = {"sampling": ("sample",), "learning": ("learn",), "evaluating": ()}
"""What a trial's time goes to: word -> parts of `split` in its results. Evaluating is what the other parts leave of the
iterations that evaluate."""


@dataclass
class Spent:
    """Seconds that the iterations of a trial took, in all and for each of `PARTS`."""

    total: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds an iteration."""
        took, split = float(result["time_this_iter_s"]), result.get("split", {})
        self.total += took
        for word, names in PARTS.items():
            self.parts[word] += sum(split.get(name, 0.0) for name in names)
        if "evaluation" in result:
            self.parts["evaluating"] += max(0.0, took - sum(split.values()))

    def __str__(self) -> str:
        """For example "52% sampling, 31% learning, 9% evaluating"; empty before the first iteration."""
        if not self.total:
            return ""
        return ", ".join(f"{seconds / self.total:.0%} {word}" for word, seconds in self.parts.items())


@dataclass
class Pace:
    """Progress of a trial. steps: environment steps done; per_second: speed since the session's first result."""

    steps: int
    per_second: float
    first: tuple[int, float]

    @classmethod
    def of(cls, result: Mapping[str, Any], before: Pace | None) -> Pace:
        steps, now = int(result[STEPS]), float(result["time_total_s"])
        taken = max(float(result["time_this_iter_s"]), 1e-9)
        if before is None or steps <= before.steps:  # new, or restarted after a failure
            sampled = result["env_runners"].get("num_env_steps_sampled", 0)
            return cls(steps, sampled / taken, (steps, now))
        first_steps, first = before.first
        return cls(steps, (steps - first_steps) / max(now - first, 1e-9), before.first)


class Progress(Callback):
    """Prints steps, phase, return, speed and remaining time of each trial, and the remaining time of the study.

    every: seconds between two lines of one trial. Starts, faults, failures and ends are always printed.
    trials: total number, as Tune creates them one by one.       begun: trial name -> steps that it starts with.
    later: environment steps of trials that follow these.
    """

    def __init__(
        self,
        total_env_steps: int,
        every: float = 10.0,
        trials: int = 1,
        begun: Mapping[str, int] | None = None,
        later: int = 0,
    ):
        self._total, self._every, self._trials, self._later = total_env_steps, every, trials, later
        self._begun = dict(begun or {})
        self._tell_at: float | None = None  # when to report that no trial can be scheduled
        self._last: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._ended: set[str] = set()
        self._room_seen: set[str] = set()
        self._told_study = time.monotonic()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a resumed experiment, perhaps of an older version, as Tune pickles callbacks. Times restart."""
        settings = {name: state[f"_{name}"] for name in ("every", "trials", "begun", "later") if f"_{name}" in state}
        Progress.__init__(self, state["_total"], **settings)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Reports every minute that no trial can be scheduled, since Tune waits forever and silently."""
        now = time.monotonic()
        if any(trial.status == "RUNNING" for trial in trials) or all(trial.is_finished() for trial in trials):
            self._tell_at = None
            return
        self._tell_at = now + FIRST_WAIT if self._tell_at is None else self._tell_at
        if now >= self._tell_at:
            self._tell_at = now + WAIT
            waiting = next(trial for trial in trials if trial.status == "PENDING")
            needed, free = waiting.placement_group_factory.required_resources, ray.available_resources()
            if str(waiting) not in self._room_seen and all(free.get(name, 0) >= n for name, n in needed.items()):
                self._room_seen.add(str(waiting))  # it is starting slowly, unless no machine fits its parts
                return
            there = f"the cluster has {_resources(ray.cluster_resources())}, {_resources(free)} of it free"
            _say(f"{waiting!s} waits for {_resources(needed)}; {there}", "yellow")

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        _say(f"{trial!s} starts", "dim")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        if result.get("faults"):
            _say(f"{trial!s} {result['faults']}", "yellow")
        now = time.monotonic()
        self._spent[str(trial)].add(result)
        self._paces[str(trial)] = Pace.of(result, self._paces.get(str(trial)))
        if int(result[STEPS]) >= self._total or now - self._last.get(trial.trial_id, -math.inf) >= self._every:
            self._last[trial.trial_id] = now
            _say(self.line(str(trial), result, adapts="lora" in str(trial.config.get("method", "lora"))))
        if now - self._told_study >= STUDY:
            self._tell_study(trials)

    def line(self, name: str, result: dict[str, Any], adapts: bool = True) -> str:
        """The progress line of one result, fitted to the terminal's width. adapts: whether the method has adapters."""
        runners, pace = result["env_runners"], self._paces.get(name) or Pace.of(result, None)
        won = runners.get("win_rate")
        value = f"return {three_figures(runners['episode_return_mean'])}" if won is None else f"won {won:.0%}"
        if not runners["num_episodes_lifetime"]:
            value = "no episode yet"
        left = max(0, self._total - pace.steps) / pace.per_second if pace.per_second else math.inf
        fields = {
            "steps": f"{compact(pace.steps):>5}/{compact(self._total)} steps",
            "phase": f"{result['phase'] if adapts else NO_PHASES:<9}",
            "value": f"{value:<14}",
            "speed": f"{compact(pace.per_second):>5} steps/s",
            "left": f"{duration(left):>7} left",
        }
        for least in ("speed", "phase", "steps"):  # dropped in this order in narrow terminals
            if _room(fields) >= LEAST_NAME:
                break
            del fields[least]
        room = max(1, min(NAME, _room(fields)))
        return "  ".join([f"{shortened(name, room):<{room}}", *fields.values()])

    def end_line(self, name: str) -> str:
        """The line about the end of a trial, with what its time went to where there is room."""
        spent = str(self._spent[name])
        room = width() - len(f" done: {spent}")
        return f"{shortened(name, room)} done: {spent}" if spent and room >= LEAST_NAME else f"{name} done"

    def study_line(self, trials: list[Trial]) -> str:
        """The number of trials per state, and the remaining time at the current speed."""
        finished = sum(self._is_over(trial) for trial in trials)
        running = sum(trial.status == "RUNNING" and not self._is_over(trial) for trial in trials)
        waiting = max(self._trials, len(trials)) - finished - running
        left = duration(self.seconds_left(trials))
        done = f"{finished} of {max(self._trials, len(trials))} trials done"
        return f"study: {done}, {running} running, {waiting} waiting; about {left} left"

    def seconds_left(self, trials: list[Trial]) -> float:
        """Remaining time of the study: all remaining steps at the total speed of the running trials, but at least that
        of the slowest running trial."""
        of_trials, speed = [], 0.0
        for trial in trials:
            pace = self._paces.get(str(trial))
            if self._is_over(trial):
                continue
            steps = max(0, self._total - (pace.steps if pace else self._begun.get(str(trial), 0)))
            of_trials.append((steps, pace.per_second if pace and trial.status == "RUNNING" else 0.0))
            speed += of_trials[-1][1]
        names = {str(trial) for trial in trials}
        unmade = max(0, self._trials - len(trials))
        begun = sorted((steps for name, steps in self._begun.items() if name not in names), reverse=True)[:unmade]
        rest = sum(steps for steps, _ in of_trials) + unmade * self._total - sum(begun) + self._later
        if not rest:
            return 0.0
        slowest = max((steps / own for steps, own in of_trials if own), default=0.0)
        return max(slowest, rest / speed) if speed else math.inf

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        _say(f"{trial!s} failed; see {trial.error_file or trial.local_path}", "red")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        _say(self.end_line(str(trial)), "green")
        self._ended.add(str(trial))  # its status is updated only later
        if not all(map(self._is_over, trials)) or len(trials) < self._trials:
            self._tell_study(trials)

    def _is_over(self, trial: Trial) -> bool:
        return bool(trial.is_finished()) or str(trial) in self._ended

    def _tell_study(self, trials: list[Trial]) -> None:
        self._told_study = time.monotonic()
        if self._trials > 1 and math.isfinite(self.seconds_left(trials)):
            _say(self.study_line(trials), "bold")


def _room(fields: Mapping[str, str]) -> int:
    """Columns of the terminal not used by `fields`."""
    return width() - sum(2 + len(field) for field in fields.values())


def _resources(amounts: dict[str, float]) -> str:
    return " and ".join(f"{amounts.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))


def _say(text: str, style: str | None = None) -> None:
    lines = "\n".join(map(printable, text.splitlines()))  # may quote environments' errors
    console().print(lines, style=style, markup=False)  # a new console: Tune pickles callbacks, and consoles hold locks
