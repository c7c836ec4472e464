"""The recipe that configs begin with, and settings of the update that are off by default."""

from __future__ import annotations

import pytest

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.learning import recipe
from lorasa_rllib.nn.distributions import CONTINUOUS
from lorasa_rllib.nn.network import NetworkConfig
from tests.rllib.conftest import ALGORITHMS


def test_linear_rates_decay_from_the_number_set_before_to_0_over_the_budget():
    config = (
        MAPPOConfig()
        .environment("synthetic")
        .sharing("lora", schedule="joint", total_env_steps=1000, backbone_lr_scale=1.0, adapter_lr_scale=0.5)
    )
    config.training(lr=2e-3).training(lr="linear")
    down = [[0, 2e-3], [1000, 0.0]]
    assert config.plan().rates == {"backbone": down, "adapters": [[0, 1e-3], [1000, 0.0]], "critic": down}
    assert config.training(lr=("linear", 2e-3)).plan().rates["backbone"] == down
    config.training(critic_lr=1e-3)
    assert config.plan().rates["critic"] == 1e-3
    config.training(critic_lr="linear", entropy_coeff=0.5)
    assert config.plan().rates["critic"] == [[0, 1e-3], [1000, 0.0]] and config.plan().entropy_coeff == 0.5
    config.training(entropy_coeff="linear")
    assert config.plan().entropy_coeff == [[0, 0.5], [1000, 0.0]]
    again = MAPPOConfig.from_state(config.get_state())
    assert again.plan().rates == config.plan().rates
    config.training(lr=1e-3, critic_lr=None, entropy_coeff=0.0)
    assert config.plan().rates == {"backbone": 1e-3, "adapters": 5e-4, "critic": 1e-3}
    assert config.plan().entropy_coeff == 0.0
    config.training(critic_lr="linear")
    assert config.plan().rates["critic"] == [[0, 1e-3], [1000, 0.0]]


def test_the_usual_rate_decays_where_the_budget_is_known_and_a_given_one_stays():
    config = MAPPOConfig().environment("synthetic").sharing("ps")
    assert config.plan().rates["backbone"] == 3e-4
    config.sharing(total_env_steps=1000)
    assert config.plan().rates["backbone"] == config.plan().rates["critic"] == [[0, 3e-4], [1000, 0.0]]
    again = MAPPOConfig().update_from_dict(config.to_dict())
    assert again.plan().rates == config.plan().rates == config.copy().plan().rates
    assert config.training(entropy_coeff=0.1).decays()
    assert config.copy(copy_frozen=False).update_from_dict({"lr": 1e-3}).plan().rates["backbone"] == 1e-3
    assert not config.training(lr=1e-3).decays()


@pytest.mark.parametrize(
    "method, schedule, given, backbone, adapters",
    [
        ("lora", "joint", {}, 0.5, 0.5),
        ("lora", "joint", {"backbone_lr_scale": 1.0}, 1.0, 1.0),
        ("lora", "joint", {"adapter_lr_scale": 2.0}, 0.5, 2.0),
        ("lora", "two_phase", {}, 1.0, 3.0),
        ("lora", "two_phase", {"backbone_lr_scale": 0.2, "adapter_lr_scale": 0.1}, 0.2, 0.1),
        ("seps_lora", "joint", {"groups": (0, 0, 1)}, 0.5, 0.5),
        ("ps", "joint", {}, 1.0, None),
        ("nps", "joint", {}, 1.0, None),
    ],
)
def test_backbone_and_adapters_share_the_rate_where_they_train_together(method, schedule, given, backbone, adapters):
    config = MAPPOConfig().environment("synthetic").training(lr=1e-2)
    rates = config.sharing(method, schedule=schedule, total_env_steps=1000, **given).plan().rates
    assert rates["backbone"] == pytest.approx(1e-2 * backbone) and rates["critic"] == 1e-2
    assert adapters is None or rates["adapters"] == pytest.approx(1e-2 * adapters)


