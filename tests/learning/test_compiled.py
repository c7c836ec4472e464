"""Compiled optimiser steps are those of the update as it is; where there are none, a line of the log says why."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import threading

import pytest
import torch

from lorasa_rllib.learning import a2po, compiled, mappo
from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.learning.a2po.settings import A2PORules
from lorasa_rllib.learning.compile_step import LOSSES
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.reference import Quirks
from lorasa_rllib.learning.step_graph import StepGraph, StepPlan
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.sharing.methods import owners_of
from tests.helpers import make_policy, owner_tables, random_rollout, seeded, team
from tests.learning.helpers import CASES, SETTINGS, UNEQUAL, Learners, experienced, optimisers_of, uneven_rollout

MINIBATCHES = dataclasses.replace(SETTINGS, num_epochs=2, minibatch_size=5)
SEQUENTIAL = A2POSettings(**(vars(MINIBATCHES) | {"rules": A2PORules()}))
COMPILED = [case for case in CASES if case[0] not in ("role", "role_single")] + [("role", "backbone")]
SMALL = NetworkConfig(hidden_size=4, num_layers=1)
GRU = NetworkConfig(hidden_size=4, recurrent=True, critic_recurrent=True)


class Interpreted(StepCompiler):
    """Runs the functions that would be compiled."""

    def _graphs(self, plan, reason):
        assert reason is None
        plan = StepPlan.from_dict(json.loads(json.dumps(plan.to_dict())))  # as another process reads it
        graph = StepGraph(plan, LOSSES[plan.kind](plan))
        names = list(graph.example())

        def named(tensors):
            assert [t.shape for t in tensors] == [t.shape for t in graph.example().values()]
            return dict(zip(names, tensors, strict=True))

        if not plan.split:
            return [lambda given: list(graph(named(given)))]
        size = len(names)
        return [
            lambda given: list(graph.gradients(named(given))),
            lambda given: list(graph.advance(named(given[:size]), given[size:])),
        ]


def policy_in(method, phase, spec=UNEQUAL, **options):
    policy = experienced(make_policy(spec, owner_tables(len(spec.agents))[method], **options))
    policy.set_phase(phase)
    return policy


def both(policy, rollout, settings, compiler):
    """A policy, its moments and the log after two updates: compiled, and as they are."""
    update, results = a2po.update if isinstance(settings, A2POSettings) else mappo.update, []
    for its_compiler in (compiler, None):
        mine = copy.deepcopy(policy)
        optimisers = optimisers_of(mine)
        for seed in range(2):
            log = update(mine, optimisers, rollout, settings, seeded(seed), compiler=its_compiler)
        moments = {name: optimiser.state_dict()["state"] for name, optimiser in optimisers.items()}
        results.append((dict(mine.state_dict()), moments, log))
    return results


@pytest.mark.parametrize("dead", [(), (1,)], ids=["all alive", "one dead"])
@pytest.mark.parametrize(("method", "phase"), COMPILED)
def test_what_is_compiled_is_the_step_as_it_is(method, phase, dead):
    policy = policy_in(method, phase, lora=LoRAConfig(r=2, adapt_norm=True, adapt_bias=True))
    rollout = random_rollout(policy, 4, 3, dead=dead).to("cpu")
    if not dead:
        rollout.active[:] = True
    with_graph, without = both(policy, rollout, MINIBATCHES, Interpreted(True))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loop", ["agent", "epoch"])
@pytest.mark.parametrize(("method", "phase"), COMPILED)
def test_what_is_compiled_for_a_unit_of_a2po_is_its_step(method, phase, loop):
    policy = policy_in(
        method, phase, lora=LoRAConfig(r=2, adapt_norm=True, adapt_bias=True), critic_input="agent_state"
    )
    rollout = random_rollout(policy, 4, 3, dead=(1,)).to("cpu")
    settings = dataclasses.replace(SEQUENTIAL, loop=loop, two_stage=loop == "agent")
    with_graph, without = both(policy, rollout, settings, Interpreted(True))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("order", ["cyclic", "reverse_cyclic"])
def test_units_of_one_size_may_have_owners_of_their_own_in_other_groups(order):
    """The first two agents share a frozen backbone, the last two have one each; each pair has one adapter."""
    spec = team((3, 3, 3, 3), (2, 2, 2, 2))
    owners = owners_of("seps_lora", spec, groups=(0, 0, 0, 1), adapter_key=(0, 0, 1, 1))
    policy = experienced(make_policy(spec, owners))
    policy.set_phase("adapters")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    settings = dataclasses.replace(SEQUENTIAL, agent_order=order)
    with_graph, without = both(policy, rollout, settings, Interpreted(True))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["mappo", "a2po"])
@pytest.mark.parametrize(
    ("spec", "network", "settings"),
    [
        (team((3, 3), (2, 2), continuous=False, has_masks=True), {}, {}),
        (team((3, 2), (5, 4), continuous=False, choices=((2, 3), (4,)), has_masks=True), {}, {}),
        (UNEQUAL, {"obs_norm": "running"}, {"entropy_coeff": 0.0}),
        (UNEQUAL, {"distribution": "gaussian", "obs_norm": None}, {"joint_ratio": True, "value_clip": None}),
        (UNEQUAL, {"layer_norm": False, "activation": "tanh"}, {"max_grad_norm": None, "huber_delta": None}),
        (UNEQUAL, {}, {"minibatch_size": None, "value_active_only": True, "rules": Quirks(one_sided_huber=True)}),
        (UNEQUAL, {"recurrent": True, "critic_recurrent": True}, {}),
        (team((3, 3), (2, 2), continuous=False, has_masks=True), {"recurrent": True}, {}),
        (UNEQUAL, {"critic_recurrent": True}, {"minibatch_size": None}),
    ],
    ids=[
        "discrete",
        "components",
        "normalised",
        "gaussian",
        "plain",
        "whole batch",
        "recurrent",
        "its actor",
        "its critic",
    ],
)
def test_settings_and_networks_of_all_kinds_are_compiled_alike(spec, network, settings, algorithm):
    network = NetworkConfig(hidden_size=4, **network)
    policy = policy_in("lora", "joint", spec, network=network, critic_input="agent_state")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    settings = dataclasses.replace(MINIBATCHES if algorithm == "mappo" else SEQUENTIAL, **settings)
    with_graph, without = both(policy, rollout, settings, Interpreted(True))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9)


def test_several_learners_run_a_graph_before_and_one_after_the_sum():
    network = NetworkConfig(hidden_size=4, distribution="gaussian")
    policy = policy_in("lora", "joint", network=network, critic_input="agent_state")
    rollout = uneven_rollout(policy)
    learners, trained = Learners(2), [copy.deepcopy(policy) for _ in range(2)]
    settings = dataclasses.replace(SETTINGS, num_epochs=3)

    def train(rank):
        shard = rollout.split(2)[rank].to("cpu")
        args = shard, settings, seeded(0), learners.all_sum(rank), Interpreted(True)
        mappo.update(trained[rank], optimisers_of(trained[rank]), *args)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mappo.update(policy, optimisers_of(policy), rollout.to("cpu"), settings, seeded(0))
    torch.testing.assert_close(trained[0].state_dict(), trained[1].state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(trained[0].state_dict(), policy.state_dict(), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("network", "settings"),
    [(SMALL, MINIBATCHES), (GRU, MINIBATCHES), (SMALL, SEQUENTIAL)],
    ids=["mappo", "recurrent", "a2po"],
)
def test_machine_code_is_kept_on_disk_and_does_the_same(network, settings, tmp_path, monkeypatch):
    policy = policy_in("lora", "joint", network=network)
    rollout = random_rollout(policy, 4, 3).to("cpu")
    with_graph, without = both(policy, rollout, settings, StepCompiler(True, tmp_path))
    torch.testing.assert_close(with_graph, without, rtol=1e-7, atol=1e-9)
    monkeypatch.setattr(compiled._Job, "_start", lambda job: pytest.fail("compiled again"))
    again, _ = both(policy, rollout, settings, StepCompiler("auto", tmp_path, patience=1e9))
    torch.testing.assert_close(again, with_graph, rtol=0, atol=0)


class Slow:
    """A compiler's process that does not end, or ends without a result."""

    def __init__(self, code=None):
        self.code = code

    def poll(self):
        return self.code


