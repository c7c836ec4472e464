"""What sharing methods mean for learning: separate learners, heads of their own, groups of unequal size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.spec import Owners
from tests.helpers import make_policy, owner_tables, random_rollout, seeded, team
from tests.learning.helpers import SETTINGS, batch_of, finished_gradients, optimisers_of, row_losses, take_step

EQUAL = team((3, 3, 3), (2, 2, 2))
QUIET = dataclasses.replace(SETTINGS, entropy_coeff=0.0)  # its noise would differ


def of_agent(batch: Batch, n: int) -> Batch:
    """The rows of one agent as the batch of a team of one."""
    axes = {"actor_state": 1, "critic_state": 1, "state": None, "keep": None}
    columns = {}
    for name, column in vars(batch).items():
        axis = axes.get(name, 2)
        columns[name] = column if column is None or axis is None else column.narrow(axis, n, 1)
    return Batch(**columns)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_nps_is_separate_learners_on_the_same_data_and_advantages(recurrent):
    network = NetworkConfig(hidden_size=5, id_features="none", recurrent=recurrent, critic_recurrent=recurrent)
    policy = make_policy(EQUAL, owner_tables(3)["nps"], network=network)
    batch = batch_of(policy, steps=4)
    alone = []
    for n in range(3):
        single = make_policy(team((3,), (2,)), Owners("ps", (0,)), network=network, critic_input="agent_state")
        single.load_state_dict(
            {name: x if x.dim() == 0 else x[n : n + 1].clone() for name, x in policy.state_dict().items()}
        )
        groups = [list(single.parameters_of(group).values()) for group in ("backbone", "critic")]
        alone.append((single, groups, [torch.optim.Adam(params, lr=0.01, eps=1e-5) for params in groups]))
    optimisers, clipped = optimisers_of(policy), 0
    for _ in range(4):
        take_step(policy, optimisers, batch, QUIET)
        for n, (single, groups, adams) in enumerate(alone):
            mine = of_agent(batch, n)
            policy_loss, value_loss = row_losses(single, mine, QUIET)
            losses = policy_loss[mine.active].mean(), value_loss.mean()
            for loss, params, adam in zip(losses, groups, adams, strict=True):
                adam.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(params, QUIET.max_grad_norm)
                clipped += int(norm > QUIET.max_grad_norm)
                adam.step()
    assert clipped > 12  # of 24: the limit is felt
    for n, (single, _, _) in enumerate(alone):
        together = dict(policy.named_parameters())
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(together[name][n : n + 1], parameter, rtol=1e-8, atol=1e-10, msg=f"{n} {name}")


def gradients(policy, batch):
    """Finished gradients of the actor by name, without clipping, and the mean policy loss of each agent's live rows."""
    config = dataclasses.replace(QUIET, max_grad_norm=None)
    optimisers = optimisers_of(policy, lr=0.0)
    take_step(policy, optimisers, batch, config, seeded(5))
    grads = finished_gradients(optimisers["backbone"])
    finished = {name: grads[p] for name, p in policy.parameters_of("backbone").items()}
    losses = row_losses(policy, batch, config)[0]
    return finished, losses


def test_mtl_heads_get_the_gradient_of_their_own_rows_and_the_trunk_that_of_all():
    """With as many live rows each, a head's gradient is N times that of the mean over the team, as published."""
    policy = make_policy(EQUAL, owner_tables(3)["mtl"])
    batch = batch_of(policy, steps=4)
    batch.active[:] = True
    finished, losses = gradients(policy, batch)
    parameters = policy.parameters_of("backbone")
    whole = dict(zip(parameters, torch.autograd.grad(losses.mean(), list(parameters.values())), strict=True))
    assert {name for name, p in parameters.items() if len(p) == 3} == {"head.weight", "head.bias", "log_std.weight"}
    for name, gradient in whole.items():
        times = 3 if name.startswith(("head", "log_std")) else 1
        torch.testing.assert_close(finished[name], times * gradient, rtol=1e-6, atol=1e-10, msg=name)


def test_seps_groups_of_unequal_size_each_get_the_mean_over_their_own_live_rows():
    policy = make_policy(EQUAL, Owners("seps", (0, 1, 0)))
    batch = batch_of(policy, steps=4)
    batch.active[:] = True
    batch.active[0, :, 0] = False
    finished, losses = gradients(policy, batch)
    parameters = policy.parameters_of("backbone")
    for group, members in enumerate(([0, 2], [1])):
        live = batch.active[..., members]
        mean = losses[..., members][live].sum() / live.sum()
        expected = torch.autograd.grad(mean, list(parameters.values()), retain_graph=True)
        for (name, gradient), own in zip(finished.items(), expected, strict=True):
            torch.testing.assert_close(gradient[group], own[group], rtol=1e-6, atol=1e-10, msg=f"{group} {name}")


def test_a_group_without_live_rows_keeps_weights_and_step_count():
    policy = make_policy(EQUAL, Owners("seps_lora", (0, 1, 0), adapter_of=(0, 1, 2)))
    policy.set_phase("joint")
    batch = batch_of(policy, steps=4)
    batch.active[..., 1] = False
    optimisers = optimisers_of(policy)
    before = {name: p.detach().clone() for name, p in policy.actor.named_parameters()}
    take_step(policy, optimisers, batch, SETTINGS, seeded(5))
    for name, p in policy.actor.named_parameters():
        assert torch.equal(p[1], before[name][1]) and not torch.equal(p[0], before[name][0]), name
        steps = optimisers["adapters" if len(p) == 3 else "backbone"].state[p]["step"]
        assert steps[1] == 0 and steps[0] == 1, name


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_the_backbone_phase_trains_one_shared_policy(recurrent):
    network = NetworkConfig(hidden_size=5, recurrent=recurrent)
    shared, adapted = (make_policy(EQUAL, owner_tables(3)[method], network=network) for method in ("ps", "lora"))
    adapted.set_phase("backbone")
    adapted.load_state_dict(shared.state_dict(), strict=False)
    config = dataclasses.replace(QUIET, num_epochs=3, minibatch_size=4)
    rollout = random_rollout(shared, 4, 3).to("cpu")
    for policy in (shared, adapted):
        mappo.update(policy, optimisers_of(policy), rollout, config, seeded(0))
    for name, weight in shared.named_parameters():
        torch.testing.assert_close(dict(adapted.named_parameters())[name], weight, rtol=1e-9, atol=1e-11)
