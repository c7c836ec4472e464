"""Games of StarCraft: each behaviour of the packages that an adapter must handle, on a stand-in for them."""

from __future__ import annotations

import importlib
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.smac import SMACTeam
from lorasa_rllib.envs.smacv2 import capabilities
from lorasa_rllib.envs.smacv2_draws import draw_under_seed
from lorasa_rllib.envs.starcraft import centred
from tests.envs.starcraft_standin import ATTACK, NOOP, STOP, Package, StandIn


@pytest.fixture(autouse=True)
def nothing_made():
    Package.made.clear()


def wait(envs: int) -> np.ndarray:
    return np.full((envs, 2), STOP)


def test_no_game_starts_before_the_first_reset():
    env = StandIn(2)
    assert not any(package.episodes for package in Package.made)
    env.reset(0)
    assert sum(package.episodes for package in Package.made) == 2
    env.close()
    assert all(package.closed for package in Package.made if package.episodes)


def test_a_time_limit_cuts_off_and_a_defeat_ends():
    env = StandIn(1, limit=3)
    env.reset(0)
    for t in range(3):
        step = env.step(wait(1))
        assert step.truncated[0] == (t == 2) and not step.terminated[0]
    assert step.final_obs[0, 0].tolist() == [1, 3, 1] and step.obs[0, 0].tolist() == [1, 0, 2]  # the true last one
    lost = StandIn(1, limit=3, kills=(3, 3))  # in the very step of the limit
    lost.reset(0)
    for _ in range(3):
        step = lost.step(wait(1))
    assert step.terminated[0] and not step.truncated[0] and step.won.tolist() == [False]


def test_a_won_battle_is_told():
    env = StandIn(2)
    env.reset(0)
    env.step(np.array([[ATTACK, ATTACK], [STOP, STOP]]))
    step = env.step(np.array([[ATTACK + 1, ATTACK + 1], [STOP, STOP]]))
    assert step.ended.tolist() == [0] and step.won.tolist() == [True] and step.rewards[:, 0].tolist() == [11.0, 0.0]


def test_the_dead_do_nothing_whatever_they_are_told_and_the_living_keep_their_actions():
    env = StandIn(1, kills=(1, 99))
    env.reset(0)
    role = env.step(wait(1)).roles[0, 0]
    step = env.step(np.array([[ATTACK, ATTACK]]))  # the stand-in refuses what is not available
    assert step.active.tolist() == [[False, True]] and step.masks[0, 0].tolist() == [True, False, False, False]
    assert not step.masks[0, 1, NOOP] and step.rewards[0, 0] == 0.5 and step.roles[0, 0] == role


def test_a_second_reset_in_a_row_does_not_reach_the_game():
    env = StandIn(2)
    first = env.reset(0).obs.copy()
    np.testing.assert_array_equal(env.reset().obs, first)
    for _ in range(6):
        env.step(wait(2))
    env.step(wait(2))
    for _ in range(2):  # the second episode is given up, the third one is not
        assert (env.reset().obs[..., 2] == 3).all()


def test_a_reset_within_the_first_episode_starts_the_game_anew():
    env = StandIn(1)
    env.reset(0)
    env.step(wait(1))
    assert env.reset().obs[0, 0].tolist() == [1, 0, 1]  # the packages would launch a second game beside it
    assert env.restarts == 0 and [p.closed for p in Package.made if p.episodes] == [True, False]


@pytest.mark.parametrize("fault", ["step", "silent restart"])
def test_a_game_that_fails_cuts_its_episode_off_and_starts_again(fault):
    faults: dict[str, int] = {}
    env = StandIn(1, faults=faults)
    before = env.reset(0).obs.copy()
    env.step(wait(1))
    faults[fault] = 1
    step = env.step(wait(1))
    assert step.truncated[0] and not step.terminated[0] and env.restarts == 1 and step.won.tolist() == [False]
    np.testing.assert_array_equal(step.final_obs[..., 1], 1)  # what it showed last
    assert step.obs[0, 0, 1] == 0 and step.obs.shape == before.shape  # a new episode
    assert not env.step(wait(1)).truncated[0] and env.restarts == 1


@pytest.mark.parametrize("fault", ["reset", "restart in reset"])
def test_a_game_that_fails_while_an_episode_begins_is_started_again(fault):
    faults: dict[str, int] = {fault: 1}
    env = StandIn(1, faults=faults)
    assert (env.reset(0).obs[..., 1] == 0).all() and env.restarts == 1
    env.step(wait(1))


def test_a_game_that_never_starts_says_so():
    env = StandIn(1, faults={"reset": 99})
    with pytest.raises(TeamEnvError, match="did not start in 3 attempts: the game is gone"):
        env.reset(0)


