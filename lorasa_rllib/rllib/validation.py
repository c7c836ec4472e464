"""Validation of settings: inherited ones that must keep their default, and combinations that are inconsistent.

`ranges` validates individual numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.utils import force_list

from lorasa_rllib.nn.bank_encoder import BankEncoder
from lorasa_rllib.old_names import with_current_names
from lorasa_rllib.rllib.callbacks import BY_ALGORITHMS, BY_RUNNERS, never_called
from lorasa_rllib.rllib.kinds import check_is_settings, is_callbacks, of_other_kinds, short
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.ranges import settle_numbers
from lorasa_rllib.suggestion import suggestion

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

BY_RLLIB = frozenset(
    {"algo_class", "in_evaluation", "simple_optimizer", "_is_frozen", "_is_online", "_validate_config"}
)
"""Config attributes that RLlib manages itself."""

JUDGED = frozenset({"use_kl_loss", "policies", "policy_mapping_fn"})
"""Settings for which `check_inherited_settings` has specific error messages."""

# fmt: off
WORKS = BY_RLLIB | JUDGED | frozenset({
    "env", "env_config", "env_runner_cls", "seed", "log_level", "explore", "gamma", "lr", "lambda_", "clip_param",
    "vf_clip_param", "vf_loss_coeff", "entropy_coeff", "grad_clip", "num_epochs", "minibatch_size",
    "train_batch_size", "_train_batch_size_per_learner", "rollout_fragment_length", "sample_timeout_s",
    "num_env_runners", "num_envs_per_env_runner", "create_local_env_runner", "create_env_on_local_worker",
    "num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner",
    "metrics_num_episodes_for_smoothing", "num_learners", "num_cpus_per_learner", "num_gpus_per_learner",
    "custom_resources_per_learner", "local_gpu_idx", "num_cpus_for_main_process", "custom_resources_for_main_process",
    "placement_strategy", "evaluation_interval", "evaluation_duration", "evaluation_duration_unit",
    "evaluation_config", "evaluation_num_env_runners", "evaluation_parallel_to_training",
    "evaluation_sample_timeout_s", "evaluation_force_reset_envs_before_iteration",
    "evaluation_auto_duration_min_env_steps_per_sample", "evaluation_auto_duration_max_env_steps_per_sample",
    "custom_evaluation_function", "evaluation_error_after_n_consecutive_skips", "restart_failed_env_runners",
    "ignore_env_runner_failures", "max_num_env_runner_restarts", "delay_between_env_runner_restarts_s",
    "env_runner_restore_timeout_s", "min_time_s_per_iteration", "min_train_timesteps_per_iteration",
    "min_sample_timesteps_per_iteration", "log_sys_usage", "callbacks_class",
    *(f"callbacks_{hook}" for hook in (*BY_RUNNERS, *BY_ALGORITHMS)), "stats_cls_lookup",
})
# fmt: on
"""Settings inherited from RLlib that work as RLlib documents them. All others must keep their default.

