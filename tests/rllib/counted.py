"""Environments that write down, into a file that all processes share, how they are built, reset and closed."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

from lorasa_rllib.envs.mamujoco import MAMuJoCo
from tests.envs import games


def note(log, event):
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {event}\n")


def events(log):
    """(process, event) in order; the log begins anew."""
    found = [tuple(line.split()) for line in Path(log).read_text().splitlines()] if Path(log).exists() else []
    Path(log).unlink(missing_ok=True)
    return [(int(process), event) for process, event in found]


def counts(found):
    """Process -> event -> how often."""
    by_process = defaultdict(Counter)
    for process, event in found:
        by_process[process][event] += 1
    return {process: dict(of_one) for process, of_one in by_process.items()}


def most_open(found):
    """The largest number of copies that were open at once in any process."""
    opened, most = Counter(), 0
    for process, event in found:
        opened[process] += {"built": 1, "closed": -1}.get(event, 0)
        most = max(most, opened[process])
    return most


class CountedGame(games.Game):
    """Copies list their agents in another order in each process; observations tell who sees them."""

    names = ("ann", "bob", "cleo")

    def __init__(self, log, length=9, order_by=0, other=None):
        super().__init__(length)
        self.log = log
        note(log, "built")
        turn = (os.getpid() + order_by) % 3
        self.possible_agents = [*self.names[turn:], *self.names[:turn]]
        self.observation_spaces = {agent: self.sees(agent) for agent in self.names}
        self.action_spaces = {agent: self.acts(agent) for agent in self.names}

    def reset(self, seed=None, options=None):
        note(self.log, "reset")
        return super().reset(seed, options)

    def observe(self, agent):
        seen = super().observe(agent)
        seen[1, 1] = 0.1 * self.names.index(agent)
        return seen

    def close(self):
        note(self.log, "closed")


class CountedMuJoCo(MAMuJoCo):
    """Half a cheetah per agent."""

    def __init__(self, num_envs=1, *, log, **settings):
        self._log = log
        super().__init__(num_envs, **settings)

    @classmethod
    def team_spec(cls, log, **settings):
        one = cls(log=log, **settings)
        one.close()
        return one.spec

    def _one_more(self):
        note(self._log, "built")
        return super()._one_more()

    def _begin(self, which, seeds):
        for _ in which:
            note(self._log, "reset")
        super()._begin(which, seeds)

    def close(self):
        for _ in self._library:
            note(self._log, "closed")
        super().close()


class OneAtATime(games.Game):
    """Holds something of which a process has only one."""

    is_open = False

    def __init__(self, length=9):
        assert not OneAtATime.is_open, "another copy is open"
        OneAtATime.is_open = True
        super().__init__(length)

    def close(self):
        OneAtATime.is_open = False


class Nobody(games.Game):
    """Nobody is there after the third reset."""

    resets = 0

    def reset(self, seed=None, options=None):
        obs, infos = super().reset(seed, options)
        self.resets += 1
        if self.resets > 2:
            self.agents = []
        return obs, infos


class Dashes(games.Game):
    """Names with what RLlib joins names of metrics by, and with letters that Ray's tags of metrics do not take."""

    called = ("left--1", "left", "-пр\u00e4vo--")

    def __init__(self, length=9):
        super().__init__(length)
        spaces = self.observation_spaces, self.action_spaces
        self.observation_spaces, self.action_spaces = (dict(zip(self.called, x.values(), strict=True)) for x in spaces)
        self.possible_agents = list(self.called)
