"""Live progress of a study: a line per trial every few seconds, instead of Tune's tables of every number."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.tune import Callback
from rich.console import Console

WAIT, FIRST_WAIT = 60.0, 20.0
"""Seconds between two lines about trials that wait, and until the first one."""


class Progress(Callback):
    """Prints, for each trial, steps of the budget, phase, return, speed and time left.

    every: seconds between two lines of one trial. Errors, checkpoints and ends are always told.
    """

    def __init__(self, total_env_steps: int, every: float = 10.0):
        self._total, self._every = total_env_steps, every
        self._tell_at: float | None = None  # that no trial finds room
        self._last: dict[str, float] = {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Says so, every minute, while no trial finds room: Tune waits for ever, without a word."""
        now = time.monotonic()
        if any(trial.status == "RUNNING" for trial in trials) or all(trial.is_finished() for trial in trials):
            self._tell_at = None
            return
        self._tell_at = now + FIRST_WAIT if self._tell_at is None else self._tell_at
        if now >= self._tell_at:
            self._tell_at = now + WAIT
            waiting = next(trial for trial in trials if trial.status == "PENDING")
            needed = waiting.placement_group_factory.required_resources
            _say(
                f"[yellow]{waiting!s:<36} waits for {_resources(needed)}; the cluster has "
                f"{_resources(ray.cluster_resources())}, {_resources(ray.available_resources())} of it free[/yellow]"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _say(f"[dim]{trial!s:<36} starts[/dim]")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("faults"):
            _say(f"[yellow]{trial!s:<36} {result['faults']}[/yellow]")
        now = time.monotonic()
        steps = int(result["num_env_steps_sampled_lifetime"])
        if steps < self._total and now - self._last.get(trial.trial_id, 0.0) < self._every:
            return
        self._last[trial.trial_id] = now
        _say(self.line(str(trial), result))

    def line(self, name: str, result: dict[str, Any]) -> str:
        """The progress line of one result."""
        steps, runners = int(result["num_env_steps_sampled_lifetime"]), result["env_runners"]
        speed = result["env_runners"].get("num_env_steps_sampled", 0) / max(result["time_this_iter_s"], 1e-9)
        left = max(0, self._total - steps) / max(speed, 1e-9)
        won = runners.get("win_rate")
        value = f"return {runners['episode_return_mean']:8,.1f}" if won is None else f"won {won:.0%} of battles"
        if not runners["num_episodes_lifetime"]:
            value = "no episode has ended yet"
        return (
            f"{name:<36} {steps:>11,} / {self._total:,} steps   {result['phase']:<8}   {value:<24}"
            f"   {speed:>7,.0f} steps/s   {int(left // 60)}:{int(left % 60):02d} left"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _say(f"[red]{trial!s:<36} failed; see {trial.error_file or trial.local_path}[/red]")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _say(f"[green]{trial!s:<36} done[/green]")


def _resources(amounts: dict[str, float]) -> str:
    return " and ".join(f"{amounts.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))


def _say(text: str) -> None:
    Console(width=150, highlight=False).print(text)  # made anew: Tune pickles callbacks, and consoles hold locks
