"""A2PO as an RLlib algorithm: it trains environments and methods, reports per position, refuses bad settings."""

from __future__ import annotations

import numpy as np
import pytest
from ray import tune

from lorasa_rllib import A2POConfig
from lorasa_rllib.rllib.module import MODULE_ID
from tests.envs import games

DISCRETE = {"num_agents": 3, "discrete": True, "deaths": 0.05, "num_roles": 2, "episode_length": 9}
CASES = {
    "lora": ("synthetic", None, {}, {}),
    "joint": ("synthetic", None, {"schedule": "joint", "phase_switch": None}, {}),
    "epoch loop": ("synthetic", None, {}, {"update_loop": "epoch", "two_stage_critic": False}),
    "pairs": ("synthetic", None, {}, {"agents_per_step": 2, "agent_order": "reverse_greedy", "others_clip": None}),
    "published": ("synthetic", None, {}, {"reference": True, "off_policy_correction": "capped_product"}),
    "roles": ("synthetic", DISCRETE, {"adapter_key": "role"}, {}),
    "one value for the team": ("synthetic", None, {}, {"critic_input": "state"}),
    "HalfCheetah": ("mamujoco", {"scenario": "HalfCheetah", "agent_conf": "6x1", "max_episode_steps": 11}, {}, {}),
    "leavers": ("pettingzoo", {"env": games.Leavers}, {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_trains_and_reports_every_position(small_config, build, name):
    env, env_config, sharing, training = CASES[name]
    config = small_config(env, env_config, "A2PO", **sharing).training(chunk_length=8, **training)
    if name == "published":
        config = config.network("published", hidden_size=16)
    algo = build(config)
    for _ in range(3):
        result = algo.train()
    statistics = result["learners"][MODULE_ID]
    assert np.isfinite(list(statistics.values())).all()
    agents = {"HalfCheetah": 6}.get(name, 3)
    units = {"pairs": 2, "roles": 2}.get(name, agents)
    clips = [statistics[f"position_{k}/clip"] for k in range(1, units + 1)]
    expected = [0.2 * (0.5 + 0.5 * k / units) for k in range(1, units + 1)]
    np.testing.assert_allclose(clips, expected, rtol=1e-5)
    assert statistics.get(f"position_{units + 1}/unit", -1) == -1
    if name != "pairs":
        assert sorted(statistics[f"position_{k}/unit"] for k in range(1, units + 1)) == list(range(units))
    assert 0.8 < statistics["others_ratio"] < 1.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent_order": "alphabetic"}, "agent_order='alphabetic' must be one of"),
        ({"update_loop": "ppo"}, "update_loop='ppo'"),
        ({"off_policy_correction": "vtrace"}, "off_policy_correction='vtrace'"),
        ({"agents_per_step": 0}, "agents_per_step=0"),
        ({"agents_per_step": 1.5}, "agents_per_step=1.5"),
        ({"others_clip": 1.0}, "others_clip=1.0"),
        ({"clip_growth": 1.0}, "clip_growth=1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    config = A2POConfig().environment("synthetic").sharing("ps").training(**settings)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_tune_runs_it_by_name(small_config, tmp_path):
    config = small_config(algorithm="A2PO")
    config.agent_order = tune.grid_search(["semi_greedy", "cyclic"])
    run = tune.RunConfig(storage_path=str(tmp_path), verbose=0, stop={"training_iteration": 3})
    results = tune.Tuner("A2PO", param_space=config, run_config=run).fit()
    assert not results.errors
    assert {result.config["agent_order"] for result in results} == {"semi_greedy", "cyclic"}
    assert all(result.metrics["phase"] == "adapters" for result in results)
