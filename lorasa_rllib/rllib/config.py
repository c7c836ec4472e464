"""`TeamConfig`: the settings that MAPPO and A2PO share, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.utils.annotations import override

from lorasa_rllib.learning import recipe
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.quirks import Quirks, quirks_of
from lorasa_rllib.nn.network import PRESETS, NetworkConfig, renamed
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.rllib.describe import describe, summary
from lorasa_rllib.rllib.keywords import knows_its_keywords, suggestion
from lorasa_rllib.rllib.module import MODULE_ID, LoRASAModule, map_to_shared_policy
from lorasa_rllib.rllib.ranges import check_not_dropped, settle_numbers
from lorasa_rllib.rllib.sharing_config import SharingConfig
from lorasa_rllib.rllib.spaces import row_spaces
from lorasa_rllib.rllib.user_envs import is_team_env
from lorasa_rllib.rllib.validation import (
    check_batch_size,
    check_evaluation,
    check_inherited_settings,
    check_layout,
    check_network,
    check_recipe,
)

NETWORK = tuple(field.name for field in fields(NetworkConfig))

NO_SETTINGS = ("multiagent", "_enable_new_api_stack")
"""Keys in dictionaries of settings that are not settings; neither are Tune's own keys, which begin with __."""
WITH_BUDGET = "lr?"
"""Entry of `linear_decay` until a learning rate is set: the default rate decays if the budget is known."""


