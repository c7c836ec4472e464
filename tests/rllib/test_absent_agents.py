"""Agents that leave and return: evaluation, films and `act` remember or forget as the policy was trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lorasa_rllib import MAPPOConfig, load_policy
from lorasa_rllib.learning.reference import Quirks
from lorasa_rllib.policies.folder import CONFIG
from lorasa_rllib.rllib.checkpoints import read_trained
from lorasa_rllib.studies import playing
from tests.envs.games import Guests

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Drawn(Guests):
    def __init__(self, render_mode=None, **settings):
        super().__init__(**settings)

    def render(self):
        return np.full((16, 16, 3), self.time, np.uint8)


HERE = playing.Environment("pettingzoo", {"env": Drawn}, trusted=True)


def told_of(play):
    """What the environment was told while `play` runs: whether an episode begins, observations, actions."""
    Guests.told.clear()
    play()
    return [one for one in Guests.told if one[2]][:12]  # one episode


def assert_same(found, expected):
    assert len(found) == len(expected) == 12
    for (_, _, actions), (_, _, wanted) in zip(found, expected, strict=True):
        assert set(actions) == set(wanted)
        for name, action in wanted.items():
            np.testing.assert_allclose(actions[name], action, **CLOSE, err_msg=name)


def differ(found, expected):
    return any(
        not np.allclose(a[2][name], b[2][name], **CLOSE) for a, b in zip(found, expected, strict=True) for name in b[2]
    )


@pytest.fixture(scope="module")
def trained(ray_instance, tmp_path_factory):
    """Of each way: the policy's folder, a checkpoint, and an episode of the env runner."""
    found = {}
    for name, reference in {"ours": False, "all": True, "memory": Quirks(absent_memory=True)}.items():
        config = (
            MAPPOConfig()
            .environment("pettingzoo", env_config={"env": Guests})
            .env_runners(num_envs_per_env_runner=1)
            .sharing("ps", total_env_steps=1000)
            .network(hidden_size=8, recurrent=True)
            .training(train_batch_size_per_learner=120, num_epochs=2, lr=0.05, reference=reference)
            .debugging(seed=3)
        )
        algo = config.build_algo()
        for _ in range(3):
            algo.train()
        folder = tmp_path_factory.mktemp(name)
        algo.save_policy(folder / "policy")
        checkpoint = algo.save_to_path(folder / "checkpoint")
        episode = told_of(lambda runner=algo.env_runner: runner.sample(num_episodes=1, explore=False))
        found[name] = folder / "policy", checkpoint, episode
        algo.stop()
    return found


def played(saved):
    env = playing.environment_of(saved, 1, {}, environment=HERE)
    return told_of(lambda: playing.episodes(env, playing.LoadedPolicy(saved), 1, greedy=True, seed=0))


def filmed(saved, path):
    env = playing.environment_of(saved, 1, {}, rendered=True, environment=HERE)
    return told_of(lambda: playing.record(env, playing.LoadedPolicy(saved), path, 20, 10, greedy=True, seed=0))


def acted(policy, episode):
    state, found = None, []
    for begins, seen, _ in episode:
        actions, state = policy.act(seen, None if begins else state)
        found.append((begins, seen, actions))
    return found


@pytest.mark.parametrize("way", ["ours", "all", "memory"])
def test_evaluation_films_and_act_are_those_of_the_env_runner(trained, way, tmp_path):
    folder, checkpoint, episode = trained[way]
    for source in (folder, checkpoint):
        saved = read_trained(source, trust=True)
        assert saved.config.absent_forget is (way == "ours")
        policy = load_policy(source)
        assert_same(acted(policy, episode), episode)
        for mine in (played(saved), filmed(saved, tmp_path / "film.gif")):
            assert_same(acted(policy, mine), mine)


def test_files_without_the_flag_forget(trained, tmp_path):
    folder, _, _ = trained["all"]
    data = json.loads((folder / CONFIG).read_text())
    assert data["policy"].pop("absent_forget") is False
    remembering = read_trained(folder, trust=True)
    (folder / CONFIG).write_text(json.dumps(data))
    forgetting = read_trained(folder, trust=True)
    assert forgetting.config.absent_forget
    episode = played(forgetting)
    assert_same(acted(load_policy(folder), episode), episode)
    assert differ(acted(playing.LoadedPolicy(remembering), episode), episode)  # else nothing was tested
