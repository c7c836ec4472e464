"""What version 0.1 wrote: checkpoints, policy files, pickled configs and names of settings."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lorasa_rllib import A2POConfig, MAPPOConfig, load_policy
from lorasa_rllib.old_names import RENAMED
from lorasa_rllib.rllib import A2PO, MAPPO

FILES = Path(__file__).parents[1] / "data" / "written_by_0.1.zip"
"""A checkpoint and a policy of two teams after two iterations, and what the policies did (float32, greedy)."""
SETTINGS = {
    "mappo_two_phase": {
        "method": "lora", "r": 2, "use_rslora": True, "target_modules": ("mlp.0", "head"), "total_env_steps": 10_000,
        "phase_switch": 128, "linear_decay": (), "lr_is_default": True,
    },
    "a2po_joint": {
        "method": "seps_lora", "groups": [0, 1, 0], "r": 2, "schedule": "joint", "rank_pattern": {"head": 1},
        "adapt_bias": True, "num_adapters": 2, "adapter_key": {"agent_0": 0, "agent_1": 1, "agent_2": 1},
        "critic_lr": 1e-3, "lr_is_default": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(FILES) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("part", ["policy", "checkpoint"])
def test_an_old_policy_acts_as_it_did(files, name, part):
    recorded = json.loads((files / "expected.json").read_text())[name]
    policy, state = load_policy(files / name / part), None
    for observations, expected in zip(recorded["observations"], recorded["actions"], strict=True):
        actions, state = policy.act({agent: np.float32(obs) for agent, obs in observations.items()}, state)
        for agent, action in expected.items():
            np.testing.assert_allclose(actions[agent], action, atol=2e-5)


@pytest.mark.parametrize(("name", "algorithm"), [("mappo_two_phase", MAPPO), ("a2po_joint", A2PO)])
def test_an_old_checkpoint_goes_on_with_its_settings(files, name, algorithm):
    algo = algorithm.from_checkpoint(files / name / "checkpoint")
    try:
        assert {key: getattr(algo.config, key) for key in SETTINGS[name]} == SETTINGS[name]
        before = algo.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"))
        result = algo.train()
        assert result["phase"] == ("adapters" if name == "mappo_two_phase" else "joint")
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] > before > 0
    finally:
        algo.cleanup()


def test_old_names_of_settings_mean_the_new_ones():
    config = MAPPOConfig().update_from_dict({"lora_r": 3, "sharing_method": "ps", "lora_adapt_norm": True})
    assert (config.r, config.method, config.adapt_norm) == (3, "ps", True)
    with pytest.raises(ValueError, match="lora_r is the old name of r"):
        config.update_from_dict({"lora_r": 3, "r": 4})
    new = A2POConfig().sharing("lora", r=5, backbone="somewhere")
    old = {name: new.get_state()[current] for name, current in RENAMED.items()}
    rest = {name: value for name, value in new.get_state().items() if name not in RENAMED.values()}
    assert A2POConfig.from_state({**rest, **old}).get_state() == new.get_state()


def test_a_pickled_config_of_an_old_version_is_read():
    config = MAPPOConfig().sharing("lora", r=5)
    as_before = {**vars(config), "lora_r": config.r, "linear_decay": ("lr?", "critic_lr")}
    del as_before["r"], as_before["lr_is_default"]
    again = pickle.loads(pickle.dumps(config))
    again.__setstate__(as_before)
    assert again.r == 5 and again.lr_is_default and again.linear_decay == ("critic_lr",)
