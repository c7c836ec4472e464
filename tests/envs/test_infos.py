"""Numbers in infos become metrics of an episode: each agent's own last step, a mean over agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.infos import numbers_in
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent


class Reporting(games.Leavers):
    """Every agent reports when it was last there, and where; `score` is a number of its own."""

    def infos(self, agents=None):
        time = getattr(self, "time", 0)
        return {
            agent: {"metrics": {"time": np.int64(time), "place": torch.tensor(self.place[agent])}, "score": time * 2}
            for agent in agents or self.agents
        }


def played(env, seed=3):
    """(metrics of an episode, the time at which each agent had left) of all episodes of some steps."""
    rng, found = np.random.default_rng(seed), []
    step = env.reset(seed)
    lasted = np.zeros((env.num_envs, env.spec.num_agents))
    for _ in range(60):
        lasted += step.active
        step = env.step(rng.integers(3, size=(env.num_envs, env.spec.num_agents)))
        assert len(step.metrics) == len(step.ended)
        for e, metrics in zip(step.ended, step.metrics, strict=True):
            found.append((metrics, lasted[e].copy()))
            lasted[e] = 0
    return found


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("game", [Reporting, as_multi_agent(Reporting)], ids=["PettingZoo", "MultiAgentEnv"])
def test_metrics_are_of_each_agents_own_last_step(game, limit):
    found = played(PettingZooTeam(3, env=game, max_episode_steps=limit))
    assert len(found) > 10 and any(len(set(lasted)) > 1 for _, lasted in found)
    for metrics, lasted in found:
        assert metrics["time"] == pytest.approx(lasted.mean())
        assert 0 <= metrics["place"] <= 5


def test_another_key_may_hold_one_number():
    for metrics, lasted in played(PettingZooTeam(2, env=Reporting, metrics_key="score")):
        assert metrics == {"score": pytest.approx(2 * lasted.mean())}


def test_infos_of_nobody_count_in_the_last_step_of_all():
    class Common(as_multi_agent(games.Game)):
        def step(self, actions):
            *rest, infos = super().step(actions)
            return *rest, {**infos, "__common__": {"metrics": {"time": self.game.time}}}

    assert {metrics["time"] for metrics, _ in played(PettingZooTeam(1, env=Common))} == {12.0}


@pytest.mark.parametrize(
    ("info", "numbers"),
    [
        (None, {}),
        ({}, {}),
        ({"metrics": None}, {}),
        ({"metrics": 3}, {"metrics": 3.0}),
        (
            {"metrics": {"a": True, "b": np.float32(0.5), "c": torch.tensor(2), "d": np.array(4)}},
            dict(a=1, b=0.5, c=2, d=4),
        ),
        (
            {"metrics": {"a": "word", "b": [1], "c": np.zeros(2), "d": np.nan, "e": float("inf"), "f": None, 7: 1}},
            {"7": 1},
        ),
    ],
)
def test_only_finite_numbers_count(info, numbers):
    assert numbers_in(info, "metrics") == numbers


class Closeless(games.Game):
    close = None


@pytest.mark.parametrize("game", [Closeless, as_multi_agent(Closeless)], ids=["PettingZoo", "MultiAgentEnv"])
def test_an_environment_without_close_is_left_open(game):
    if not issubclass(game, Closeless):
        game.close = None
    PettingZooTeam.team_spec(env=game)
    PettingZooTeam(2, env=game).close()