def test_games_together_are_what_they_are_alone():
    together, singles = StandIn(3, limit=4), [StandIn(1, limit=4) for _ in range(3)]
    step, others = together.reset(5), [env.reset(5 + e) for e, env in enumerate(singles)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        for e, other in enumerate(others):
            for column in ("obs", "state", "rewards", "terminated", "truncated", "active", "masks", "roles"):
                np.testing.assert_array_equal(getattr(step, column)[e], getattr(other, column)[0], err_msg=column)
        actions = np.where(step.masks, rng.random(step.masks.shape), -1).argmax(-1)
        step = together.step(actions)
        others = [env.step(actions[e : e + 1]) for e, env in enumerate(singles)]


@pytest.mark.parametrize("kind", ["global", "agent", "pruned"])
def test_the_state_of_every_kind_and_the_death_mask(kind):
    env = StandIn(2, state=kind, kills=(2, 99))
    assert env.reset(0).state.shape == (2, *env.spec.state_shape)
    env.step(wait(2))
    step = env.step(wait(2))
    if kind == "global":
        assert step.state.shape == (2, 23)
        return
    assert step.state[:, 0].tolist() == [[0.0] * (env.spec.state_size - 2) + [1, 0]] * 2  # dead: only its id
    assert (step.state[:, 1, -2:] == [0, 1]).all() and step.state[:, 1, :-2].any(-1).all()
    open_eyes = StandIn(2, state=kind, kills=(2, 99), death_mask=False)
    open_eyes.reset(0)
    open_eyes.step(wait(2))
    assert open_eyes.step(wait(2)).state[:, 0, :-2].any(-1).all()


def test_a_pruned_state_has_every_unit_relative_to_the_agent():
    states = np.array([[1, 0, 0.1, 0.2, 1, 0, 0.3, 0.5, 1, 0.4, 0.6, 0, 0.0, 0.0, 7]], np.float32)
    views = centred(states, 2, 4, 2, 3)  # two allies of 4 features, two enemies of 3, the second one dead
    np.testing.assert_allclose(views[0, 0], [1, 0, 0, 0, 1, 0, 0.2, 0.3, 1, 0.3, 0.4, 0, 0, 0, 7], atol=1e-6)
    np.testing.assert_allclose(views[0, 1], [1, 0, -0.2, -0.3, 1, 0, 0, 0, 1, 0.1, 0.1, 0, 0, 0, 7], atol=1e-6)


def test_a_missing_game_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"not installed at .*install_starcraft\.sh"):
        SMACTeam.check_machine()
    (tmp_path / "Versions").mkdir()
    with pytest.raises(ValueError, match="lacks SMAC's maps"):
        SMACTeam.check_machine()
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    SMACTeam.check_machine()


PACKAGE = """
from random import choice, shuffle
from numpy.random import default_rng

class Teams:
    def __init__(self, config):
        self.rng, self.names = default_rng(), config["names"]
    def generate(self):
        names = self.names * 3
        shuffle(names)
        return [choice(self.names), *names, int(self.rng.integers(1000))]

DISTRIBUTION_MAP = {"teams": Teams}
"""


def test_draws_under_a_seed_are_alike_and_leave_the_package_and_pythons_own_stream_alone(tmp_path, monkeypatch):
    folder = tmp_path / "smacv2" / "env" / "starcraft2"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()  # comes before the real one, where that is installed
    (folder / "distributions.py").write_text(PACKAGE)
    for name in [name for name in sys.modules if name.partition(".")[0] == "smacv2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("smacv2.env.starcraft2.distributions")
    config = {"one": {"dist_type": "teams", "names": list("abc")}, "own": {"dist_type": "a user's"}}

    def draw(seed):
        own = object()
        drawn = {"one": package.Teams(config["one"]), "own": own}
        game = SimpleNamespace(distribution_config=config, env_key_to_distribution_map=drawn)
        draw_under_seed(game, seed)
        assert drawn["own"] is own  # what a program has registered itself
        return [drawn["one"].generate() for _ in range(5)]

    random.seed(1)
    expected = random.random()
    random.seed(1)
    first = draw(3)
    assert random.random() == expected and package.shuffle == random.shuffle
    assert first == draw(3) != draw(4)
    assert len({str(team) for team in first}) == 5
    (folder / "distributions.py").write_text(PACKAGE.replace("choice, shuffle", "sample"))  # another version
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="cannot be seeded"):
        draw(3)
    for name in [name for name in sys.modules if name.partition(".")[0] == "smacv2"]:
        monkeypatch.delitem(sys.modules, name)


def test_options_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="death_mask"):
        StandIn.team_spec(state="global", death_mask=True)
    with pytest.raises(ValueError, match="nothing to prune"):
        StandIn.team_spec(state="pruned", obs_instead_of_state=True)
    for changes, message in (({"n_units": 3}, "map_name says"), ({"team_gen": {}, "x": {}}, "needs a 'dist_type'")):
        with pytest.raises(ValueError, match=message):
            capabilities("terran", 5, 5, changes)


def test_changes_of_the_published_draws_are_laid_over_them():
    weights = [0.4, 0.4, 0.2]
    changed = capabilities("zerg", 5, 6, {"team_gen": {"weights": weights}, "start_positions": {"dist_type": "mine"}})
    published = capabilities("zerg", 5, 6, {})
    assert changed == {
        **published, "team_gen": {**published["team_gen"], "weights": weights}, "start_positions": {"dist_type": "mine"}
    }  # fmt: skip
    changed["team_gen"]["unit_types"].clear()  # as the package may
    assert capabilities("zerg", 5, 6, {}) == published
