"""The table of ranges: every number and flag of the setters is in it, and what lies outside is refused by name."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from ray.rllib.algorithms.ppo.ppo import PPOConfig

from lorasa_rllib import A2POConfig, MAPPOConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.rllib.ranges import SETTINGS
from lorasa_rllib.rllib.validation import WORKS

UNSUPPORTED = (set(vars(PPOConfig())) - WORKS) | {"reference"}
BY_NAME = {setting.name: setting for setting in SETTINGS}
NAMES = pytest.mark.parametrize("name", BY_NAME)
NEITHER_NUMBER_NOR_FLAG = (None, "text", "1", [], [1], {}, 1j, float("nan"), float("inf"), -float("inf"), np.zeros(1))


def with_value(name, value):
    setting = BY_NAME[name]
    config = A2POConfig().environment("synthetic").sharing("ps")
    if setting.name in ("train_batch_size", "train_batch_size_per_learner"):
        config.num_envs_per_env_runner = 1
    return getattr(config, setting.setter)(**{setting.name: value})


def stored(config, name):
    setting = BY_NAME[name]
    if setting.setter == "network":
        return config.network_settings[name]
    return getattr(config, setting.attribute or setting.name)


def outside(setting):
    """Values that the setting must refuse."""
    wrong = [value for value in NEITHER_NUMBER_NOR_FLAG if value is not None or not setting.none]
    if setting.kind == "flag":
        return [*wrong, 0, 1, 2.0, "True"]
    wrong += [True, False]
    if setting.kind == "switch":
        return [*(value for value in wrong if not isinstance(value, np.ndarray)), -1, 1.5, -0.1]
    step = 1 if setting.kind == "count" else 1e-9
    wrong += [setting.low if setting.above else setting.low - step]
    if math.isfinite(setting.high):
        wrong += [setting.high if setting.below else setting.high + step]
    if setting.kind == "count":
        wrong += [max(setting.low, 1) + 0.5]
    if setting.schedule:
        wrong += [[[0, setting.low - 1]], [[5, 0.1]], [[0, 0.1], [0, 0.2]], [[0, "x"]], [[0, 0.1], 3], [[0.5, 0.1]]]
    return wrong


@NAMES
def test_what_rllib_takes_for_not_set_is_refused_when_an_algorithm_is_built(name):
    if BY_NAME[name].setter == "network":
        return
    config = MAPPOConfig().environment("synthetic")
    setattr(config, BY_NAME[name].attribute or name, -1)
    with pytest.raises(ValueError, match=f"{name}=-1 must be"):
        config.build_algo()


@NAMES
def test_what_lies_outside_is_refused_by_name(name):
    setting = BY_NAME[name]
    base = {"total_env_steps": 100_000, "schedule": "two_phase"} if setting.kind == "switch" else {}
    for value in outside(setting):
        config = with_value(name, value)
        if base:
            config.sharing("lora", **base)
        with pytest.raises(ValueError, match=name.rstrip("_")) as caught:
            config.validate()
        assert setting.kind == "switch" or f"{name}=" in str(caught.value), value


@NAMES
def test_what_lies_inside_is_taken_and_numpy_numbers_become_plain_ones(name):
    setting = BY_NAME[name]
    if setting.kind == "flag":
        inside = [True, False, np.bool_(True)]
    elif setting.kind == "switch":
        inside = [np.int64(100), np.float32(0.5), "auto", 3]
    else:
        low = setting.low if math.isfinite(setting.low) else 0
        value = min(low + 1, setting.high) if setting.kind == "count" else (low + min(setting.high, low + 1)) / 2
        number = np.int64 if setting.kind == "count" else np.float32
        inside = [value, number(value), *setting.words]
        inside += [float(value)] if setting.kind == "count" else []  # 1e6 is a whole number, too
        inside += [[[0, 0.1], (1000, 0.2)]] if setting.schedule else []
        inside += [] if setting.above or not math.isfinite(setting.low) else [setting.low]
    for value in [*inside, *([None] if setting.none else [])]:
        plain = setting.checked(value)
        assert type(plain) in (bool, int, float, str, list, type(None))
        assert plain == value or isinstance(value, list)
        assert setting.kind != "count" or not isinstance(plain, float)


def test_every_number_and_flag_of_our_setters_is_in_the_table():
    lists = {"network": [name for name in inspect.signature(NetworkConfig).parameters]}
    for config in (MAPPOConfig, A2POConfig):
        for setter in ("training", "sharing", "env_runners", "learners"):
            lists.setdefault(setter, []).extend(inspect.signature(getattr(config, setter)).parameters)
    fresh = A2POConfig()
    for setter, names in lists.items():
        for name in names:
            attributes = [name, f"sharing_{name}", f"lora_{name}"]
            default = next((getattr(fresh, a) for a in attributes if hasattr(fresh, a)), None)
            if setter == "network":
                default = getattr(NetworkConfig(), name)
            if isinstance(default, bool | int | float) and name not in UNSUPPORTED:
                assert name in BY_NAME, f".{setter}({name}=...) is missing in ranges.SETTINGS"


def test_numbers_of_numpy_are_plain_after_validation():
    config = MAPPOConfig().environment("synthetic").sharing("ps").network(hidden_size=np.int64(16))
    config.training(lr=np.float32(0.5), train_batch_size=8e1, num_epochs=np.int32(2)).validate()
    assert [type(value) for value in (config.network_settings["hidden_size"], config.lr)] == [int, float]
    assert config.total_train_batch_size == 80 and isinstance(config.train_batch_size, int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.network(hiden=64), r"\.network\(hiden=...\).*did you mean 'hidden_size'"),
        (lambda c: c.sharing(shedule="joint"), r"\.sharing\(shedule=...\).*did you mean 'schedule'"),
        (lambda c: c.training(entropy_coef=0.1), "did you mean 'entropy_coeff'"),
        (lambda c: c.training(sgd_minibatch_size=16), "did you mean 'minibatch_size'"),
        (lambda c: c.env_runners(sample_ahed=True), "did you mean 'sample_ahead'"),
        (lambda c: c.learners(num_lerners=1), "did you mean 'num_learners'"),
    ],
)
def test_an_unknown_keyword_fails_at_the_call_with_a_suggestion(call, message):
    with pytest.raises(TypeError, match=message):
        call(A2POConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exlore": False}, "evaluation_config: the setting 'exlore' is unknown; did you mean 'explore'"),
        ({"explore": "no"}, "evaluation_config: explore='no' must be True or False"),
        ({"num_envs_per_env_runner": 0}, "evaluation_config: num_envs_per_env_runner=0"),
        (3, "evaluation_config=3 must be a dictionary"),
    ],
)
def test_settings_of_evaluation_are_judged_alike(settings, message):
    config = MAPPOConfig().environment("synthetic").sharing("ps")
    config.evaluation_config = settings
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_unknown_settings_from_a_dictionary_are_refused():
    with pytest.raises(ValueError, match="'lrr' is unknown; did you mean 'lr'"):
        MAPPOConfig().update_from_dict({"lrr": 1e-3})
    with pytest.raises(
        ValueError, match="network_settings: the setting 'hiden' is unknown; did you mean 'hidden_size'"
    ):
        MAPPOConfig().environment("synthetic").update_from_dict({"network_settings": {"hiden": 3}}).validate()


def batch(**settings):
    return MAPPOConfig().environment("synthetic").sharing("ps").training(**settings)


def test_the_size_of_a_batch_is_the_one_given_last_under_either_name():
    assert batch().total_train_batch_size == 4000
    assert batch(train_batch_size=160).total_train_batch_size == 160
    assert batch(train_batch_size=160).learners(num_learners=2).train_batch_size_per_learner == 80
    assert batch(train_batch_size_per_learner=80).learners(num_learners=2).total_train_batch_size == 160
    assert batch(train_batch_size=160).training(train_batch_size_per_learner=80).total_train_batch_size == 80
    assert batch(train_batch_size_per_learner=80).training(train_batch_size=160).total_train_batch_size == 160
    assert batch().update_from_dict({"train_batch_size": 160}).total_train_batch_size == 160


def test_two_sizes_of_a_batch_that_do_not_agree_are_refused():
    batch(train_batch_size=160, train_batch_size_per_learner=160).validate()
    with pytest.raises(ValueError, match="train_batch_size=160 and train_batch_size_per_learner=80"):
        batch(train_batch_size=160, train_batch_size_per_learner=80).validate()
    with pytest.raises(ValueError, match="train_batch_size=160 and train_batch_size_per_learner=80"):
        batch(train_batch_size_per_learner=80).update_from_dict({"train_batch_size": 160}).validate()
    with pytest.raises(ValueError, match=r"train_batch_size=161 .*num_learners=2. Set train_batch_size=162"):
        batch(train_batch_size=161).learners(num_learners=2).validate()