def test_settings_of_older_versions_mean_what_they_did():
    state = MAPPOConfig().environment("synthetic").sharing("ps", total_env_steps=1000).get_state()
    del state["linear_decay"], state["lr_is_default"], state["backbone_lr_scale"]
    state |= {"network_settings": {"hidden_size": 8}, "minibatch_size": None, "num_epochs": 5}
    old = MAPPOConfig.from_state(state)
    assert old.plan().rates["backbone"] == 3e-4
    assert old.sharing("lora", schedule="joint").plan().rates == dict.fromkeys(("backbone", "adapters", "critic"), 3e-4)
    assert old.sharing("ps").plan().policy.network == NetworkConfig(hidden_size=8, obs_norm="layer", obs_clip=10.0)
    assert old.plan().update.minibatch_size is None


@pytest.mark.parametrize(
    ("batch", "learners", "chunk", "expected"),
    [
        (4000, 1, 1, 500),
        (2000, 2, 1, 250),
        (4000, 1, 10, 500),
        (600, 1, 1, None),
        (1100, 1, 1, 550),
        (1200, 1, 400, 400 * 1),
        (640, 2, 320, 320),
        (16, 1, 1, None),
    ],
)
def test_minibatches_are_equal_parts_of_whatever_batch_there_is(batch, learners, chunk, expected):
    size = recipe.minibatch_of(batch, learners, chunk)
    assert size == expected
    assert size is None or (size % chunk == 0 and size <= batch)


def test_a_user_who_sets_nothing_gets_small_minibatches_that_fit_every_batch(small_config):
    assert MAPPOConfig().environment("synthetic").plan().update.minibatch_size == 500
    config = small_config()
    assert config.plan().update.minibatch_size is None  # a batch of 64
    config.training(train_batch_size_per_learner=2000).learners(num_learners=2).validate()
    assert config.plan().update.minibatch_size == 250
    config.network("published").training(chunk_length=20).validate()
    assert config.plan().update.minibatch_size == 240


def test_training_beyond_the_budget_with_a_rate_of_0_says_so_once(small_config, build, caplog):
    algo = build(small_config(schedule="joint", phase_switch=None, total_env_steps=64).training(lr="linear"))
    algo.train()
    assert "decayed to 0" not in caplog.text
    before = algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]
    algo.train()
    algo.train()
    assert caplog.text.count("decayed to 0 over total_env_steps=64") == 1
    after = algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]
    name = "policy.actor.mlp.0.weight"
    assert (before["shared_policy"][name] == after["shared_policy"][name]).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rates_follow_the_steps_sampled_and_training_goes_through(small_config, build, algorithm):
    config = small_config(algorithm=algorithm, total_env_steps=256, phase_switch=128).network("normalised")
    config.training(lr="linear", recompute_advantages=True, target_kl=0.05)
    if algorithm == "MAPPO":
        config.training(minibatch_size=20)
    algo = build(config)
    for steps in (64, 128, 192, 256):
        algo.train()
        for name, optimiser in algo.learner_group._learner.optimisers().items():
            scale = 3 if name == "adapters" else 1
            assert optimiser.param_groups[0]["lr"] == pytest.approx(scale * 1e-2 * (1 - steps / 256)), name


@pytest.mark.parametrize("distribution", ["gaussian", "squashed_gaussian"])
def test_standard_deviations_start_where_they_are_told(small_config, distribution):
    for start in (None, -1.5):
        config = small_config().network(distribution=distribution, initial_log_std=start)
        learner = config.build_learner(spaces=config.spaces())
        expected = CONTINUOUS[distribution].initial_log_std if start is None else start
        assert (learner.policy.actor.log_std.weight == expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.sharing(phase_switch=64, total_env_steps=None).training(lr="linear"), "budget of the run"),
        (lambda c: c.training(lr=[[0, 1e-3], [9, 0.0]]).training(lr="linear"), "is the schedule"),
        (lambda c: c.training(target_kl=0), "target_kl=0 must be a number above 0"),
        (lambda c: c.training(recompute_advantages=True).network("published"), "needs a feed-forward critic"),
        (lambda c: c.training(recompute_advantages=True, reference=True), "not part of the published"),
    ],
)
def test_settings_that_lack_something_are_named(small_config, change, message):
    with pytest.raises(ValueError, match=message):
        change(small_config()).validate()
