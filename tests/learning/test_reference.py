"""The published code's quirks: off by default, each with a switch."""

from __future__ import annotations

import dataclasses
import pickle

from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.learning.batch import MAPPOSettings, prepare
from lorasa_rllib.learning.reference import REFERENCE, Quirks, rules_of
from lorasa_rllib.learning.rules import Rules
from tests.helpers import make_policy, owner_tables, random_rollout, team

OWN_REWARDS = team((4, 2, 3), (2, 3, 1), shared_reward=False)


def test_reference_is_every_quirk_and_nothing_is_the_default():
    assert rules_of(True) == REFERENCE and all(vars(REFERENCE).values())
    assert rules_of(False) == A2POSettings().rules and isinstance(MAPPOSettings().rules, Rules)
    assert not isinstance(MAPPOSettings().rules, Quirks) and not any(vars(Quirks()).values())
    assert rules_of(one := Quirks(one_sided_huber=True)) is one


def test_a_time_limit_is_worth_its_value_and_no_more():
    policy = make_policy(OWN_REWARDS, owner_tables(3)["ps"])
    rollout = random_rollout(policy, 4, 3, seed=1).to("cpu")
    settings = MAPPOSettings(rules=Quirks(zero_time_limits=True, norm_every_step=True))
    batch, _ = prepare(policy, rollout, settings)
    gained = (batch.returns - policy.value_norm.denormalise(batch.values))[0].view(4, 3, 3)
    assert rollout.truncated.any()
    assert gained[rollout.truncated].abs().max() < 1e-9
    usual, _ = prepare(policy, rollout, dataclasses.replace(settings, rules=Quirks(norm_every_step=True)))
    assert (usual.returns - batch.returns)[0].view(4, 3, 3)[rollout.truncated].abs().min() > 1e-6


def test_the_normaliser_waits_for_the_optimiser_steps():
    policy = make_policy(OWN_REWARDS, owner_tables(3)["ps"])
    rollout = random_rollout(policy, 4, 3).to("cpu")
    prepare(policy, rollout, MAPPOSettings(rules=Quirks(norm_every_step=True)))
    assert not policy.value_norm.debias.any()
    prepare(policy, rollout, MAPPOSettings())
    assert policy.value_norm.debias.all()


def test_checkpoints_of_older_releases_find_quirks_where_they_were():
    assert pickle.loads(b"clorasa_rllib.learning.quirks\nQuirks\n.") is Quirks
