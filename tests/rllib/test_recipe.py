"""Settings of the update that are off by default, as configs take them."""

from __future__ import annotations

import pytest

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.nn.distributions import CONTINUOUS
from tests.rllib.conftest import ALGORITHMS


def test_linear_rates_decay_from_the_number_set_before_to_0_over_the_budget():
    config = MAPPOConfig().sharing("lora", schedule="joint", total_env_steps=1000, adapter_lr_scale=0.5)
    config.training(lr=2e-3).training(lr="linear")
    down = [[0, 2e-3], [1000, 0.0]]
    assert config.learning_rates() == {"backbone": down, "adapters": [[0, 1e-3], [1000, 0.0]], "critic": down}
    assert config.training(lr=("linear", 2e-3)).learning_rates()["backbone"] == down
    config.training(critic_lr=1e-3)
    assert config.learning_rates()["critic"] == 1e-3
    config.training(critic_lr="linear", entropy_coeff=0.5)
    assert config.learning_rates()["critic"] == [[0, 1e-3], [1000, 0.0]] and config.entropy_schedule() == 0.5
    config.training(entropy_coeff="linear")
    assert config.entropy_schedule() == [[0, 0.5], [1000, 0.0]]
    again = MAPPOConfig.from_state(config.get_state())
    assert again.learning_rates() == config.learning_rates()
    config.training(lr=1e-3, critic_lr=None, entropy_coeff=0.0)
    assert config.learning_rates() == {"backbone": 1e-3, "adapters": 5e-4, "critic": 1e-3}
    assert config.entropy_schedule() == 0.0
    config.training(critic_lr="linear")
    assert config.learning_rates()["critic"] == [[0, 1e-3], [1000, 0.0]]


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
        (lambda c: c.training(recompute_advantages=True, reference=True), "no part of the published"),
    ],
)
def test_settings_that_lack_something_are_named(small_config, change, message):
    with pytest.raises(ValueError, match=message):
        change(small_config()).validate()