def test_auto_leaves_short_runs_alone_and_trains_on_while_it_compiles(tmp_path, monkeypatch):
    policy = policy_in("lora", "joint")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    started = []
    monkeypatch.setattr(compiled._Job, "_start", lambda job: started.append(job) or Slow())
    compiler = StepCompiler("auto", tmp_path, patience=3600.0)
    results = both(policy, rollout, MINIBATCHES, compiler)
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert not started
    compiler.took(3600.0)
    torch.testing.assert_close(*both(policy, rollout, MINIBATCHES, compiler), rtol=0, atol=0)
    assert len(started) == 1


REASONS = {
    "long sequences": ({"network": GRU}, {"chunk_length": 32}, "chunk_length of at most 20; it is 32"),
    "quirk": ({}, {"rules": Quirks(norm_every_step=True)}, "reference=True"),
}


@pytest.mark.parametrize("case", REASONS)
def test_one_line_says_why_steps_are_not_compiled(case, tmp_path, caplog):
    options, settings, reason = REASONS[case]
    policy = policy_in("lora", "joint", **options)
    settings = dataclasses.replace(SETTINGS, **settings)
    rollout = random_rollout(policy, 32, 3, chunk_length=settings.chunk_length).to("cpu")
    with caplog.at_level(logging.INFO):
        both(policy, rollout, settings, StepCompiler("auto", tmp_path))
    assert [reason in record.message for record in caplog.records] == [True]
    with pytest.raises(RuntimeError, match=reason):
        both(policy, rollout, settings, StepCompiler(True, tmp_path))