class TeamConfig(SharingConfig):
    """Settings of team algorithms: environment, sharing method, network, and RLlib's own.

    Defaults are the recommended recipe (`learning.recipe`): small minibatches, a learning rate that decays to 0 over
    `total_env_steps` if that is set, and observations normalised by running statistics.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        from lorasa_rllib.rllib.runner import TeamEnvRunner

        self.env_runner_cls = TeamEnvRunner
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 8
        self.train_batch_size = recipe.BATCH
        self.train_batch_size_per_learner = None
        self.minibatch_size: int | str | None = "auto"
        self.num_epochs = recipe.NUM_EPOCHS
        self.lr = recipe.LR
        self.gamma = recipe.GAMMA
        self.lambda_ = recipe.LAMBDA
        self.clip_param = 0.2
        self.vf_clip_param = 0.2
        self.vf_loss_coeff = 1.0
        self.entropy_coeff = 0.0
        self.grad_clip = recipe.GRAD_CLIP
        self.use_kl_loss = False
        self.policies = {MODULE_ID}
        self.policy_mapping_fn = map_to_shared_policy
        self.evaluation_duration = 10

        self.network_settings: dict[str, Any] = {"obs_norm": "running"}
        self.critic_input: str | None = None
        self.huber_delta: float | None = 10.0
        self.joint_ratio = False
        self.vf_active_only = False
        self.chunk_length = 10
        self.obs_norm_in_adapter_phase = False
        self.reference: bool | Quirks = False
        self.critic_lr: Any = None
        self.linear_decay: tuple[str, ...] = (WITH_BUDGET,)
        self.recompute_advantages = False
        self.target_kl: float | None = None
        self.adam_epsilon = 1e-5
        self.compile: bool | str = "auto"
        self.learner_threads: int | None = None
        self.sample_ahead = False
        self.sample_timeout_s = 300.0  # slower runners are terminated; generous, for slow environments
        self.delay_between_env_runner_restarts_s = 1.0
        self.trial_name: str | None = None  # set by studies that run several trials

    @override(PPOConfig)
    @knows_its_keywords()
    def env_runners(self, *, sample_ahead: bool = NotProvided, **kwargs: Any) -> Self:  # type: ignore[override]
        """Sets RLlib's env runner settings and `sample_ahead`. Returns this config.

        Args:
            sample_ahead: env runners sample the next round while learners update on the last one, so that neither
                waits for the other. The sampling policy is then one update older; the probability ratios account
                for that like for any other policy change.
        """
        for name in ("num_envs_per_env_runner", "rollout_fragment_length"):  # checked in `validate`
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        super().env_runners(**kwargs)
        return self._store(sample_ahead=sample_ahead)

    @override(PPOConfig)
    @knows_its_keywords()
    def learners(self, *, learner_threads: int | None = NotProvided, **kwargs: Any) -> Self:  # type: ignore[override]
        """Sets RLlib's learner settings and `learner_threads`. Returns this config.

        Args:
            learner_threads: torch threads in an update. None: one, as env runners and learners share the cores; but a
                local learner without any remote env runner uses one per 4,096 rows of an optimiser step, at most the
                cores of its process (`OMP_NUM_THREADS`, in Tune the trial's CPUs).
        """
        super().learners(**kwargs)
        return self._store(learner_threads=learner_threads)

    @knows_its_keywords(*NETWORK, "feature_norm")  # its name in older versions
    def network(self, preset: str | None = None, **settings: Any) -> Self:
        """Sets the architecture of actor and critic: fields of `nn.network.NetworkConfig`. Returns this config.

        The default of `obs_norm` is "running" here.

        Args:
            preset: a key of `nn.network.PRESETS`, such as "published"; `settings` override its fields.
        """
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"network preset {preset!r} is unknown; choose one of {sorted(PRESETS)}.")
        named = {} if preset is None else PRESETS[preset]
        return self._store(network_settings={**renamed(self.network_settings), **named, **renamed(settings)})

    @override(PPOConfig)
    @knows_its_keywords()
    def training(
        self,
        *,
        critic_input: str | None = NotProvided,
        huber_delta: float | None = NotProvided,
        joint_ratio: bool = NotProvided,
        vf_active_only: bool = NotProvided,
        chunk_length: int = NotProvided,
        obs_norm_in_adapter_phase: bool = NotProvided,
        reference: bool | Quirks = NotProvided,
        critic_lr: Any = NotProvided,
        recompute_advantages: bool = NotProvided,
        target_kl: float | None = NotProvided,
        adam_epsilon: float = NotProvided,
        compile: bool | str = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the update's hyperparameters; RLlib's (`lr`, `gamma`, `clip_param` ...) as in PPO. Returns this config.

        Args:
            critic_input: "state": one value per environment step (needs a shared reward); "agent_state": one per agent,
                from the global state and the agent's id. None: "state" if possible.
            huber_delta: value errors beyond this count linearly; None: squared error.
            joint_ratio: clip the ratio of an agent's whole action instead of one ratio per action dimension.
            vf_active_only: exclude dead agents from the value loss and normaliser (critics with a value per agent). By
                default they are included, as published; policy loss and advantage statistics always exclude them.
            chunk_length: length of the sequences that recurrent networks are trained on, in environment steps.
            obs_norm_in_adapter_phase: keep updating the actor's running observation statistics
                (`.network(obs_norm="running")`) in the adapter phase. False: they are frozen with the backbone, which
                was trained on them.
            reference: True reproduces all quirks of the published implementation; `learning.quirks.Quirks(...)`
                selects some.
            lr: learning rate, or RLlib's schedule [[env steps, rate], ...]. ("linear", rate): decays to 0 over the
                `total_env_steps` of `.sharing(...)`. "linear": the current rate decays that way. The default rate
                decays if `total_env_steps` is set.
            critic_lr: learning rate of the critic, in the forms of `lr`; None: same as `lr`.
            entropy_coeff: weight of the entropy bonus, in the forms of `lr`.
            recompute_advantages: recompute values, returns and advantages with the current critic before every pass
                but the first (A2PO: before every pass of an agent). Costs a forward pass of the critic over the batch
                each time; not available for recurrent critics.
            target_kl: stop passing over the batch once the KL divergence between the rollout's policy and the current
                one, averaged over a pass, exceeds this (A2PO: ends the passes of that agent; with
                update_loop="epoch", of all agents). 0.01 to 0.05 are usual. None: always `num_epochs` passes.
            adam_epsilon: epsilon of all Adam optimisers.
            compile: run optimiser steps as one compiled graph, about four times faster for small minibatches. Only for
                feed-forward MAPPO on a CPU with a C++ compiler, without adapters by role or reference=True. "auto":
                compiles in the background after some seconds of optimiser steps, uses the graph once it is ready, and
                caches it on disk for other trials and later runs; logs the reason if steps cannot be compiled. True:
                waits for the graph, and raises if steps cannot be compiled. False: never.
            vf_clip_param: clip range of MAPPO's value loss, in normalised units; None: no clipping.
            grad_clip: maximum gradient norm per owner (backbone, each adapter, critic); None: no limit.
            train_batch_size: environment steps per iteration, summed over environments and learners.
            train_batch_size_per_learner: environment steps per iteration and learner, instead of `train_batch_size`.
            minibatch_size: environment steps (each with all its agents) per optimiser step of a learner. "auto": equal
                parts of the batch, about 500 steps over all learners; None: the whole batch.
        """
        for name in ("vf_clip_param", "grad_clip", "minibatch_size"):  # None means "off" here; RLlib would ignore it
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        if {"train_batch_size", "train_batch_size_per_learner"} & set(kwargs):  # the last call wins
            self.train_batch_size, self.train_batch_size_per_learner = recipe.BATCH, None
        for name in ("lr", "entropy_coeff"):
            if name in kwargs:
                kwargs[name] = self._decaying(name, kwargs[name])
        super().training(**kwargs)
        return self._store(
            critic_input=critic_input,
            huber_delta=huber_delta,
            joint_ratio=joint_ratio,
            vf_active_only=vf_active_only,
            chunk_length=chunk_length,
            obs_norm_in_adapter_phase=obs_norm_in_adapter_phase,
            reference=reference,
            critic_lr=self._decaying("critic_lr", critic_lr),
            recompute_advantages=recompute_advantages,
            target_kl=target_kl,
            adam_epsilon=adam_epsilon,
            compile=compile,
        )

    @override(PPOConfig)
    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """Sets settings by name, as Tune and `evaluation_config` give them. Raises ValueError for unknown names."""
        for name, _ in config_dict.items():  # RLlib also passes configs: not iterable, but with items()
            if name.startswith("__") or name in NO_SETTINGS:
                continue
            if not hasattr(self, self._translate_special_keys(name, warn_deprecated=False)):
                settings = [known for known in vars(self) if not known.startswith("_")]
                raise ValueError(suggestion(name, settings))
        if "lr" in config_dict.keys() and "linear_decay" not in config_dict.keys():  # noqa: SIM118 - also of configs
            self._decaying("lr", config_dict["lr"])  # as in `training`
        if "env" not in config_dict:
            return super().update_from_dict(config_dict)
        rest = {name: value for name, value in config_dict.items() if name != "env"}
        return super().update_from_dict(rest).environment(config_dict["env"])

    @override(PPOConfig)
    def get_state(self) -> dict[str, Any]:
        """State from which `from_state` restores this config; algorithms are built from such a copy.

        Raises ValueError for numbers set to -1, which RLlib would drop.
        """
        check_not_dropped(vars(self))
        return super().get_state()

    @classmethod
    @override(PPOConfig)
    def from_state(cls, state: Mapping[str, Any]) -> Any:
        """Restores a config from `get_state`. States of older versions without `linear_decay` have no decay."""
        return super().from_state({"linear_decay": (), **state})

    # Values derived from the settings

    def describe(self) -> str:
        """A readable summary of the settings and what follows from them: team, owners, phases, sizes, steps.

        Raises ValueError if no environment is set or the settings are invalid.
        """
        return describe(self)

    def __repr__(self) -> str:
        return summary(self)

    def policy_config(self) -> PolicyConfig:
        """The complete specification of the policy."""
        spec, owners = self.team_spec(), self.owners()
        team_value = spec.shared_reward and owners.num_critics == 1 and not spec.state_per_agent
        critic_input = self.critic_input or ("state" if team_value else "agent_state")
        network, fresh = NetworkConfig.from_dict(self.network_settings), quirks_of(self.reference).narrow_fresh_norm
        return PolicyConfig(spec, owners, self.lora(), network, critic_input, 0.1 if fresh else 1.0)  # type: ignore[arg-type]

    def row_spaces(self) -> tuple[gym.Space, gym.Space]:
        """Observation and action space of a single row, padded to the largest agent."""
        return row_spaces(self.team_spec())

    def spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Spaces in RLlib's format, for example for `build_learner(spaces=...)`."""
        observation, action = self.row_spaces()
        agents = self.team_spec().agents
        every = gym.spaces.Dict(dict.fromkeys(agents, observation)), gym.spaces.Dict(dict.fromkeys(agents, action))
        return {INPUT_ENV_SPACES: every, INPUT_ENV_SINGLE_SPACES: every, MODULE_ID: (observation, action)}

    def update_settings(self, entropy_coeff: float) -> MAPPOSettings:
        """Hyperparameters of one update. entropy_coeff: the current value of its schedule."""
        return MAPPOSettings(**self._numbers(entropy_coeff))

    def _numbers(self, entropy_coeff: float) -> dict[str, Any]:
        return dict(
            gamma=self.gamma,
            lambda_=self.lambda_,
            clip=self.clip_param,
            value_clip=self.vf_clip_param,
            value_coeff=self.vf_loss_coeff,
            huber_delta=self.huber_delta,
            entropy_coeff=float(entropy_coeff),
            max_grad_norm=self.grad_clip,
            joint_ratio=self.joint_ratio,
            value_active_only=self.vf_active_only,
            chunk_length=self.chunk_length,
            obs_norm_in_adapter_phase=self.obs_norm_in_adapter_phase,
            quirks=quirks_of(self.reference),
            num_epochs=self.num_epochs,
            minibatch_size=self.minibatch_steps,
            recompute_advantages=self.recompute_advantages,
            target_kl=self.target_kl,
        )

    @property
    def minibatch_steps(self) -> int | None:
        """`minibatch_size` with "auto" resolved; None: the whole batch."""
        if self.minibatch_size != "auto":
            return self.minibatch_size  # type: ignore[return-value]
        network, learners = NetworkConfig.from_dict(self.network_settings), max(1, self.num_learners)
        length = self.chunk_length if network.recurrent or network.critic_recurrent else 1
        return recipe.minibatch_of(self.total_train_batch_size // learners, learners, length)

    def learning_rates(self) -> dict[str, Any]:
        """Learning rate, or RLlib schedule, of every optimiser."""
        usual = 1.0 if self.schedule() == "joint" else 3.0
        scale = usual if self.adapter_lr_scale is None else self.adapter_lr_scale
        lr = self._scheduled("lr", self.lr)
        critic = lr
        if self.critic_lr is not None or "critic_lr" in self.linear_decay:
            critic = self._scheduled("critic_lr", self.lr if self.critic_lr is None else self.critic_lr)
        adapters = [[step, scale * rate] for step, rate in lr] if isinstance(lr, list | tuple) else scale * lr
        return {
            "backbone": lr,
            "adapters": adapters,
            "critic": critic,
        }

    def entropy_schedule(self) -> Any:
        """Weight of the entropy bonus, or its RLlib schedule."""
        return self._scheduled("entropy_coeff", self.entropy_coeff)

    def _decaying(self, name: str, given: Any) -> Any:
        """The value to store for `name`; "linear" and ("linear", value) also record it in `linear_decay`."""
        if given is NotProvided:
            return given
        value, linear = given, isinstance(given, str) and given == "linear"
        if linear:
            value = getattr(self, name)
        elif isinstance(given, list | tuple) and len(given) == 2 and given[0] == "linear":
            value, linear = given[1], True
        others = tuple(other for other in self.linear_decay if other.rstrip("?") != name)
        self.linear_decay = (*others, name) if linear else others
        return value

    def _scheduled(self, name: str, value: Any) -> Any:
        """`value`, or its RLlib schedule in environment steps if the setting `name` decays."""
        return [[0, value], [self.total_env_steps, 0.0]] if self.decays(name) else value

    def decays(self, name: str = "lr") -> bool:
        """Whether a setting decays linearly to 0 over `total_env_steps`."""
        usual = name == "lr" and WITH_BUDGET in self.linear_decay and self.total_env_steps is not None
        return name in self.linear_decay or (usual and not isinstance(self.lr, list | tuple))

    # RLlib's hooks

    @override(PPOConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        observation, action = self.row_spaces()
        return RLModuleSpec(
            module_class=LoRASAModule,
            observation_space=observation,
            action_space=action,
            model_config=self.policy_config().to_dict(),
        )

    @override(PPOConfig)
    def validate(self) -> None:
        """Validates all settings. Raises ValueError that names the setting and the remedy."""
        if not self._validate_config:
            return
        settle_numbers(self)
        if self.env is not None and not is_team_env(self.env):
            self.environment(self.env)
        if self.needs_groups and self.env is not None:  # validate the rest with placeholder groups
            one_group = dict.fromkeys(self.team_spec().agents, 0)
            return self.copy(copy_frozen=False).sharing(groups=one_group).validate()
        check_network(self.network_settings, NETWORK)
        check_inherited_settings(self, defaults=type(self)())
        check_batch_size(self, usual=recipe.BATCH)
        super().validate()
        if self.env is None:
            raise ValueError('no environment is set. Call .environment("mamujoco", env_config={...}).')
        self.policy_config()
        schedule = self.phase_schedule()
        if self.adapter_files is not None and schedule.begins_plain:
            raise ValueError(
                "adapters= would have no effect until the switch, and then change the policy at once. Set "
                "phase_switch=0 to start in the adapter phase, or schedule='joint'."
            )
        check_recipe(self)
        if not self.in_evaluation:
            if self.sample_ahead and not self.num_env_runners:
                raise ValueError("sample_ahead=True needs remote env runners: set num_env_runners to 1 or more.")
            check_layout(self)
            check_evaluation(self)

    @override(PPOConfig)
    def get_evaluation_config_object(self) -> Any:
        """Config of evaluation: greedy unless `evaluation_config` sets `explore`; same agents, matched by name."""
        config = super().get_evaluation_config_object()
        if config is not None and self.env is not None:
            config._know(self.learn_team().moved_to(config.env, config.env_config))
        if config is not None and "explore" not in (self.evaluation_config or {}):
            config.explore = False
        return config
