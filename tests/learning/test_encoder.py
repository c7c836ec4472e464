"""Encoders train like the layers after them: compiled, by unit, and with the backbone."""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.a2po import A2POSettings, unit_step
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.flat import Leaves
from tests.encoders import Mixer, encoding_policy, image_team
from tests.helpers import owner_tables, random_rollout, seeded, team
from tests.learning.helpers import experienced, optimisers_of
from tests.learning.test_compiled import MINIBATCHES, Interpreted, both

UNEQUAL = team((4, 2, 3), (2, 3, 1))
CNN = {"encoder_settings": {"channels": [3], "features": 4, "scale": 1.0}, "obs_norm": None}
CASES = [("ps", "backbone"), ("lora", "adapters"), ("lora", "joint"), ("nps", "backbone"), ("seps_lora", "joint")]


def policy_in(method, phase, spec, encoder, **network):
    policy = experienced(encoding_policy(spec, owner_tables(spec.num_agents)[method], encoder, **network))
    policy.set_phase(phase)
    return policy


def encoders(policy):
    return {name: w.clone() for name, w in policy.state_dict().items() if "encoder" in name}


@pytest.mark.parametrize(("method", "phase"), CASES)
def test_the_step_with_a_cnn_is_compiled_as_it_is(method, phase):
    policy = policy_in(method, phase, image_team(3), "cnn", **CNN)
    rollout = random_rollout(policy, 4, 3).to("cpu")
    with_graph, without = both(policy, rollout, MINIBATCHES, Interpreted(True))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9)


def test_steps_with_an_encoder_of_ones_own_run_eagerly_and_a_line_of_the_log_says_so(caplog):
    policy = policy_in("lora", "joint", UNEQUAL, Mixer)
    rollout = random_rollout(policy, 4, 3).to("cpu")
    with caplog.at_level(logging.INFO):
        torch.testing.assert_close(*both(policy, rollout, MINIBATCHES, StepCompiler("auto", patience=0.0)))
    assert ["an encoder of your own" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("method", "phase"), CASES)
def test_an_update_trains_the_encoder_with_the_backbone_and_the_critics_always(method, phase, recurrent):
    policy = policy_in(method, phase, image_team(3), "cnn", recurrent=recurrent, critic_recurrent=recurrent, **CNN)
    before = encoders(policy)
    mappo.update(policy, optimisers_of(policy), random_rollout(policy, 4, 3).to("cpu"), MINIBATCHES, seeded(0))
    for name, weight in encoders(policy).items():
        frozen = name.startswith("actor") and phase == "adapters"
        assert torch.equal(weight, before[name]) == frozen, name


@pytest.mark.parametrize("spec", [UNEQUAL, image_team(3)], ids=["rows", "images"])
@pytest.mark.parametrize(("method", "phase"), CASES)
def test_units_of_a2po_train_slices_of_the_encoder_like_wholes(method, phase, spec, monkeypatch):
    policy = policy_in(method, phase, spec, Mixer)
    rollout = random_rollout(policy, 4, 3).to("cpu")
    settings = A2POSettings(num_epochs=2, chunk_length=2, max_grad_norm=0.3)
    results = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(unit_step, "leaves_of", lambda policy, optimiser, unit, group: Leaves(optimiser.parts))
        mine = copy.deepcopy(policy)
        a2po.update(mine, optimisers_of(mine), rollout, settings, generator=seeded(0))
        results.append(dict(mine.state_dict()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    assert all(torch.equal(w, results[0][n]) for n, w in policy.state_dict().items() if n.endswith("module.fixed"))


def test_several_passes_over_small_minibatches_change_frozen_parameters_of_nobody():
    policy = policy_in("nps", "backbone", UNEQUAL, Mixer)
    before = encoders(policy)
    settings = dataclasses.replace(MINIBATCHES, num_epochs=3)
    mappo.update(policy, optimisers_of(policy), random_rollout(policy, 4, 3).to("cpu"), settings, seeded(0))
    for name, weight in encoders(policy).items():
        assert torch.equal(weight, before[name]) == name.endswith(("fixed", "offset")), name
