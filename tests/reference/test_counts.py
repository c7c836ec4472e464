"""Published sizes of every method's actor and critic, counted on our networks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lorasa_rllib.analysis.resources import counts
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.spec import Owners
from tests.reference.vectors import published_policy


@pytest.fixture(scope="module")
def published(folder) -> dict:
    found = json.loads((folder / "parameter_counts.json").read_text())
    assert found["scenarios"]
    return found


def config_of(published: dict, scenario: dict):
    sizes = (scenario["n_agents"], scenario["obs_dim"], scenario["act_dim"], scenario["critic_input_dim"])
    layers = {"num_layers": published["mlp_layers"], "post_layers": published["post_gru_layers"]}
    policy = published_policy(*sizes, published["hidden"], method="ps", continuous=scenario["continuous"], **layers)
    return policy.config


def test_methods_without_adapters(published):
    for name, scenario in published["scenarios"].items():
        config, each = config_of(published, scenario), tuple(range(scenario["n_agents"]))
        groups = tuple(n % 2 for n in each)
        shared = counts(config)
        assert (shared.backbone, shared.critic) == (scenario["ps_actor"], scenario["critic"]), name
        own = counts(replace(config, owners=Owners("nps", each, critic_of=each)))
        assert (own.backbone, own.critic) == (scenario["nps_actors"], scenario["nps_critics"]), name
        heads = counts(replace(config, owners=Owners("mtl", each, banked=("head", "log_std"))))
        assert heads.backbone == scenario["mtl_actor"], name
        assert counts(replace(config, owners=Owners("seps", groups))).backbone == scenario["seps_actor_2_groups"], name


def test_methods_with_adapters(published):
    for name, scenario in published["scenarios"].items():
        config, each = config_of(published, scenario), tuple(range(scenario["n_agents"]))
        for rank, lora in scenario["lora"].items():
            config = replace(config, lora=LoRAConfig(r=int(rank)))
            adapted = counts(replace(config, owners=Owners("lora", (0,) * len(each), adapter_of=each)))
            assert adapted.adapters == lora["all_agents"] == len(each) * lora["per_agent"], (name, rank)
            assert adapted.backbone + adapted.adapters == lora["ps_plus_lora"], (name, rank)
            assert adapted.trained == lora["all_agents"] + scenario["critic"], (name, rank)
            owners = Owners("seps_lora", tuple(n % 2 for n in each), adapter_of=each)
            grouped = counts(replace(config, owners=owners))
            assert grouped.backbone + grouped.adapters == lora["seps_2_groups_plus_lora"], (name, rank)
