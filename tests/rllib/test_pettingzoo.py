"""PettingZoo environments train, evaluate, save and restore like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib import MAPPO
from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rllib.module import MODULE_ID
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent

ENVIRONMENTS = {
    "spread": {"env": "mpe2.simple_spread_v3", "max_cycles": 10},
    "spread, continuous": {"env": "mpe2.simple_spread_v3", "max_cycles": 10, "continuous_actions": True},
    "spread, one reward": {"env": "mpe2.simple_spread_v3", "max_cycles": 10, "team_reward": "mean"},
    "masked": {"env": games.Masked},
    "leavers": {"env": games.Leavers},
    "masked in infos, leavers": {"env": games.MaskedInInfos},
    "several components": {"env": games.Several},
    "MultiAgentEnv": {"env": as_multi_agent(games.Leavers), "length": 9, "team_reward": "mean"},
}


def weights_of(algo) -> dict:
    return algo.get_weights()[MODULE_ID]


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_trains_evaluates_saves_and_restores(small_config, build, tmp_path, name, recurrent):
    config = small_config("pettingzoo", ENVIRONMENTS[name]).network(recurrent=recurrent).training(chunk_length=8)
    config = config.evaluation(evaluation_duration=4, evaluation_interval=None)
    algo = build(config)
    before = {key: np.array(value) for key, value in weights_of(algo).items()}
    for _ in range(3):  # the switch comes after two
        result = algo.train()
    assert result["phase"] == "adapters"
    assert np.isfinite(list(result["learners"][MODULE_ID].values())).all()
    assert any((before[key] != np.array(value)).any() for key, value in weights_of(algo).items())
    evaluated = algo.evaluate()["env_runners"]
    assert evaluated["num_episodes"] == 4 and np.isfinite(evaluated["episode_return_mean"])
    restored = MAPPO.from_checkpoint(algo.save_to_path(str(tmp_path)))
    for key, value in weights_of(algo).items():
        np.testing.assert_array_equal(value, weights_of(restored)[key])
    assert restored.train()["training_iteration"] == 4
    restored.stop()


def test_a_multi_agent_env_by_itself_is_the_same_team(small_config):
    kind = as_multi_agent(games.Game)
    direct, by_name = small_config(kind, {}), small_config("pettingzoo", {"env": kind})
    direct.validate()
    assert direct.env == "pettingzoo" and direct.team_spec() == by_name.team_spec()


def test_masks_that_come_late_hold_in_training_and_on_the_learner(small_config, build):
    """The game stops at a forbidden action; what is forbidden has no probability, and no part in the others'."""
    algo = build(small_config("pettingzoo", {"env": games.LateMasks}).evaluation(evaluation_duration=4))
    for _ in range(3):
        algo.train()
    algo.evaluate()
    rollout = algo.env_runner.sample()[0].shards[0].to("cpu")
    live = rollout.active.unsqueeze(-1)
    forbidden = live & ~rollout.masks
    assert forbidden.flatten(0, 1).any(0).tolist() == [[False, True, False], [True, False, False], [False] * 3]

    def distribution(learner):
        with torch.no_grad():
            return learner.policy.distribution(rollout.obs, masks=rollout.masks)

    (found,) = (result.get() for result in algo.learner_group.foreach_learner(distribution))
    assert (found.log_probs.exp()[forbidden] == 0).all()
    torch.testing.assert_close(found.log_prob(rollout.actions)[rollout.active], rollout.log_probs[rollout.active])
    (allowed,) = np.unique(found.log_probs.exp().sum(-1)[rollout.active].round(decimals=4))
    assert allowed == 1


def test_an_agent_without_a_choice_stops_training_with_its_name(small_config, build):
    algo = build(small_config("pettingzoo", {"env": games.Stuck}))
    with pytest.raises(TeamEnvError, match="agent 'bob' of environment 0 has no available action"):
        algo.train()


@pytest.mark.parametrize("column", ["obs", "rewards"])
def test_whose_number_is_not_finite_is_said(small_config, build, column):
    class Diverging(games.Game):
        def step(self, actions):
            obs, rewards, *rest = super().step(actions)
            bad = {"obs": np.full((2, 2), np.inf), "rewards": np.nan}[column]
            ({"obs": obs, "rewards": rewards}[column])["bob"] = bad
            return obs, rewards, *rest

    algo = build(small_config("pettingzoo", {"env": Diverging}))
    with pytest.raises(TeamEnvError, match=f"NaN or infinite value in {column} of agent 'bob' of environment 0"):
        algo.train()


@pytest.mark.parametrize("env", ["continuous", "discrete"])
def test_the_same_seed_twice_is_the_same_run(small_config, build, env):
    def run():
        options = {} if env == "continuous" else {"discrete": True, "deaths": 0.05, "action_size": 4}
        algo = build(small_config("synthetic", {"num_agents": 3, "unequal": True, "episode_length": 9} | options))
        results = [algo.train() for _ in range(4)]
        losses = [result["learners"][MODULE_ID]["total_loss"] for result in results]
        returns = [result["env_runners"]["episode_return_mean"] for result in results]
        return losses, returns, {key: torch.as_tensor(value) for key, value in weights_of(algo).items()}

    (losses, returns, weights), (again_losses, again_returns, again) = run(), run()
    assert losses == again_losses and returns == again_returns
    assert all(torch.equal(weights[key], again[key]) for key in weights)
