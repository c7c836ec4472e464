"""A team whose agents die at different steps: advantages, statistics and losses, worked out by hand.

One battle of four steps, three agents that choose between two actions; the first lives for two steps, the second for
three, the third until the end. Shared rewards 1, 2, 4, 8, a critic that says 0, gamma = lambda = 1/2.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from lorasa_rllib.learning.batch import MAPPOSettings, prepare
from lorasa_rllib.learning.passes import live_rows
from lorasa_rllib.learning.step import loss_sums
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.spec import Owners
from tests.helpers import team

ALIVE = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], bool)  # [T, N]
ADVANTAGES = [1.875, 3.5, 6.0, 8.0]  # of each step: 8, 4 + 8 / 4, 2 + 6 / 4, 1 + 3.5 / 4
MEAN = 36.125 / 9  # three times 1.875 and 3.5, twice 6, once 8
STD = math.sqrt(183.296875 / 9 - MEAN**2)
RATIOS = (1.1, 1.0, 1.5)  # of every agent's actions; the third is clipped at 1.2 where that is worse


@pytest.fixture
def policy():
    spec = team((2, 2, 2), (2, 2, 2), continuous=False)
    owners = Owners("lora", (0, 0, 0), adapter_of=(0, 1, 2))
    made = TeamPolicy(PolicyConfig(spec, owners, network=NetworkConfig(hidden_size=4), critic_input="agent_state"))
    with torch.no_grad():
        for head in (made.actor.head, made.critic.head):
            head.weight.zero_()
    made.set_phase("adapters")
    return made.double()


@pytest.fixture
def rollout():
    rng = np.random.default_rng(0)
    log_probs = math.log(0.5) - np.log(np.broadcast_to(RATIOS, (4, 1, 3)))[..., None]
    log_probs[~ALIVE[:, None]] = -1000.0  # whatever the dead did must not matter
    obs = rng.standard_normal((4, 1, 3, 2))
    return TeamRollout(
        obs=obs,
        state=rng.standard_normal((5, 1, 3)),
        actions=np.zeros((4, 1, 3, 1), np.int64),
        log_probs=log_probs.copy(),
        rewards=np.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1),
        terminated=np.array([[0], [0], [0], [1]], bool),
        truncated=np.zeros((4, 1), bool),
        active=ALIVE[:, None],
        final_index=np.empty((0, 2), np.int64),
        final_obs=np.empty((0, 3, 2)),
        final_state=np.empty((0, 3)),
        masks=np.ones((4, 1, 3, 2), bool),
    ).to("cpu")


SETTINGS = MAPPOSettings(gamma=0.5, lambda_=0.5, clip=0.2, value_clip=None, huber_delta=None, entropy_coeff=0.01)


def standard(t: int) -> float:
    return (ADVANTAGES[t] - MEAN) / (STD + 1e-5)


def test_advantages_are_standardised_over_the_living(policy, rollout):
    batch, _ = prepare(policy, rollout, SETTINGS)
    for t in range(4):
        assert batch.advantages[0, t].tolist() == pytest.approx([standard(t)] * 3)
    living = batch.advantages[0][torch.as_tensor(ALIVE)]
    assert len(living) == 9 and living.mean() == pytest.approx(0, abs=1e-12)


def test_losses_and_statistics_are_sums_over_the_living(policy, rollout):
    batch, _ = prepare(policy, rollout, SETTINGS)
    loss, stats = loss_sums(policy, batch, SETTINGS)
    gains = [
        min(ratio * standard(t), min(max(ratio, 0.8), 1.2) * standard(t))
        for t in range(4)
        for n, ratio in enumerate(RATIOS)
        if ALIVE[t, n]
    ]
    assert stats["policy_loss"] == pytest.approx(-sum(gains), rel=1e-6)
    assert stats["entropy"] == pytest.approx(9 * math.log(2), rel=1e-6)
    assert stats["clip_fraction"] == 4  # the rows of the third agent
    assert stats["mean_kl_loss"] == pytest.approx(sum(n * (r - 1 - math.log(r)) for n, r in ((2, 1.1), (4, 1.5))))
    assert {name: rows.tolist() for name, rows in live_rows(policy, batch, SETTINGS).items()} == {
        "backbone": [9],
        "adapters": [2, 3, 4],
        "critic": [12],
    }
    expected = -sum(gains) - 0.01 * 9 * math.log(2) + stats["vf_loss"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("active_only", [False, True])
def test_values_of_the_dead_count_as_published_or_not_at_all(policy, rollout, active_only):
    settings = dataclasses.replace(SETTINGS, value_active_only=active_only)
    batch, _ = prepare(policy, rollout, settings)
    _, stats = loss_sums(policy, batch, settings)
    errors = policy.value_norm.normalise(batch.returns)[0]  # [T, N]; the critic says 0
    np.testing.assert_allclose(batch.returns[0, :, 0], ADVANTAGES)
    counted = torch.as_tensor(ALIVE) if active_only else torch.ones(4, 3, dtype=torch.bool)
    assert stats["vf_loss"] == pytest.approx(0.5 * errors[counted].square().sum().item(), rel=1e-6)
    assert live_rows(policy, batch, settings)["critic"].tolist() == [9 if active_only else 12]


def test_the_dead_have_no_gradient(policy, rollout):
    """What the dead saw and did changes nothing that the adapters learn from."""

    def gradients():
        batch, _ = prepare(copy.deepcopy(policy), rollout, SETTINGS)  # it changes the value normaliser
        loss, _ = loss_sums(policy, batch, SETTINGS)
        names = policy.parameters_of("adapters")
        return torch.autograd.grad(loss, list(names.values()))

    with torch.no_grad():
        for parameter in policy.parameters_of("adapters").values():
            parameter.uniform_(0.1, 0.5, generator=torch.Generator().manual_seed(0))
    before = gradients()
    dead = ~torch.as_tensor(ALIVE)[:, None]
    rollout.obs[dead], rollout.actions[dead], rollout.log_probs[dead] = 5.0, 1, -3.0
    for ours, other in zip(before, gradients(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-14)
    assert any(gradient.any() for gradient in before)
