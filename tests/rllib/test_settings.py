"""Settings: every inherited one works or raises, and bad input gives one clear error."""

from __future__ import annotations

import numpy as np
import pytest
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.rllib.validation import WHY_NOT, WORKS

INHERITED = sorted(vars(PPOConfig()))


def another(value):
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "_other"
    if isinstance(value, dict):
        return {**value, "other": 1}
    if isinstance(value, list):
        return [*value, "other"]
    return "other"


@pytest.mark.parametrize("name", [name for name in INHERITED if name not in WORKS])
def test_an_inherited_setting_that_would_be_ignored_raises_and_is_named(small_config, name):
    config = small_config()
    setattr(config, name, another(getattr(config, name)))
    with pytest.raises(ValueError, match=name.lstrip("_")):
        config.validate()


def test_the_lists_of_settings_name_only_settings_that_exist():
    known = set(INHERITED) | {"simple_optimizer"}
    assert known >= WORKS
    assert set(WHY_NOT) <= known
    assert not WORKS & set(WHY_NOT)


class WatchesSteps(RLlibCallback):
    def on_episode_step(self, **kwargs):
        pass


BAD_SETTINGS = {
    "r below 1": (lambda c: c.sharing(r=0), "r=0"),
    "unknown method": (lambda c: c.sharing("lorax"), "'lorax' is unknown"),
    "unknown schedule": (lambda c: c.sharing(schedule="three_phase"), "schedule='three_phase'"),
    "switch beyond the budget": (lambda c: c.sharing(phase_switch=20_000), "phase_switch=20000"),
    "adapters that come on at the switch": (lambda c: c.sharing(adapters="policy"), "adapters= .* phase_switch=0"),
    "gamma beyond 1": (lambda c: c.training(gamma=3), r"gamma=3 must be a number from 0 to 1"),
    "lambda below 0": (lambda c: c.training(lambda_=-0.1), r"lambda_=-0.1 must be"),
    "no clip range": (lambda c: c.training(clip_param=None), r"clip_param=None must be a number above 0\."),
    "negative limit": (lambda c: c.training(grad_clip=-1.0), r"grad_clip=-1.0 must be .* or None for no limit"),
    "a page of settings": (
        lambda c: c.rl_module(model_config={"fcnet_hiddens": [256] * 500}),
        r"model_config=.{100,130} is not supported .*\.network",
    ),
    "no epochs": (lambda c: c.training(num_epochs=0), "num_epochs=0"),
    "a mapping of its own": (
        lambda c: c.multi_agent(policy_mapping_fn=lambda agent, episode, **_: "other"),
        "policy_mapping_fn is not supported",
    ),
    "no switch": (
        lambda c: c.sharing(schedule="two_phase", phase_switch=None, total_env_steps=None),
        "phase_switch=None.*total_env_steps",
    ),
    "fraction of nothing": (lambda c: c.sharing(phase_switch=0.5, total_env_steps=None), "total_env_steps"),
    "unknown environment": (lambda c: c.environment("no-such-env"), "no-such-env"),
    "no environment": (lambda c: c.environment(None), "environment"),
    "bad environment setting": (lambda c: c.environment(env_config={"episode_length": 0}), "episode_length=0"),
    "unknown network setting": (lambda c: c.network(width=3), "width"),
    "hidden size 0": (lambda c: c.network(hidden_size=0), "hidden_size=0"),
    "learners do not divide environments": (
        lambda c: c.learners(num_learners=3),
        "num_learners=3|num_learners to one of",
    ),
    "learners that share a GPU": (
        lambda c: c.learners(num_learners=2, num_gpus_per_learner=0.5),
        "num_gpus_per_learner=0.5|num_gpus_per_learner=1",
    ),
    "batch is no whole number of steps": (lambda c: c.training(train_batch_size_per_learner=65), "65"),
    "minibatch larger than the batch": (
        lambda c: c.training(minibatch_size=65),
        "minibatch_size=65 environment steps must be at most train_batch_size_per_learner=64",
    ),
    "a rate's schedule in RLlib's old place": (
        lambda c: c.training(lr_schedule=[[0, 1e-3], [100, 0.0]]),
        r"lr_schedule=.* given as the rate itself, \.training\(lr=\[\[0, ",
    ),
    "an entropy schedule in RLlib's old place": (
        lambda c: c.training(entropy_coeff_schedule=[[0, 0.01], [100, 0.0]]),
        r"entropy_coeff_schedule=.*\.training\(entropy_coeff=\[\[0, ",
    ),
    "role without roles": (lambda c: c.sharing(adapter_key="role"), "roles"),
    "KL loss": (lambda c: c.training(use_kl_loss=True), "use_kl_loss"),
    "other policies": (lambda c: c.multi_agent(policies={"a", "b"}), "policies"),
    "foreign module": (lambda c: c.rl_module(rl_module_spec=RLModuleSpec()), "rl_module_spec"),
    "callback that is never called": (lambda c: c.callbacks(WatchesSteps), "on_episode_step of WatchesSteps"),
    "callback function that is never called": (
        lambda c: c.callbacks(on_episode_start=print),
        "callbacks_on_episode_start.*never call it",
    ),
    "no callbacks": (lambda c: c.callbacks(int), "callbacks_class=<class 'int'> must be a subclass of RLlibCallback"),
    "no callback": (lambda c: c.callbacks(on_episode_end=[print, 3]), "on_episode_end=3 must be a function"),
    "unknown unit": (lambda c: c.evaluation(evaluation_duration_unit="episode"), "must be one of 'episodes', 'timest"),
    "unknown placement": (lambda c: c.resources(placement_strategy="PACKED"), "placement_strategy='PACKED' must be"),
    "unknown log level": (lambda c: c.debugging(log_level="LOUD"), "log_level='LOUD' must be one of 'DEBUG'"),
    "negative resources": (
        lambda c: c.env_runners(custom_resources_per_env_runner={"seat": -1}),
        r"custom_resources_per_env_runner=\{'seat': -1\} must be a dictionary of amounts",
    ),
    "neither quirks nor a flag": (lambda c: c.training(reference="yes"), "reference='yes' must be True, False"),
    "no dictionary": (lambda c: c.environment(env_config=3), "env_config=3 must be a dictionary"),
    **{
        f"no dictionary, but {given!r}": (
            lambda c, given=given: c.evaluation(evaluation_config=given),
            "evaluation_config=.* must be a dictionary of settings, .*or None",
        )
        for given in (3, "greedy", True, [("explore", True)])
    },
    "a whole config for evaluation": (
        lambda c: c.evaluation(evaluation_config=MAPPOConfig()),
        r"evaluation_config is a whole config, MAPPOConfig\(.*the settings that differ",
    ),
    "typing error in evaluation": (
        lambda c: c.evaluation(evaluation_config={"exploree": True}),
        "evaluation_config: the setting 'exploree' is unknown; did you mean 'explore'",
    ),
    "no name": (lambda c: c.evaluation(evaluation_config={3: 4}), "evaluation_config: the setting '3' is unknown"),
    **{
        f"{name} in evaluation": (
            lambda c, given={name: value}: c.evaluation(evaluation_config=given),
            f"evaluation_config: {name}=.*has no effect in evaluation.*leave it out",
        )
        for name, value in (("lr", 3e-3), ("r", 4), ("evaluation_interval", 9), ("network_settings", {}))
    },
    "env runners in evaluation": (
        lambda c: c.evaluation(evaluation_config={"num_env_runners": 3}),
        "num_env_runners=3 has no effect in evaluation, use evaluation_num_env_runners",
    ),
    "no settings": (lambda c: c.update_from_dict(3), "3 must be a dictionary of settings by name"),
    **{
        f"{setting}={given!r}": (
            lambda c, setting=setting, given=given: c.update_from_dict({setting: given}),
            f"{setting}=.* must be (a|the) (dictionary|pattern|path)",
        )
        for setting in ("rank_pattern", "target_modules", "network_settings", "adapters", "backbone", "fork_from")
        for given in (3, [("a", 1)])
    },
    "resources of learners": (
        lambda c: c.learners(custom_resources_per_learner=3),
        "custom_resources_per_learner=3 must be a dictionary",
    ),
    "unhashable preset": (lambda c: c.network([]), r"network preset \[\] is unknown"),
    "typing error in env_config": (
        lambda c: c.environment(env_config={"num_agent": 3}),
        "env_config: the setting 'num_agent' is unknown; did you mean 'num_agents'",
    ),
    "copies in env_config": (
        lambda c: c.environment(env_config={"num_envs": 3}),
        r"env_config must not set 'num_envs'.*num_envs_per_env_runner",
    ),
    **{
        f"switch {switch} without phases": (
            lambda c, switch=switch: c.sharing(schedule="joint", phase_switch=switch),
            "phase_switch=.*(must be a number|must lie in)",
        )
        for switch in ("x", -1, 1.5, True)
    },
    **{
        f"typing error in {setter}": (
            lambda c, setter=setter, wrong=wrong: getattr(c, setter)(**{wrong: 1}),
            rf"\.{setter}\({wrong}=\.\.\.\): the setting '{wrong}' is unknown; did you mean '{meant}'",
        )
        for setter, wrong, meant in (
            ("callbacks", "on_episode_en", "on_episode_end"),
            ("debugging", "sed", "seed"),
            ("environment", "env_conf", "env_config"),
            ("evaluation", "evaluation_intervall", "evaluation_interval"),
            ("fault_tolerance", "restart_failed_env_runner", "restart_failed_env_runners"),
            ("reporting", "min_time_s_per_iter", "min_time_s_per_iteration"),
            ("resources", "num_gpu", "num_gpus"),
        )
    },
    "state critic without shared reward": (lambda c: c.training(critic_input="agent"), "critic_input"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_fail_before_anything_is_built_and_name_the_setting(small_config, case):
    change, message = BAD_SETTINGS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        change(small_config()).validate()


def test_a_config_survives_copy_and_dictionary():
    config = MAPPOConfig().environment("synthetic").sharing("lora", r=3, total_env_steps=100, phase_switch=0.5)
    again = MAPPOConfig().update_from_dict(config.to_dict())
    assert again.plan().policy == config.copy().plan().policy == config.plan().policy
    assert again.plan().schedule == config.plan().schedule


class NotANumber(SyntheticTeam):
    """Turns bad after some steps."""

    quantity = "obs"

    def step(self, actions):
        answer = super().step(actions)
        if self._time.max() > 3:
            getattr(answer, self.quantity)[1, 0] = np.nan
        return answer


class InfiniteReward(NotANumber):
    quantity = "rewards"


@pytest.mark.parametrize(("env", "word"), [(NotANumber, "obs"), (InfiniteReward, "rewards")])
def test_non_finite_observations_and_rewards_stop_training_with_their_name(small_config, build, env, word):
    algo = build(small_config(env))
    with pytest.raises(TeamEnvError, match=word):
        algo.train()


def damage_truncate(folder):
    for file in folder.rglob("*.pkl"):
        file.write_bytes(file.read_bytes()[:40])


def damage_foreign(folder):
    for file in folder.rglob("*.pkl"):
        file.write_bytes(b"not a pickle")


def damage_missing(folder):
    (folder / "algorithm_state.pkl").unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_foreign, damage_missing])
