"""The learner's update against `mappo_iteration.npz`: every number the published implementation logged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import prepare
from lorasa_rllib.learning.step import loss_sums
from tests.learning.helpers import minibatches, take_step
from tests.reference.iteration import (
    LOGS,
    RETURNS,
    optimisers_of,
    policy_of,
    rollout_of,
    same_result,
    settings_of,
)
from tests.reference.vectors import close

GENERATOR = torch.Generator()


def test_update(load):
    file = load("mappo_iteration")
    policy = policy_of(file)
    mappo.update(policy, optimisers_of(policy, file), rollout_of(file), settings_of(file), GENERATOR)
    same_result(policy, file)


def test_every_step(load):
    file = load("mappo_iteration")
    policy, settings = policy_of(file), settings_of(file)
    optimisers = optimisers_of(policy, file)
    batch, _ = prepare(policy, rollout_of(file), settings)
    close(in_time(batch.returns, file["gae_returns"]), file["gae_returns"][..., 0], *RETURNS)
    close(in_time(batch.advantages, file["gae_returns"]), file["advantages"][0, ..., 0], *RETURNS)
    for step, part in enumerate(minibatches(batch, settings, GENERATOR)):
        close(policy_loss(policy, part, settings), file["log.policy_loss"][step], *LOGS)
        stats, norms = take_step(policy, optimisers, part, settings)
        close(stats["vf_loss"] / stats["value_rows"], file["log.value_loss"][step], *LOGS)
        close(norms["adapters"], file["log.agent_grad_norm"][step], *LOGS)
        close(norms["adapters"].mean(), file["log.actor_grad_norm"][step], *LOGS)
        close(norms["critic"][0], file["log.critic_grad_norm"][step], *LOGS)
    same_result(policy, file)


@pytest.mark.parametrize("quirk", ["zero_time_limits", "narrow_fresh_norm", "norm_every_step"])
def test_every_quirk_matters(load, quirk):
    """Without it the numbers are others, so the switch does something, and the file would notice if it did not.

    Errors of this file are smaller than huber_delta; `mappo_loss.npz` shows the one-sided loss.
    """
    file = load("mappo_iteration")
    policy, settings = policy_of(file), settings_of(file)
    if quirk == "narrow_fresh_norm":
        if file["init.vn.debias"].any():
            pytest.skip("the normaliser of this file is not fresh")
        policy.value_norm.fresh_var = 1.0
    settings = replace(settings, rules=replace(settings.rules, **{quirk: False}))
    mappo.update(policy, optimisers_of(policy, file), rollout_of(file), settings, GENERATOR)
    with pytest.raises(AssertionError):
        same_result(policy, file)


def in_time(sequences, like):
    """[L, T / L * E, N] -> [T, E, N]."""
    length, (steps, envs) = len(sequences), like.shape[:2]
    return sequences.reshape(length, steps // length, envs, -1).transpose(0, 1).reshape(steps, envs, -1)


def policy_loss(policy, part, settings):
    """The sum over agents of their own mean losses, asked of the product's loss one agent at a time."""
    total = 0.0
    for agent in range(part.active.shape[-1]):
        only = torch.zeros_like(part.active)
        only[..., agent] = part.active[..., agent]
        with torch.no_grad():
            _, stats = loss_sums(policy, replace(part, active=only), settings)
        total = total + stats["policy_loss"] / only.sum()
    return total
