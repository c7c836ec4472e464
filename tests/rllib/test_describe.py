"""What a config and an algorithm say of themselves agrees with what is built."""

from __future__ import annotations

import pytest

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.analysis.resources import counts


def test_a_config_describes_team_owners_phases_and_the_work_of_an_iteration(small_config):
    config = small_config().training(minibatch_size=16)
    config.freeze()  # nothing is set by asking
    told = config.describe()
    assert "3 agent(s): " in told and "1 backbone(s), 3 adapter(s), keyed by agent" in told
    assert "adapters begin after 128 environment steps" in told
    assert "8 optimiser steps an iteration, 125 per 1,000 environment steps" in told  # 2 passes over 64 steps
    sizes = counts(config.plan().policy, "backbone")
    assert f"trainable params: {sizes.trained:,} || all params: {sizes.parameters:,}" in told


def test_what_cannot_be_built_is_not_described():
    with pytest.raises(ValueError, match="no environment is set"):
        MAPPOConfig().describe()


def test_reprs_name_what_differs_and_never_fail():
    assert repr(MAPPOConfig()) == "MAPPOConfig(sharing='lora', r=8, num_env_runners=0, num_learners=0)"
    config = MAPPOConfig().environment("synthetic", env_config={"num_agents": 3}).sharing("ps")
    assert repr(config) == "MAPPOConfig(env='synthetic', num_agents=3, sharing='ps', num_env_runners=0, num_learners=0)"


def test_an_algorithm_prints_what_its_present_phase_trains(small_config, build, capsys):
    config = small_config(phase_switch=64)
    algo, sizes = build(config), {}
    for phase in ("backbone", "adapters"):
        algo.train()
        algo.print_trainable_parameters()
        sizes[phase] = counts(config.plan().policy, phase).trained
        told = capsys.readouterr().out
        assert f"trainable params: {sizes[phase]:,} ||" in told
        assert ("adapters" if phase == "backbone" else "backbone") + " " in told.partition("(frozen)")[0]
    assert sizes["adapters"] < sizes["backbone"]
