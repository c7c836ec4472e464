"""Converts options to trials: one config per scenario, method and seed."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from lorasa_rllib.learning.phases import DEFAULT_SHARE
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.rllib.a2po import A2POConfig
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.methods import BLOCKS, PLACEMENTS, key_of_blocks, method_of
from lorasa_rllib.studies.options import in_files
from lorasa_rllib.studies.overrides import CONFIGS, check_methods, override
from lorasa_rllib.studies.presets import preset_of
from lorasa_rllib.studies.suites import SUITES

EVALUATIONS, APART = 25, 20
"""Default number of greedy evaluations per run, and the least number of iterations between two: ten episodes of 1,000
steps take about as long as two iterations, so evaluations take at most a tenth of the time."""

SMOKE_BATCH = 200
"""Training batch of --smoke trials, in environment steps."""


@dataclass(frozen=True)
class TrialName:
    """Identifies a trial within a study."""

    scenario: str
    obs: str
    algorithm: str
    method: str
    seed: int

    def __str__(self) -> str:
        return in_files(f"{self.scenario}_{self.method}_seed{self.seed}")


def trials(options: StudyOptions) -> dict[TrialName, TeamConfig]:
    """Validated configs of all trials. Raises ValueError for invalid settings before anything starts."""
    named = {}
    check_methods(options.settings, {name: method_of(name) for name in options.methods})
    for scenario in options.scenarios:
        obs = observed(options, scenario)
        for method in options.methods:
            for seed in options.seeds:
                config = config_of(options, scenario, method, seed)
                config.copy(copy_frozen=False).validate()
                named[TrialName(scenario, obs, options.algorithm, method, seed)] = config
    return named


def observed(options: StudyOptions, scenario: str) -> str:
    """Kind of observations, for tables."""
    return SUITES[options.suite].observed(environment_of(options, scenario)[1])


def environment_of(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
    """Registered name and `env_config` of a scenario, including the settings of --env-set."""
    suite = SUITES[options.suite]
    if chosen := sorted(set(suite.named) & set(options.env_settings)):
        raise ValueError(f"--env-set {chosen[0]}: the scenario says so; choose with --{suite.option}.")
    env, env_config = suite.environment(options, scenario)
    return env, env_config | options.env_settings


def config_of(options: StudyOptions, scenario: str, method: str, seed: int) -> TeamConfig:
    """The config of a trial: the scenario's preset with one method and seed."""
    suite, preset = SUITES[options.suite], preset_of(options.suite, scenario, options.preset)
    arm = method_of(method)
    learners, runners = max(1, options.num_learners), max(1, options.num_env_runners)
    envs = options.num_envs or max(1, preset.num_envs // runners)
    batch = SMOKE_BATCH if options.smoke else preset.train_batch_size
    network = options.network or preset.network
    config = CONFIGS[options.algorithm]()
    config.network(network, id_features=options.id_features)
    override(config, options.settings)  # needed for values derived below, and applied again at the end
    recurrent = config.network_settings.get("recurrent", False)
    whole = runners * envs * (config.chunk_length if recurrent else 1)  # whole steps, or chunks, of all environments
    batch = -(-batch // whole) * whole
    if isinstance(config, A2POConfig):
        config.training(
            off_policy_correction=preset.correction,
            update_loop=preset.update_loop,
            two_stage_critic=preset.two_stage,
        )
    else:
        config.training(target_kl=preset.target_kl)
    env, env_config = environment_of(options, scenario)
    episodes = 2 if options.smoke else suite.episodes
    config = (
        config.environment(env, env_config=env_config)
        .sharing(arm.sharing, **sharing_settings(options, scenario, method, config))
        .training(
            lr=("linear", preset.lr) if preset.lr_decay else preset.lr,
            gamma=preset.gamma,
            lambda_=preset.lambda_,
            num_epochs=options.num_epochs or preset.num_epochs,
            minibatch_size=preset.minibatch_size and min(preset.minibatch_size, batch) // learners,
            grad_clip=preset.grad_clip,
            entropy_coeff=preset.entropy_coeff,
            train_batch_size_per_learner=batch // learners,
        )
        .env_runners(
            num_env_runners=options.num_env_runners,
            sample_ahead=options.sample_ahead,
            num_envs_per_env_runner=envs,
        )
        .learners(num_learners=options.num_learners, num_gpus_per_learner=options.num_gpus_per_learner)
        .evaluation(
            evaluation_duration=episodes,
            evaluation_config={"num_envs_per_env_runner": evaluation_envs(options, envs, episodes)},
        )
        .debugging(seed=seed, log_level="ERROR")
    )
    override(config, options.settings)
    iterations = -(-options.total_env_steps // config.total_train_batch_size)
    return config.evaluation(evaluation_interval=options.evaluation_interval or evaluation_interval(iterations))


def evaluation_interval(iterations: int) -> int:
    """Iterations between greedy evaluations of a run, so that the last one is close to the end."""
    return iterations // max(1, min(EVALUATIONS, iterations // APART)) or 1


def sharing_settings(options: StudyOptions, scenario: str, method: str, config: TeamConfig) -> dict[str, Any]:
    """Arguments of `TeamConfig.sharing` for one method; the method's take precedence, then options, then the preset."""
    arm, preset = method_of(method), preset_of(options.suite, scenario, options.preset)
    r = arm.settings.get("r", options.r)
    own = dict(arm.settings)
    if options.smoke:
        own.pop("phase_switch", None)  # chosen for a longer run
    if own.get("target_modules") in PLACEMENTS.values():  # placements name layers that only some networks have
        layers = NetworkConfig.from_dict(config.network_settings).layers()
        own["target_modules"] = tuple(p for p in own["target_modules"] if any(fnmatch(layer, p) for layer in layers))
    if (blocks := own.pop(BLOCKS, None)) is not None:
        own["adapter_key"] = key_of_blocks(blocks, config.team_spec().num_agents)
    scale = preset.adapter_lr_scale if options.adapter_lr_scale is None else options.adapter_lr_scale
    return {
        "schedule": arm.schedule,
        "adapter_key": arm.adapter_key,
        "r": r,
        "lora_alpha": r if options.lora_alpha is None else options.lora_alpha,
        "init_lora_weights": options.init_lora_weights,
        "backbone_lr_scale": preset.backbone_lr_scale,
        "adapter_lr_scale": scale,
        "total_env_steps": options.total_env_steps,
        "phase_switch": switch_of(options, scenario),
    } | own


def evaluation_envs(options: StudyOptions, envs: int, episodes: int) -> int:
    """Number of evaluation environments. SMAX compiles for each number; each StarCraft game is a process."""
    return episodes if options.suite == "mamujoco" else min(envs, episodes) if options.suite == "smac" else envs


def switch_of(options: StudyOptions, scenario: str) -> int | float | str:
    """The phase switch: from the options, else the published step if within the budget, else the default share."""
    if options.phase_switch is not None:
        return options.phase_switch
    published = preset_of(options.suite, scenario, options.preset).switch
    if published is not None and published < options.total_env_steps:
        return published
    return DEFAULT_SHARE