def test_a_damaged_checkpoint_is_one_clear_error_and_leaves_the_algorithm_as_it_was(
    small_config, build, tmp_path, damage
):
    algo = build(small_config())
    algo.train()
    algo.save_to_path(tmp_path / "checkpoint")
    damage(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        algo.restore_from_path(tmp_path / "checkpoint")
    algo.train()


def test_a_checkpoint_of_another_shape_names_tensor_shapes_and_remedy(small_config, build, tmp_path):
    algo = build(small_config())
    algo.save_to_path(tmp_path / "checkpoint")
    other_rank = build(small_config(r=1))
    with pytest.raises(ValueError, match=r"lora_A.*shape.*\.sharing"):
        other_rank.restore_from_path(tmp_path / "checkpoint")
    wider = build(small_config().network(hidden_size=8))
    with pytest.raises(ValueError, match="network"):
        wider.restore_from_path(tmp_path / "checkpoint")


@pytest.mark.parametrize("content", ["nothing", "other"])
def test_a_backbone_path_that_is_no_checkpoint_is_a_clear_error(small_config, build, tmp_path, content):
    if content == "other":
        build(small_config().network(hidden_size=8)).save_to_path(tmp_path)
    with pytest.raises(ValueError, match="nor a checkpoint" if content == "nothing" else "another policy"):
        build(small_config(backbone=str(tmp_path), phase_switch=0))
