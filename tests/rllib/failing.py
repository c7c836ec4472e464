"""Environments and callbacks that fail where a test asks them to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback

from lorasa_rllib.envs.synthetic import SyntheticTeam
from tests.envs import games


class Failing(SyntheticTeam):
    """Raises, or ends its process, once for every file called "raise" or "exit" in the folder `orders`.

    built_in: the process that may make it; another one lacks a file, or dies of it.
    """

    def __init__(self, num_envs: int, orders: str = "", built_in: int | None = None, dies: bool = False, **settings):
        if built_in not in (None, os.getpid()):
            if dies:
                os._exit(3)
            raise FileNotFoundError("maps/town_05.bin is not on this machine")
        super().__init__(num_envs, **settings)
        self._orders = Path(orders)

    @classmethod
    def team_spec(cls, orders: str = "", built_in: int | None = None, dies: bool = False, **settings):
        return super().team_spec(**settings)

    def step(self, actions):
        for order in self._orders.glob("raise*"):
            order.unlink()
            raise OSError("the simulator lost its licence")
        if (self._orders / "always").exists():
            raise OSError("no licence at all")
        if (self._orders / "exit").exists():
            os._exit(3)
        return super().step(actions)


class Endless(SyntheticTeam):
    """Its episodes have no end."""

    def step(self, actions):
        step = super().step(actions)
        none = np.zeros(self.num_envs, bool)
        step.terminated, step.truncated, step.ended = none, none, np.zeros(0, np.int64)
        step.final_obs, step.final_state = step.final_obs[:0], step.final_state[:0]
        return step


class SecondCopyFails(games.Game):
    """A game of PettingZoo of which the second copy in a process raises."""

    copies = 0

    def step(self, actions):
        if not hasattr(self, "number"):
            self.number = type(self).copies
            type(self).copies += 1
        if self.number == 1:
            raise RuntimeError("simulator crashed")
        return super().step(actions)


class Slip(RLlibCallback):
    """A callback with a mistake in the hook that its subclasses name; `when`: in training or in evaluation."""

    when = (False, True)

    @classmethod
    def in_hook(cls, hook: str, evaluation: bool | None = None) -> type[Slip]:
        def slip(self, *, env_runner, **arguments):
            if evaluation in (None, env_runner.config.in_evaluation):
                arguments["episode"].no_such_method()  # KeyError or AttributeError, by the hook

        slip.__qualname__ = f"Slip.{hook}"
        return type("Slip", (RLlibCallback,), {hook: slip})