@pytest.mark.parametrize("settings", [MINIBATCHES, SEQUENTIAL], ids=["mappo", "a2po"])
def test_where_nothing_can_be_written_training_goes_on(settings, tmp_path, caplog):
    policy = policy_in("lora", "joint")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "cache"
    with caplog.at_level(logging.INFO):
        torch.testing.assert_close(
            *both(policy, rollout, settings, StepCompiler("auto", nowhere, patience=0.0)), rtol=0, atol=0
        )
    assert len(caplog.records) >= 1 and "Not a directory" in caplog.records[0].message
    with pytest.raises(RuntimeError, match="not compiled"):
        both(policy, rollout, settings, StepCompiler(True, nowhere))


def test_one_compiler_runs_at_a_time(tmp_path, monkeypatch):
    policy = policy_in("lora", "joint")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    started = []
    monkeypatch.setattr(compiled._Job, "_start", lambda job: started.append(job) or Slow())
    both(policy, rollout, SEQUENTIAL, StepCompiler("auto", tmp_path, patience=0.0))
    assert len(started) == 1


def test_without_a_c_compiler_or_when_it_fails_training_goes_on(tmp_path, caplog, monkeypatch):
    policy = policy_in("lora", "joint")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    monkeypatch.setattr(compiled._Job, "_start", lambda job: Slow(code=1))
    with caplog.at_level(logging.INFO):
        torch.testing.assert_close(
            *both(policy, rollout, MINIBATCHES, StepCompiler("auto", tmp_path, patience=0.0)), rtol=0, atol=0
        )
        monkeypatch.setenv("PATH", str(tmp_path))
        both(policy, rollout, MINIBATCHES, StepCompiler("auto", tmp_path, patience=0.0))
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2 and "log.txt" in messages[0] and "no C++ compiler" in messages[1]
