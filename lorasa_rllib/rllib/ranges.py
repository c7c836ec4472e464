"""Numeric settings and flags with their ranges: one table for `validate()`, its test and the documentation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

import numpy as np

from lorasa_rllib.nn.network import LAYERS_AT_MOST, renamed

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

Kind = Literal["flag", "count", "number", "switch"]
NOUNS = {"flag": "True or False", "count": "a whole number", "number": "a number"}
SWITCH = "environment steps (int), a fraction of total_env_steps (float from 0 to below 1) or 'auto'"


@dataclass(frozen=True)
class Setting:
    """An argument of a setter, such as `.training(gamma=...)`.

    setter, name: names of the method and its argument.
    kind:       "flag", "count" (integer), "number", or "switch" (only `phase_switch`).
    low, high:  smallest and largest value; infinite if unbounded, but values themselves must be finite.
    above, below: the value must be strictly above `low`, strictly below `high`.
    none:       meaning of None; "" if None is not allowed.
    words:      strings that are also allowed.
    schedule:   whether `[[environment steps, value], ...]` is also allowed; values are interpolated linearly.
    attribute:  attribute of the config, if named differently; only RLlib does that.
    """

    setter: str
    name: str
    kind: Kind = "number"
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    none: str = ""
    words: tuple[str, ...] = ()
    schedule: bool = False
    attribute: str = ""

    def __str__(self) -> str:
        """The allowed values, in words."""
        if self.kind == "switch":
            return SWITCH
        low, high = (f"{bound:,.0f}" if bound >= 1000 else f"{bound:g}" for bound in (self.low, self.high))
        text = NOUNS[self.kind]
        if math.isfinite(self.high):
            text += (
                f" above {low} and at most {high}" if self.above else f" from {low} to {'below ' * self.below}{high}"
            )
        elif math.isfinite(self.low):
            text += f" above {low}" if self.above else f" of at least {low}"
        others = [f", {word!r}" for word in self.words]
        others += [", a schedule [[0, value], [environment steps, value], ...]"] if self.schedule else []
        others += [f", or None for {self.none}"] if self.none else []
        if others and not self.none:
            others[-1] = others[-1].replace(", ", " or ", 1)
        return text + "".join(others)

    def checked(self, value: object) -> object:
        """`value` as a built-in type: converts NumPy numbers, and for counts whole floats such as 1e6.

        Raises ValueError that names the setting and its range.
        """
        if (value is None and self.none) or (isinstance(value, str) and value in self.words):
            return value
        if self.kind == "switch":  # `PhaseSchedule` validates it together with the budget
            if isinstance(value, bool) or not isinstance(value, Real):
                return value
            return int(value) if isinstance(value, Integral) else float(value)
        if self.schedule and isinstance(value, list | tuple):
            return self._checked_schedule(value)
        plain = self._plain(value)
        if plain is None:
            raise ValueError(f"{self.name}={value!r} must be {self}.")
        return plain

    def _plain(self, value: object) -> bool | int | float | None:
        if self.kind == "flag":
            return bool(value) if isinstance(value, bool | np.bool_) else None
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return None
        number = int(value) if isinstance(value, Integral) else float(value)
        if not self.low <= number <= self.high:
            return None
        if (self.above and number == self.low) or (self.below and number == self.high):
            return None
        if self.kind == "count":
            return int(number) if number == int(number) else None
        return number

    def _checked_schedule(self, value: list | tuple) -> list[list[float]]:
        steps, plain = [], []
        for point in value:
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise ValueError(
                    f"{self.name}={value!r} is not a schedule [[0, value], [environment steps, value] ...]."
                )
            step, at = STEPS._plain(point[0]), self._plain(point[1])
            if step is None or at is None:
                alone = replace(self, schedule=False, none="")
                raise ValueError(f"{self.name}={value!r}: {list(point)} must be environment steps and {alone}.")
            steps.append(step)
            plain.append([step, at])
        if not steps or steps[0] != 0 or any(after <= before for before, after in itertools.pairwise(steps)):
            raise ValueError(f"{self.name}={value!r}: a schedule's environment steps begin with 0 and rise.")
        return plain


STEPS = Setting("", "environment steps", "count", 0)


def _flags(setter: str, *names: str) -> Iterator[Setting]:
    return (Setting(setter, name, "flag") for name in names)


def _counts(setter: str, low: int, *names: str) -> Iterator[Setting]:
    return (Setting(setter, name, "count", low) for name in names)


SETTINGS: tuple[Setting, ...] = (
    Setting("sharing", "r", "count", 1, 65_536),
    Setting("sharing", "lora_alpha", low=0, high=1e6, above=True),
    Setting("sharing", "num_adapters", "count", 1, none="as many as needed"),
    Setting("sharing", "total_env_steps", "count", 1, none="no budget"),
    Setting("sharing", "phase_switch", "switch", none="the default"),
    Setting("sharing", "backbone_lr_scale", low=0, high=1e6, above=True, none="the schedule's default"),
    Setting("sharing", "adapter_lr_scale", low=0, high=1e6, above=True, none="the schedule's default"),
    *_flags("sharing", "use_rslora", "adapt_bias", "adapt_norm"),
    Setting("network", "hidden_size", "count", 1, 65_536),
    Setting("network", "num_layers", "count", 1, LAYERS_AT_MOST),
    Setting("network", "post_layers", "count", 0, LAYERS_AT_MOST),
    Setting("network", "head_gain", low=0, high=1e6),
    Setting("network", "obs_clip", low=0, above=True),
    Setting("network", "initial_log_std", low=-20, high=20, none="the head's own start"),
    *_flags("network", "layer_norm", "recurrent", "critic_recurrent"),
    Setting("training", "lr", low=0, high=1, schedule=True),
    Setting("training", "critic_lr", low=0, high=1, schedule=True, none="the policy's lr"),
    Setting("training", "entropy_coeff", low=0, high=1e6, schedule=True),
    Setting("training", "gamma", low=0, high=1),
    Setting("training", "lambda_", low=0, high=1),
    Setting("training", "clip_param", low=0, above=True),
    Setting("training", "vf_clip_param", low=0, above=True, none="no limit"),
    Setting("training", "vf_loss_coeff", low=0, high=1e6),
    Setting("training", "grad_clip", low=0, above=True, none="no limit"),
    Setting("training", "huber_delta", low=0, above=True, none="no limit"),
    Setting("training", "target_kl", low=0, above=True, none="no limit"),
    Setting("training", "adam_epsilon", low=0, high=1, above=True),
    Setting("training", "num_epochs", "count", 1),
    Setting("training", "minibatch_size", "count", 1, none="the whole batch", words=("auto",)),
    Setting("training", "train_batch_size", "count", 1),
    Setting(
        "training",
        "train_batch_size_per_learner",
        "count",
        1,
        none="an equal part of train_batch_size",
        attribute="_train_batch_size_per_learner",
    ),
    Setting("training", "chunk_length", "count", 1),
    Setting("training", "compile", "flag", words=("auto",)),
    *_flags(
        "training",
        "joint_ratio",
        "vf_active_only",
        "use_kl_loss",
        "recompute_advantages",
        "obs_norm_in_adapter_phase",
    ),
    Setting("training", "agents_per_step", "count", 1),
    Setting("training", "others_clip", low=0, high=1, below=True, none="half the clip range"),
    Setting("training", "clip_growth", low=0, high=1, below=True),
    Setting("training", "two_stage_critic", "flag"),
    *_counts("env_runners", 0, "num_env_runners"),
    *_counts("env_runners", 1, "num_envs_per_env_runner"),
    Setting("env_runners", "num_cpus_per_env_runner", low=0),
    Setting("env_runners", "num_gpus_per_env_runner", low=0),
    Setting("env_runners", "rollout_fragment_length", "count", 1, words=("auto",)),
    Setting("env_runners", "sample_timeout_s", low=0, above=True, none="no limit"),
    *_flags(
        "env_runners",
        "explore",
        "sample_ahead",
        "create_local_env_runner",
        "create_env_on_local_worker",
    ),
    *_counts("learners", 0, "num_learners", "local_gpu_idx"),
    Setting("learners", "num_cpus_per_learner", low=0, words=("auto",)),
    Setting("learners", "num_gpus_per_learner", low=0),
    Setting("learners", "learner_threads", "count", 1, none="the default"),
    Setting("resources", "num_cpus_for_main_process", low=0),
    Setting("evaluation", "evaluation_interval", "count", 0, none="no evaluation"),
    Setting("evaluation", "evaluation_duration", "count", 1, words=("auto",)),
    Setting("evaluation", "evaluation_num_env_runners", "count", 0),
    Setting("evaluation", "evaluation_sample_timeout_s", low=0, above=True, none="no limit"),
    *_counts("evaluation", 1, "evaluation_auto_duration_min_env_steps_per_sample"),
    *_counts("evaluation", 1, "evaluation_auto_duration_max_env_steps_per_sample"),
    Setting("evaluation", "evaluation_error_after_n_consecutive_skips", "count", 1, none="never"),
    *_flags("evaluation", "evaluation_parallel_to_training", "evaluation_force_reset_envs_before_iteration"),
    Setting("fault_tolerance", "max_num_env_runner_restarts", "count", 0),
    Setting("fault_tolerance", "delay_between_env_runner_restarts_s", low=0),
    Setting("fault_tolerance", "env_runner_restore_timeout_s", low=0),
    *_flags("fault_tolerance", "restart_failed_env_runners", "ignore_env_runner_failures"),
    *_counts("reporting", 1, "metrics_num_episodes_for_smoothing"),
    Setting("reporting", "min_time_s_per_iteration", low=0, none="no limit"),
    Setting("reporting", "min_train_timesteps_per_iteration", "count", 0, none="no limit"),
    Setting("reporting", "min_sample_timesteps_per_iteration", "count", 0, none="no limit"),
    Setting("debugging", "seed", "count", 0, 2**31 - 1, none="a random one"),
)


def check_not_dropped(settings: Mapping[str, object]) -> None:
    """Raises ValueError for settings of -1, which RLlib treats as "not set" when it copies a config."""
    for setting in SETTINGS:
        value = settings.get(setting.attribute or setting.name)
        if setting.setter != "network" and isinstance(value, Real) and value == -1:
            raise ValueError(f"{setting.name}={value!r} must be {setting}.")


def settle_numbers(config: TeamConfig) -> None:
    """Converts the numbers of a config to built-in types and renames settings of older versions, in place.

    Raises ValueError that names all settings that are out of range or of the wrong type.
    """
    problems = []
    config.__dict__["network_settings"] = renamed(config.network_settings)
    for setting in SETTINGS:
        place = config.network_settings if setting.setter == "network" else config.__dict__
        key = setting.attribute or setting.name
        if key not in place:  # belongs to another algorithm, or to the network with its default
            continue
        try:
            place[key] = setting.checked(place[key])
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError(" ".join(problems))
