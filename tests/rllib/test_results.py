"""Result keys: RLlib's standard ones are always there and finite, ours beside them."""

from __future__ import annotations

import math

import pytest

from lorasa_rllib.rllib.gauges import SERIES, values_of
from lorasa_rllib.rllib.results import RecentEpisodes
from lorasa_rllib.rollout.episodes import EpisodeSummary, Sampled
from tests.envs import games

STANDARD = [
    "episode_return_mean",
    "episode_return_min",
    "episode_return_max",
    "episode_len_mean",
    "episode_len_min",
    "episode_len_max",
    "episode_duration_sec_mean",
    "num_episodes",
    "num_episodes_lifetime",
    "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime",
    "weights_seq_no",
]


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_standard_keys_are_present_and_finite_before_and_after_the_first_episode(small_config, build):
    env = {"num_agents": 3, "episode_length": 40}  # 16 steps an iteration: the first episode ends in the third
    algo = build(small_config(env_config=env).evaluation(evaluation_interval=3, evaluation_duration=2))
    for iteration in range(4):
        result = algo.train()
        runners = result["env_runners"]
        assert set(STANDARD) <= set(runners)
        assert runners["num_episodes_lifetime"] == (0 if iteration < 2 else 4)
        assert result["num_env_steps_sampled_lifetime"] == 64 * (iteration + 1)
        for part in ("env_runners", "learners", "timers"):
            for path, value in leaves(result[part]):
                assert not isinstance(value, float) or math.isfinite(value), (part, path)
    assert result["phase"] == "adapters" and result["phase_index"] == 1
    assert {"policy_loss", "vf_loss", "entropy", "total_loss", "mean_kl_loss", "vf_explained_var"} <= set(
        result["learners"]["shared_policy"]
    )


def test_large_teams_get_no_keys_per_agent(small_config, build):
    few, many = ({"num_agents": n, "episode_length": 40} for n in (3, 40))
    for env, keys in ((few, 3), (many, 0)):
        result = build(small_config(env_config=env)).train()
        assert len(result["env_runners"].get("num_agent_steps_sampled", {})) == keys


def test_agents_with_rewards_of_their_own_get_returns_of_their_own_and_adapters_norms(small_config, build):
    env = {"num_agents": 3, "episode_length": 8, "shared_reward": False}
    algo = build(small_config(env_config=env, phase_switch=64))
    result = algo.train()
    runners, learner = result["env_runners"], result["learners"]["shared_policy"]
    own = runners["agent_episode_returns_mean"]
    assert len(own) == 3 and sum(own.values()) == pytest.approx(runners["episode_return_mean"], rel=1e-5)
    assert [learner[f"adapter_norm/{k}"] for k in range(3)] == [0.0] * 3  # the backbone phase
    result = algo.train()
    assert min(result["learners"]["shared_policy"][f"adapter_norm/{k}"] for k in range(3)) > 0
    shown = values_of(result, env_runners=0)
    assert shown["lorasa_phase",] == 1 and shown["lorasa_adapter_norm", "2"] > 0
    assert {name for name, *_ in shown} == set(SERIES) - {"lorasa_win_rate"}
    assert {tag for name, *tag in shown if name == "lorasa_split_seconds" for tag in tag} == {
        "sample",
        "transfer",
        "learn",
        "sync",
    }


def sampled(returns, running):
    return Sampled([], 0, 0, [EpisodeSummary(r, 1, 0.1) for r in returns], running)


def test_the_return_is_that_of_running_episodes_until_one_ends_then_of_recent_ones():
    recent = RecentEpisodes(window=2)
    recent.add([sampled([], 1.0), sampled([], 3.0)])
    assert recent.statistics()["episode_return_mean"] == 2.0
    recent.add([sampled([5.0], 0.0), sampled([], 0.0)])
    recent.add([sampled([], 9.0)])
    assert recent.statistics()["episode_return_mean"] == 5.0
    recent.add([sampled([7.0, 8.0], 0.0)])
    assert recent.statistics()["episode_return_mean"] == 7.5
    again = RecentEpisodes(window=2)
    again.set_state(recent.get_state())
    assert again.statistics() == recent.statistics()


class Scoring(games.Leavers):
    """Reports its score under "metrics" in infos."""

    def infos(self, agents=None):
        return {agent: {"metrics": {"steps": self.time, "score": 2.0}} for agent in agents or self.agents}


@pytest.mark.parametrize("runners", [0, 1])
def test_what_environments_report_is_a_mean_over_episodes_in_training_and_evaluation(small_config, build, runners):
    config = small_config("pettingzoo", {"env": Scoring, "max_episode_steps": 5}).env_runners(num_env_runners=runners)
    config = config.evaluation(evaluation_interval=2, evaluation_duration=3, evaluation_num_env_runners=runners)
    algo = build(config)
    first, second = algo.train(), algo.train()
    for results in (first["env_runners"], second["env_runners"], second["evaluation"]["env_runners"]):
        assert results["metrics"]["score"] == 2.0
        assert 0 < results["metrics"]["steps"] <= results["episode_len_mean"]  # agents that left earlier count as well
    assert "metrics" not in first.get("evaluation", {}).get("env_runners", {})


def test_a_metric_counts_over_the_episodes_that_have_it():
    recent = RecentEpisodes(window=10)
    episodes = [EpisodeSummary(1.0, 1, 0.1, metrics=metrics) for metrics in ({"a": 1.0, "b": 5.0}, {"a": 3.0}, {})]
    recent.add([Sampled([], 0, 0, episodes, 0.0)])
    assert recent.reported_metrics() == {"a": 2.0, "b": 5.0}
    again = RecentEpisodes(window=10)
    again.set_state(recent.get_state())
    assert again.reported_metrics() == recent.reported_metrics()
    old = RecentEpisodes(window=10)
    old.set_state([(1.5, 4, 0.1, True, None)])  # as checkpoints without metrics have it
    assert old.reported_metrics() == {} and old.statistics()["win_rate"] == 1.0
    assert episodes[0].get_return() == 1.0