`tests/rllib/test_settings_work.py` tests the effect of each.
"""

# fmt: off
IN_EVALUATION = frozenset({
    "env", "env_config", "explore", "seed", "num_envs_per_env_runner", "num_cpus_per_env_runner",
    "num_gpus_per_env_runner", "custom_resources_per_env_runner", "callbacks_class",
    *(f"callbacks_{hook}" for hook in BY_RUNNERS), "evaluation_duration", "evaluation_duration_unit",
    "evaluation_sample_timeout_s", "evaluation_force_reset_envs_before_iteration",
    "evaluation_auto_duration_min_env_steps_per_sample", "evaluation_auto_duration_max_env_steps_per_sample",
    "restart_failed_env_runners", "max_num_env_runner_restarts", "delay_between_env_runner_restarts_s", "log_level",
})
# fmt: on
"""Settings that `evaluation_config` can change; the policy is the one that trains."""

UNCALLED = "team algorithms never call it; of an episode they report the end, with on_episode_end"

WHY_NOT = {
    "framework_str": "this package is written for torch",
    "use_critic": "the critic is what MAPPO is about",
    "use_gae": "set lambda_=1.0 for plain returns",
    "kl_coeff": "there is no KL penalty; mean_kl_loss is reported anyway",
    "kl_target": "there is no KL penalty; mean_kl_loss is reported anyway",
    "batch_mode": "fragments have a fixed length and are bootstrapped",
    "count_steps_by": "budgets and batches are counted in environment steps",
    "grad_clip_by": "gradients are clipped by the norm of each owner",
    "_env_to_module_connector": "connectors do not run in team env runners; put it into the environment",
    "_module_to_env_connector": "connectors do not run in team env runners; put it into the environment",
    "_learner_connector": "connectors do not run in team learners; put it into the environment",
    "observation_filter": "the network normalises its features, see .network(obs_norm=...)",
    "_rl_module_spec": "the module follows from .sharing(...) and .network(...)",
    "_model_config": "the shape of the network is set with .network(...)",
    "model": "the shape of the network is set with .network(...)",
    "clip_rewards": "returns are normalised by the value normaliser",
    "clip_actions": "actions are always mapped from [-1, 1] to the bounds",
    "normalize_actions": "actions are always mapped from [-1, 1] to the bounds",
    "gym_env_vectorize_mode": "environments are stepped together in their env runner",
    "policies_to_train": "the phase decides what trains, see .sharing(schedule=...)",
    "torch_compile_learner": "use .training(compile=...), which compiles optimiser steps",
    "restart_failed_sub_environments": "environments that fail are rebuilt, see restart_failed_env_runners",
    "lr_schedule": "a schedule is given as the rate itself, .training(lr=[[0, 5e-4], [1_000_000, 0.0]])",
    "entropy_coeff_schedule": "a schedule is given as the coefficient itself, "
    ".training(entropy_coeff=[[0, 0.01], [1_000_000, 0.0]])",
    "_torch_lr_scheduler_classes": "a schedule of the learning rate is given as .training(lr=[[0, 5e-4], ...])",
    "num_gpus": "GPUs are given to learners, with .learners(num_gpus_per_learner=1), and to env runners, with "
    ".env_runners(num_gpus_per_env_runner=...)",
    "_fake_gpus": "GPUs are given to learners, with .learners(num_gpus_per_learner=1)",
    "max_requests_in_flight_per_env_runner": "an env runner has one request at a time",
    "max_requests_in_flight_per_learner": "learners update in step with each other",
    "broadcast_env_runner_states": "connectors, whose states it is about, do not run in team env runners",
    "validate_env_runners_after_construction": "it is always done",
    "num_consecutive_env_runner_failures_tolerance": "training ends when no env runner has given anything usable in "
    "several rounds in a row",
    "_use_msgpack_checkpoints": "checkpoints are read as pickles",
    "env_runner_health_probe_timeout_s": "lost env runners are asked in passing, without waiting for them",
}
"""Reasons why settings are not supported, for error messages."""


def check_inherited_settings(config: TeamConfig, defaults: TeamConfig) -> None:
    """Raises ValueError that lists all unsupported inherited settings. defaults: a new config of the same class."""
    works = WORKS | {"batch_mode"} if config.in_evaluation else WORKS  # RLlib changes it for evaluation
    problems = [
        f"{name.lstrip('_')}={short(value)} is not supported ({_why_not(name)}); leave it at "
        f"{short(getattr(defaults, name))}."
        for name in sorted(set(vars(PPOConfig())) - works)
        if (value := getattr(config, name)) != getattr(defaults, name)
    ]
    if config.use_kl_loss:
        problems.append("use_kl_loss=True is not supported (the surrogate is clipped); set it to False.")
    if config.policy_mapping_fn is not defaults.policy_mapping_fn:
        problems.append(f"policy_mapping_fn is not supported: all agents share {MODULE_ID!r}; leave it at its default.")
    if set(config.policies) != {MODULE_ID}:
        problems.append(f"policies={set(config.policies)} is not supported: all agents share {MODULE_ID!r}.")
    problems += of_other_kinds(config)
    for callback in [c for c in force_list(config.callbacks_class) if is_callbacks(c)]:
        problems += [
            f"callback {hook} of {getattr(callback, '__name__', callback)} is not supported ({UNCALLED}); remove it."
            for hook in never_called(callback)
        ]
    if problems:
        raise ValueError(" ".join(problems))


def _why_not(name: str) -> str:
    return UNCALLED if name.startswith("callbacks_on_") else WHY_NOT.get(name, "it has no effect on team algorithms")


def check_network(settings: Mapping[str, object], known: Sequence[str]) -> None:
    """Raises ValueError for unknown network settings, which Tune can set without calling `.network()`."""
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"network_settings: {suggestion(unknown[0], known)}")


def check_evaluation(config: TeamConfig) -> None:
    """Raises ValueError for unknown names, out-of-range numbers and settings without effect in `evaluation_config`."""
    check_is_settings("evaluation_config", config.evaluation_config)
    try:
        evaluates = config.get_evaluation_config_object()
        settle_numbers(evaluates)
    except ValueError as problem:
        raise ValueError(f"evaluation_config: {problem}") from problem
    for name, value in with_current_names(dict(config.evaluation_config or {})).items():
        known = config._translate_special_keys(name, warn_deprecated=False)
        if known in vars(config) and known not in IN_EVALUATION and not _is(getattr(config, known), value):
            instead = f", use evaluation_{name} of .evaluation(...)" if name == "num_env_runners" else ""
            raise ValueError(
                f"evaluation_config: {name}={short(value)} has no effect in evaluation{instead}; leave it out. What "
                f"can differ is {', '.join(sorted(IN_EVALUATION))}."
            )


def _is(one: object, other: object) -> bool:
    """Whether two values of a setting are the same."""
    try:
        return one is other or bool(one == other)
    except (TypeError, ValueError):  # arrays
        return False


def check_batch_size(config: TeamConfig, usual: int) -> None:
    """Raises ValueError if batch sizes, number of learners and minibatch size are inconsistent.

    usual: default `train_batch_size`, which counts as not set.
    """
    whole, part, learners = config.train_batch_size, config._train_batch_size_per_learner, max(1, config.num_learners)
    if part is None and whole % learners:
        raise ValueError(
            f"train_batch_size={whole} environment steps cannot be shared equally by num_learners={learners}. Set "
            f"train_batch_size={-(-whole // learners) * learners}."
        )
    if part is not None and whole not in (usual, part * learners):
        raise ValueError(
            f"train_batch_size={whole} and train_batch_size_per_learner={part} (of num_learners={learners}) are given, "
            "and do not agree. Set one of them; train_batch_size_per_learner=None leaves it to train_batch_size."
        )
    share, size = whole // learners if part is None else part, config.minibatch_size
    if isinstance(size, int) and size > share:
        raise ValueError(
            f"minibatch_size={size} environment steps must be at most train_batch_size_per_learner={share}; None takes "
            "the whole batch, 'auto' equal parts of it."
        )


def check_recipe(config: TeamConfig) -> None:
    """Raises ValueError if settings of the update contradict each other or lack one that they need."""
    for name in config.linear_decay:
        if isinstance(rate := getattr(config, name), list | tuple):
            raise ValueError(
                f"{name}='linear' lets a number decay, but {name} is the schedule {rate}; set one of them."
            )
        if not config.total_env_steps:
            raise ValueError(
                f"{name}='linear' decays over the budget of the run: set it with .sharing(total_env_steps=...)."
            )
    if config.policy_loss is not None and not callable(config.policy_loss):
        raise ValueError(f"policy_loss={config.policy_loss!r} must be a function, or None for PPO's clipped loss.")
    if config.recompute_advantages and config.plan().policy.network.critic_recurrent:
        raise ValueError(
            "recompute_advantages=True needs a feed-forward critic: values of a recurrent one are those that env "
            "runners computed. Set critic_recurrent=False."
        )
    if config.recompute_advantages and config.reference:
        raise ValueError("recompute_advantages=True is not part of the published implementation: set reference=False.")


def check_encoder(config: TeamConfig) -> None:
    """Raises ValueError for an encoder that cannot be made or does not fit the observations."""
    policy = config.plan().policy
    name, settings = policy.network.encoder, policy.network.encoder_settings
    if name is not None:
        with torch.random.fork_rng(devices=[]):
            BankEncoder(name, settings, (1, *policy.spec.obs_shape), min(2, policy.owners.num_backbones))


def check_layout(config: TeamConfig) -> None:
    """Raises ValueError if environments, learners, GPUs and batch size are inconsistent."""
    runners, per_runner = max(1, config.num_env_runners), config.num_envs_per_env_runner
    learners, gpus = max(1, config.num_learners), config.num_gpus_per_learner
    if learners > 1 and 0 < gpus <= 0.5:
        raise ValueError(
            f"num_gpus_per_learner={gpus} would put several of num_learners={learners} on one GPU, where they cannot "
            "add up gradients (NCCL wants a GPU for each). Set num_gpus_per_learner=1, or num_learners=1."
        )
    if per_runner % learners:
        fitting = [n for n in range(1, per_runner + 1) if per_runner % n == 0]
        raise ValueError(
            f"num_envs_per_env_runner={per_runner} environments of each env runner cannot be shared equally by "
            f"num_learners={learners}. Set num_learners to one of {fitting}, or change num_envs_per_env_runner."
        )
    envs, batch = runners * per_runner, config.total_train_batch_size
    if config.rollout_fragment_length == "auto" and batch % envs:
        fitting_batch = -(-batch // (envs * learners)) * envs
        raise ValueError(
            f"a train batch of {batch} environment steps is not a whole number of steps of the {envs} environments "
            f"({runners} env runners x {per_runner}). Set train_batch_size_per_learner={fitting_batch}."
        )
    check_chunks(config)


def check_chunks(config: TeamConfig) -> None:
    """Raises ValueError if rollouts of recurrent networks are not whole chunks, or minibatches hold less than one."""
    network, length = config.plan().policy.network, config.chunk_length
    if not (network.recurrent or network.critic_recurrent):
        return
    steps = config.get_rollout_fragment_length()
    if steps % length:
        envs = max(1, config.num_env_runners) * config.num_envs_per_env_runner
        fitting = -(-steps // length) * length * envs // max(1, config.num_learners)
        raise ValueError(
            f"{steps} steps of every environment per iteration cannot be cut into chunks of chunk_length={length}. "
            f"Set train_batch_size_per_learner={fitting}, or another chunk_length."
        )
    size = config.plan().update.minibatch_size
    if size is not None and size < length:
        raise ValueError(
            f"minibatch_size={size} environment steps must hold at least one chunk of chunk_length={length} steps."
        )
