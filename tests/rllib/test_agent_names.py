"""Agents are matched by name from the environment to the files, and environments are built once per copy."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from lorasa_rllib import MAPPO, MAPPOConfig
from lorasa_rllib.envs.base import TeamEnvError, Worker
from lorasa_rllib.policies.folder import read_policy
from lorasa_rllib.rllib.checkpoints import read_checkpoint
from lorasa_rllib.rllib.teams import learn_team
from lorasa_rllib.studies.playing import Environment, environment_of
from tests.rllib import counted
from tests.rllib.test_phases_and_restore import weights_of


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def game_config(small_config, log):
    def make(**settings):
        return small_config("pettingzoo", {"env": counted.CountedGame, "log": log, **settings})

    return make


SUITES = {
    "PettingZoo": ("pettingzoo", {"env": counted.CountedGame, "length": 99}, 4),
    "MuJoCo": (counted.CountedMuJoCo, {}, 1),  # one library environment for all copies
}


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("suite", SUITES)
def test_environments_are_built_once_and_reset_once_per_copy(small_config, build, log, suite, seed):
    env, settings, built = SUITES[suite]
    algo = build(small_config(env, {**settings, "log": log}).debugging(seed=seed))
    algo.train()
    found = counted.events(log)
    assert counted.counts(found) == {os.getpid(): {"built": built, "reset": 4}}
    algo.stop()
    assert counted.counts(counted.events(log)) == {os.getpid(): {"closed": built}}


def test_so_are_those_of_remote_env_runners_after_the_driver_has_closed_its_own(small_config, build, log):
    env, settings, _ = SUITES["PettingZoo"]
    config = small_config(env, {**settings, "log": log}).env_runners(num_env_runners=1)
    config.evaluation(evaluation_num_env_runners=1, evaluation_config={"num_envs_per_env_runner": 2})
    build(config).train()
    found = counted.events(log)
    driver, training, evaluation = dict.fromkeys(process for process, _ in found)
    assert driver == os.getpid() and found[: found.index((training, "built"))][-1] == (driver, "closed")
    each = counted.counts(found)
    assert each[driver]["built"] == each[driver]["closed"] == 1
    assert each[training] == {"built": 4, "reset": 4} and each[evaluation]["built"] == 2
    assert counted.most_open(found) == 4


def test_asking_a_config_for_its_team_leaves_nothing_open(game_config, log):
    config = game_config()
    config.validate()
    agents = config.team_spec().agents
    config.copy().plan()
    assert counted.counts(counted.events(log)) == {os.getpid(): {"built": 1, "reset": 1, "closed": 1}}
    config.environment(env_config={"length": 8})
    assert config.team_spec().agents == agents and counted.events(log)


def test_one_copy_at_a_time_is_enough(small_config, build):
    config = small_config("pettingzoo", {"env": counted.OneAtATime}).env_runners(num_envs_per_env_runner=1)
    algo = build(config.evaluation(evaluation_duration=2))
    algo.train()
    algo.evaluate()
    algo.stop()
    grouped = small_config("pettingzoo", {"env": counted.OneAtATime}).env_runners(num_envs_per_env_runner=1)
    build(grouped.sharing("seps", num_adapters=None)).train()


def test_no_copy_is_reset_twice_in_a_row(small_config, build, log):
    config = small_config("pettingzoo", {"env": counted.CountedGame, "log": log, "length": 8})
    algo = build(config.env_runners(num_envs_per_env_runner=1).evaluation(evaluation_duration=2))
    for act in (algo.train, algo.evaluate, algo.train):
        act()
    resets = [event for _, event in counted.events(log)].count("reset")
    assert resets == 64 // 8 + 2 + 64 // 8 + 1


def rows_of(runner):
    """Whom the row of each agent shows, as the environment tells it."""
    seen = runner.env.reset().obs[:, :, 3]
    assert np.ptp(seen, 0).max() == 0
    return [counted.CountedGame.names[round(float(place * 10))] for place in seen[0]]


def test_rows_belong_to_the_same_agents_in_every_process(game_config, build, tmp_path):
    algo = build(game_config().env_runners(num_env_runners=2).evaluation(evaluation_num_env_runners=1))
    agents = list(algo.config.team_spec().agents)
    for group in (algo.env_runner_group, algo.eval_env_runner_group):
        found = group.foreach_env_runner(rows_of, local_env_runner=False)
        assert found and all(rows == agents for rows in found)
    saved = read_policy(algo.save_policy(tmp_path / "policy"))
    assert list(saved.config.spec.agents) == agents
    for turn in range(3):
        made_by = {**algo.config.env_config, "order_by": turn}
        env = environment_of(saved, 1, {}, environment=Environment("pettingzoo", made_by, trusted=True))
        assert list(env.spec.agents) == agents
        np.testing.assert_allclose(env.reset(0).obs[0, :, 3], [counted.CountedGame.names.index(a) / 10 for a in agents])
        env.close()


class EqualToNothing:
    def __eq__(self, other):
        return False

    def __hash__(self):
        return 0


@pytest.mark.parametrize("other", [float("nan"), {"a": [np.float32("nan")]}, EqualToNothing()])
def test_settings_that_do_not_equal_their_copies_leave_the_order_as_it_is(game_config, other):
    config = game_config(other=other)
    agents = config.team_spec().agents
    there = pickle.loads(pickle.dumps(config))  # on its way to another process, NaN loses its identity
    assert there.known_team.belongs_to(there.env, there.env_config)
    there.env_config["order_by"] = 1  # no longer equal: the driver's order stays
    assert learn_team(there, worker=Worker(1)).spec.agents == there.team_spec().agents == agents


def test_nan_in_env_config_does_not_change_the_order_on_env_runners(game_config, build):
    algo = build(game_config(other=float("nan")).env_runners(num_env_runners=1))
    agents = list(algo.config.team_spec().agents)
    assert algo.env_runner_group.foreach_env_runner(rows_of, local_env_runner=False) == [agents]


@pytest.mark.parametrize("table", [None, (0, 1, 1)])
def test_restored_weights_stay_with_their_agents(game_config, build, tmp_path, table):
    """Whatever the order that the environment has in the process that restores: one runs through all of them."""
    key = "agent" if table is None else table
    algo = build(game_config().sharing("lora", adapter_key=key))
    for _ in range(3):
        algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    agents = algo.config.team_spec().agents
    saved = read_checkpoint(path)
    for turn in range(3):
        config = game_config(order_by=turn)
        own = config.team_spec().agents
        if table is not None:
            config.sharing("lora", adapter_key=tuple(table[agents.index(agent)] for agent in own))
        for again in (build(config), build(config.copy(copy_frozen=False).sharing("lora", fork_from=str(path)))):
            if again.config.fork_from is None:
                assert again.config.team_spec().agents == own
                again.restore_from_path(path)
            assert again.config.team_spec().agents == agents
            assert again.config.plan().owners == saved.config.owners
            for name, value in weights_of(algo).items():
                np.testing.assert_array_equal(value, weights_of(again)[name], err_msg=name)
            assert rows_of(again.env_runner) == list(agents)
            again.train()


def test_backbones_and_adapters_go_to_agents_of_their_name(game_config, build, tmp_path):
    algo = build(game_config())
    for _ in range(3):
        algo.train()
    files = str(algo.save_policy(tmp_path / "policy"))
    saved = read_policy(files)
    for turn in range(3):
        config = game_config(order_by=turn).sharing("lora", phase_switch=0, backbone=files, adapters=files)
        found = read_policy(build(config).save_policy(tmp_path / f"found_{turn}"))
        assert found.config.spec.agents == saved.config.spec.agents
        for name, value in saved.weights.items():
            np.testing.assert_allclose(found.weights[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_agents_with_other_names_are_refused(game_config, build, tmp_path, monkeypatch):
    algo = build(game_config())
    path = algo.save_to_path(tmp_path / "checkpoint")
    files = str(algo.save_policy(tmp_path / "policy"))
    elsewhere = pickle.loads(pickle.dumps(algo.config.copy(copy_frozen=False)))
    monkeypatch.setattr(counted.CountedGame, "names", ("ann", "bob", "dora"))
    message = "'cleo' missing, 'dora' unknown to the policy"
    with pytest.raises(ValueError, match=message):
        MAPPO.from_checkpoint(path)
    with pytest.raises(ValueError, match=message):  # before any env runner starts
        elsewhere.env_runners(num_env_runners=1).build_algo()
    other = build(game_config())
    with pytest.raises(ValueError, match=f"{path.split('/')[-1]} is of another team: .*{message}"):
        other.restore_from_path(path)
    for settings in ({"backbone": files}, {"fork_from": str(path)}):
        with pytest.raises(ValueError, match="cleo"):
            build(game_config().sharing("lora", phase_switch=0, **settings))


def test_evaluation_has_the_agents_of_training_also_with_other_settings(game_config, build):
    config = game_config().evaluation(evaluation_config={"env_config": {"order_by": 1}}, evaluation_interval=1)
    algo = build(config)
    agents = algo.config.team_spec().agents
    assert algo.evaluation_config.team_spec().agents == agents
    assert rows_of(algo.eval_env_runner) == list(agents)


def test_a_joint_checkpoint_is_refused_by_two_phases(small_config, build, tmp_path):
    algo = build(small_config(schedule="joint", phase_switch=None))
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="was trained jointly, but this algorithm has schedule='two_phase'"):
        build(small_config()).restore_from_path(path)
    with pytest.raises(ValueError, match="was trained jointly"):
        build(small_config(fork_from=str(path)))
    assert build(small_config(backbone=str(path), adapters=str(path), phase_switch=0)).train()["phase"] == "adapters"


def test_nobody_after_reset_stops_training(small_config, build):
    algo = build(small_config("pettingzoo", {"env": counted.Nobody, "length": 4}))
    with pytest.raises(TeamEnvError, match=r"`agents` of Nobody is empty after reset\(\)"):
        algo.train()


def test_names_with_dashes_and_other_letters_are_restored(small_config, build, tmp_path):
    config = small_config("pettingzoo", {"env": counted.Dashes})
    config.trial_name = "\u00e9tude"
    algo = build(config)
    algo.train()
    again = MAPPO.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
    steps = again.train()["env_runners"]["num_agent_steps_sampled_lifetime"]
    returns = again.train()["env_runners"]["agent_episode_returns_mean"]
    again.stop()
    assert steps == dict.fromkeys(counted.Dashes.called, 128) and set(returns) == set(counted.Dashes.called)


def test_the_team_is_a_setting_of_no_one(small_config):
    """Dictionaries of settings and states carry it, and other environments forget it."""
    config = small_config()
    agents = config.team_spec().agents
    known = config.known_team
    for again in (MAPPOConfig.from_state(config.get_state()), MAPPOConfig().update_from_dict(config.to_dict())):
        assert again.known_team.spec is known.spec and again.team_spec().agents == agents
    again.environment(env_config={"num_agents": 5})
    assert len(again.team_spec().agents) == 5 and len(config.team_spec().agents) == 3
