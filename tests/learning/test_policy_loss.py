"""Policy losses of users (`MAPPOSettings.policy_loss`): read the same rows, count the same rows, reach both updates."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.learning.compiled import why_not
from tests.helpers import make_policy, owner_tables, random_rollout, seeded
from tests.learning.helpers import SETTINGS, UNEQUAL, experienced, optimisers_of

UPDATES = {"mappo": mappo.update, "a2po": a2po.update}


def settings_of(algorithm, **changed):
    given = {
        field.name: getattr(SETTINGS, field.name) for field in dataclasses.fields(SETTINGS) if field.name != "rules"
    }
    return (A2POSettings if algorithm == "a2po" else type(SETTINGS))(**given | {"num_epochs": 2} | changed)


def updated(algorithm, **changed):
    """Weights after an update of a team with unequal agents, one of which dies, and its statistics."""
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    policy.set_phase("joint")
    experienced(policy)
    rollout = random_rollout(policy, 6, 4, seed=3).to("cpu")
    log = UPDATES[algorithm](policy, optimisers_of(policy), rollout, settings_of(algorithm, **changed), seeded(5))
    return copy.deepcopy(policy.state_dict()), log


def written_out(distribution, rows, settings):
    """PPO's clipped loss, from the definition."""
    components = []
    for k in range(rows.ratio.shape[-1]):
        ratio, low, high = rows.ratio[..., k], 1 - settings.clip, 1 + settings.clip
        gain = torch.minimum(ratio * rows.advantages, ratio.clamp(low, high) * rows.advantages)
        components.append(gain if rows.real is None else gain * rows.real[:, k])
    return -torch.stack(components).sum(0)


@pytest.mark.parametrize("algorithm", UPDATES)
@pytest.mark.parametrize("joint_ratio", [False, True])
def test_ppos_loss_from_outside_updates_as_the_one_inside(algorithm, joint_ratio):
    expected, _ = updated(algorithm, joint_ratio=joint_ratio)
    actual, _ = updated(algorithm, joint_ratio=joint_ratio, policy_loss=written_out)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("algorithm", UPDATES)
def test_losses_of_dead_rows_do_not_count_and_others_do(algorithm):
    def louder_in(rows_that):
        def loss(distribution, rows, settings):
            return written_out(distribution, rows, settings) + torch.where(rows_that(rows.active), 1e3, 0.0)

        return loss

    _, plain = updated(algorithm, policy_loss=written_out)
    _, dead = updated(algorithm, policy_loss=louder_in(torch.logical_not))
    _, live = updated(algorithm, policy_loss=louder_in(lambda active: active))
    torch.testing.assert_close(dead["policy_loss"], plain["policy_loss"])
    torch.testing.assert_close(live["policy_loss"], plain["policy_loss"] + 1e3)


@pytest.mark.parametrize("algorithm", UPDATES)
def test_another_loss_trains_otherwise(algorithm):
    def without_clipping(distribution, rows, settings):
        return -(distribution.log_prob(rows.actions) * rows.advantages.unsqueeze(-1)).sum(-1)

    one, _ = updated(algorithm)
    other, _ = updated(algorithm, policy_loss=without_clipping)
    assert any(not torch.allclose(one[name], other[name]) for name in one if name.endswith("lora_B"))


def test_a_loss_that_is_summed_already_is_refused():
    with pytest.raises(ValueError, match=r"policy_loss returned a tensor of shape \[\].*loss of every row"):
        updated("mappo", policy_loss=lambda *given: written_out(*given).sum())


def test_steps_with_it_are_not_compiled():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    assert why_not(policy, settings_of("mappo", policy_loss=written_out)) == "policy_loss is a function of your own"
