"""`TeamConfig`: the settings that MAPPO and A2PO share, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Self

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.utils.annotations import override
from ray.rllib.utils.typing import StateDict

from lorasa_rllib.envs.base import TeamStep
from lorasa_rllib.envs.known_team import KnownTeam
from lorasa_rllib.learning import recipe
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.losses import PolicyLoss
from lorasa_rllib.learning.phases import PhaseSwitch, Schedule
from lorasa_rllib.learning.reference import Quirks
from lorasa_rllib.nn.bank import InitLoRAWeights, LoRAConfig
from lorasa_rllib.nn.critic import CriticInput
from lorasa_rllib.nn.encoder_classes import name_of
from lorasa_rllib.nn.network import PRESETS, NetworkConfig, renamed
from lorasa_rllib.old_names import upgraded, with_current_names
from lorasa_rllib.rllib.describe import describe, summary
from lorasa_rllib.rllib.keywords import knows_its_keywords, whose_setters_know_their_keywords
from lorasa_rllib.rllib.kinds import check_is_settings, check_tables, short
from lorasa_rllib.rllib.module import MODULE_ID, LoRASAModule, map_to_shared_policy
from lorasa_rllib.rllib.plan import Plan, Rate, update_of
from lorasa_rllib.rllib.ranges import check_not_dropped, settle_numbers
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.spaces import row_spaces
from lorasa_rllib.rllib.teams import know, learn_team, team_spec
from lorasa_rllib.rllib.user_envs import GAMES, game_of, is_team_env
from lorasa_rllib.rllib.validation import (
    check_batch_size,
    check_encoder,
    check_evaluation,
    check_inherited_settings,
    check_layout,
    check_network,
    check_recipe,
)
from lorasa_rllib.sharing.methods import AdapterKey, Groups, takes
from lorasa_rllib.spec import TeamSpec
from lorasa_rllib.suggestion import suggestion

if TYPE_CHECKING:
    from lorasa_rllib.rllib.algorithm import TeamAlgorithm

NETWORK = tuple(field.name for field in fields(NetworkConfig))

NO_SETTINGS = ("multiagent", "_enable_new_api_stack")
"""Keys in dictionaries of settings that are not settings; neither are Tune's own keys, which begin with __."""

RoleFunction = Callable[[TeamStep], np.ndarray]
"""Roles [E, N] of the agents at a step: integers, -1 for the plain backbone."""
LinearRate = Rate | Literal["linear"] | tuple[Literal["linear"], float]
"""A rate, or one that decays to 0 over the budget."""


@whose_setters_know_their_keywords
class TeamConfig(PPOConfig):
    """Settings of team algorithms: environment, sharing method, network, and RLlib's own.

    Defaults are the recommended recipe (`learning.recipe`): small minibatches, a learning rate that decays to 0 over
    `total_env_steps` if that is set, observations normalised by running statistics, and a Gaussian head.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        # .environment and .env_runners
        self.known_team: KnownTeam | None = None
        self.env: object = None
        self.env_runner_cls = TeamEnvRunner
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 8
        self.sample_ahead = False
        self.sample_timeout_s = 300.0  # slower runners are terminated; generous, for slow environments
        self.delay_between_env_runner_restarts_s = 1.0
        self.evaluation_duration = 10
        self.policies = {MODULE_ID}
        self.policy_mapping_fn = map_to_shared_policy
        # .sharing
        self.method = "lora"
        self.schedule: Schedule | None = None
        self.total_env_steps: int | None = None
        self.phase_switch: PhaseSwitch = None
        self.adapter_key: AdapterKey | RoleFunction = "agent"
        self.num_adapters: int | None = None
        self.groups: Groups | None = None
        lora = LoRAConfig()
        self.r = lora.r
        self.lora_alpha = lora.lora_alpha
        self.use_rslora = lora.use_rslora
        self.init_lora_weights = lora.init_lora_weights
        self.target_modules: str | Sequence[str] = lora.target_modules
        self.rank_pattern: Mapping[str, int] = lora.rank_pattern
        self.adapt_bias = lora.adapt_bias
        self.adapt_norm = lora.adapt_norm
        self.backbone_lr_scale: float | None = None
        self.adapter_lr_scale: float | None = None
        self.backbone: str | None = None
        self.adapters: str | Mapping[str, str] | None = None
        self.fork_from: str | None = None
        # .network
        self.network_settings: dict[str, object] = {
            "obs_norm": "running", "obs_clip": NetworkConfig.obs_clip, "distribution": "gaussian",
        }  # fmt: skip
        # .training and .learners
        update = MAPPOSettings()
        self.train_batch_size = recipe.BATCH
        self.train_batch_size_per_learner = None
        self.minibatch_size: int | Literal["auto"] | None = "auto"
        self.num_epochs = recipe.NUM_EPOCHS
        self.lr = recipe.LR
        self.lr_is_default = True  # then it decays if `total_env_steps` is set
        self.linear_decay: tuple[str, ...] = ()  # settings given as "linear"
        self.critic_lr: Rate | None = None
        self.gamma = update.gamma
        self.lambda_ = update.lambda_
        self.clip_param = update.clip
        self.vf_clip_param = update.value_clip
        self.vf_loss_coeff = update.value_coeff
        self.vf_active_only = update.value_active_only
        self.huber_delta = update.huber_delta
        self.entropy_coeff = update.entropy_coeff
        self.grad_clip = recipe.GRAD_CLIP
        self.joint_ratio = update.joint_ratio
        self.policy_loss: PolicyLoss | None = None
        self.use_kl_loss = False
        self.target_kl: float | None = recipe.TARGET_KL
        self.recompute_advantages = update.recompute_advantages
        self.critic_input: CriticInput | None = None
        self.chunk_length = update.chunk_length
        self.obs_norm_in_adapter_phase = update.obs_norm_in_adapter_phase
        self.adam_epsilon = 1e-5
        self.compile: bool | Literal["auto"] = "auto"
        self.reference: bool | Quirks = False
        self.learner_threads: int | None = None
        self.trial_name: str | None = None  # set by studies that run several trials

    @override(PPOConfig)
    def environment(
        self, env: object = NotProvided, *, env_config: Mapping[str, object] = NotProvided, **kwargs: Any
    ) -> Self:  # type: ignore[override]
        """Sets the environment. Returns this config.

        Args:
            env: a key of `envs.registry.ENVIRONMENTS`, or a `VectorTeamEnv` class. Or an RLlib or PettingZoo
                environment, which is stored as "pettingzoo" with `env_config={"env": ...}`: a class or function that
                builds it, a name registered with `ray.tune.register_env`, a module or "module:name".
            env_config: settings of the environment. A `MultiAgentEnv` class, or a function with one argument, receives
                them as one dictionary; anything else as keyword arguments.
        """
        if env_config is not NotProvided and not isinstance(env_config, Mapping):
            raise ValueError(f"env_config={env_config!r} must be a dictionary of the environment's settings.")
        if env is not NotProvided and env != self.env and self.env == GAMES:
            self.env_config.pop("env", None)  # belongs to the previous environment
        super().environment(env, env_config=env_config, **kwargs)
        if self.env is not None and not is_team_env(self.env):
            if "env" in self.env_config:
                raise ValueError(
                    f"env_config has a setting 'env', but the environment is {self.env!r} already; give that setting "
                    "another name, or hand over a function that sets it."
                )
            self.env_config["env"] = game_of(self.env)
            self.env = GAMES
        return self

    @override(PPOConfig)
    def build_algo(self, env: object = None, use_copy: bool = True) -> TeamAlgorithm:
        """Builds the algorithm. env: see `environment`."""
        if env is not None:
            self.environment(env)
        return super().build_algo(use_copy=use_copy)

    @knows_its_keywords()
    def sharing(
        self,
        method: str = NotProvided,
        *,
        schedule: Schedule | None = NotProvided,
        total_env_steps: int | None = NotProvided,
        phase_switch: PhaseSwitch = NotProvided,
        adapter_key: AdapterKey | RoleFunction = NotProvided,
        num_adapters: int | None = NotProvided,
        groups: Groups | None = NotProvided,
        r: int = NotProvided,
        lora_alpha: float = NotProvided,
        use_rslora: bool = NotProvided,
        init_lora_weights: InitLoRAWeights = NotProvided,
        target_modules: str | Sequence[str] = NotProvided,
        rank_pattern: Mapping[str, int] = NotProvided,
        adapt_bias: bool = NotProvided,
        adapt_norm: bool = NotProvided,
        backbone_lr_scale: float | None = NotProvided,
        adapter_lr_scale: float | None = NotProvided,
        backbone: str | None = NotProvided,
        adapters: str | Mapping[str, str] | None = NotProvided,
        fork_from: str | None = NotProvided,
    ) -> Self:
        """Sets how agents share weights. Returns this config.

        Args:
            method: a key of `lorasa_rllib.sharing.methods.METHODS`. "ps": one policy. "nps": an actor and a critic per
                agent. "mtl": one trunk, a head per agent. "seps": an actor per group of agents. "lora": LoRASA, one
                backbone and an adapter per agent. "seps_lora": a backbone per group and adapters.
            schedule: "two_phase": the backbone trains first, then is frozen while the adapters train. "joint": both
                train from the start. None: "two_phase" if `total_env_steps` or `phase_switch` is set, else "joint".
            total_env_steps: budget of the run, summed over environments. Required by "linear" rates, and by two-phase
                training unless `phase_switch` is a number of steps; if set, the default learning rate decays over it.
                Does not stop the run (use `stop=` of Tune).
            phase_switch: environment steps (int) or fraction of the budget (float) after which the adapter phase
                begins, or "auto": once the return rises at less than half its fastest rate (`learning.auto_switch`).
                None: after 0.3 of the budget.
            adapter_key: which adapter a row uses. "agent": one per agent. "role": that of the agent's role (unit type
                ...), an integer that the environment returns at every step; -1 and roles beyond the bank use the plain
                backbone. A table, as a sequence or by agent name: adapter indices from 0, equal for agents that share
                one. A function from `TeamStep` to integers [E, N]: custom roles; needs `num_adapters`.
            num_adapters: size of the adapter bank; None: as many as the agents, roles or table use.
            groups: groups for SePS, an index from 0 per agent, as a sequence in the team's order or by name. None:
                found from a random rollout when the algorithm is built; checkpoints store them.
            r: adapter rank. Higher ranks give agents more freedom; adapter parameters grow in proportion.
            lora_alpha: adapter outputs are scaled by lora_alpha / r.
            use_rslora: scale by lora_alpha / sqrt(r) instead.
            init_lora_weights: "peft" or "lorasa", which factor is initialised to zero. See `nn.bank.LoRAConfig`.
            target_modules: patterns of the layers to adapt.
            rank_pattern: ranks of layers that match a pattern, instead of `r`.
            adapt_bias, adapt_norm: also adapt biases, or gains and offsets of LayerNorms. Not as published.
            backbone_lr_scale: learning rate of the backbone as a multiple of `lr`. None: 0.5 in joint training with
                adapters, so that a step of both together is as long as one of a shared or separate policy; else 1.
            adapter_lr_scale: learning rate of the adapters as a multiple of `lr`. None: 3 in two-phase training, where
                the adapters alone must change the policy, and that of the backbone in joint training.
            backbone: path (or URI, s3://...) of a checkpoint of this package or a policy's files, whose backbone,
                critic and normalisers initialise this run; with `phase_switch=0` training starts in the adapter phase.
                Files without a critic initialise the actor only, and may be from a smaller team.
            adapters: what the adapters are initialised from: a checkpoint or a policy's files, matched by name; or
                name -> folder of one adapter, such as {"scout": "policy/adapters/front"}. Others start with no effect.
                Adapters must train from the start: `phase_switch=0` or joint.
            fork_from: path (or URI) of a checkpoint of a run with the same settings that this run continues, including
                counters and optimisers; only settings that take effect later, such as `phase_switch`, may differ.
        """
        return self._store(locals())

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
        return self._store({"sample_ahead": sample_ahead})

    @override(PPOConfig)
    @knows_its_keywords()
    def learners(self, *, learner_threads: int | None = NotProvided, **kwargs: Any) -> Self:  # type: ignore[override]
        """Sets RLlib's learner settings and `learner_threads`. Returns this config.

        Args:
            learner_threads: torch threads in an update. None: one, as env runners and learners share the cores; but a
                local learner without any remote env runner uses one per 4,096 rows of an optimiser step, at most the
                cores of its process (`OMP_NUM_THREADS`, in Tune the trial's CPUs).
        """
        resources = kwargs.get("custom_resources_per_learner", {})
        if not isinstance(resources, Mapping):
            raise ValueError(
                f"custom_resources_per_learner={short(resources)} must be a dictionary of amounts by resource."
            )
        super().learners(**kwargs)
        return self._store({"learner_threads": learner_threads})

    @override(PPOConfig)
    @knows_its_keywords()
    def evaluation(self, *, evaluation_config: Mapping[str, object] | None = NotProvided, **kwargs: Any) -> Self:  # type: ignore[override]
        """Sets RLlib's evaluation settings. Returns this config.

        Args:
            evaluation_config: settings that differ in evaluation, by name: `explore` (False, greedy, by default),
                `env_config` and the others of `validation.IN_EVALUATION`. Added to those given before; None: none.
        """
        if evaluation_config is not NotProvided:
            check_is_settings("evaluation_config", evaluation_config)
        return super().evaluation(evaluation_config=evaluation_config, **kwargs)

    @knows_its_keywords(*NETWORK, "feature_norm")  # its name in older versions
    def network(self, preset: str | None = None, **settings: Any) -> Self:
        """Sets the architecture of actor and critic: fields of `nn.network.NetworkConfig`. Returns this config.

        The default of `obs_norm` is "running" here, that of `distribution` is "gaussian".

        Args:
            preset: a key of `nn.network.PRESETS`, such as "published"; `settings` override its fields.
            settings: fields of `NetworkConfig`. `encoder` may also be a class, a subclass of `torch.nn.Module`.
        """
        if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
            raise ValueError(f"network preset {preset!r} is unknown; choose one of {sorted(PRESETS)}.")
        named = {} if preset is None else PRESETS[preset]
        name_of(settings.get("encoder"))
        kept = renamed(self.network_settings)
        if "encoder" in settings:  # settings of the previous one
            kept.pop("encoder_settings", None)
        self.network_settings = {**kept, **named, **renamed(settings)}
        return self

    @override(PPOConfig)
    @knows_its_keywords()
    def training(
        self,
        *,
        critic_input: CriticInput | None = NotProvided,
        huber_delta: float | None = NotProvided,
        joint_ratio: bool = NotProvided,
        policy_loss: PolicyLoss | None = NotProvided,
        vf_active_only: bool = NotProvided,
        chunk_length: int = NotProvided,
        obs_norm_in_adapter_phase: bool = NotProvided,
        reference: bool | Quirks = NotProvided,
        critic_lr: LinearRate | None = NotProvided,
        recompute_advantages: bool = NotProvided,
        target_kl: float | None = NotProvided,
        adam_epsilon: float = NotProvided,
        compile: bool | Literal["auto"] = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the update's hyperparameters; RLlib's (`lr`, `gamma`, `clip_param` ...) as in PPO. Returns this config.

        Args:
            critic_input: "state": one value per environment step (needs a shared reward); "agent_state": one per agent,
                from the global state and the agent's id. None: "state" if possible.
            huber_delta: value errors beyond this count linearly; None: squared error.
            joint_ratio: clip the ratio of an agent's whole action instead of one ratio per action dimension.
            policy_loss: a policy loss of your own, see `learning.losses.PolicyLoss`: a function of the distribution of
                actions, the rows (`LossRows`: ratios, advantages ...) and the settings, which returns the loss of every
                row. None: PPO's clipped loss. Steps with a loss of your own are not compiled.
            vf_active_only: exclude dead agents from the value loss and normaliser (critics with a value per agent). By
                default they are included, as published; policy loss and advantage statistics always exclude them.
            chunk_length: length of the sequences that recurrent networks are trained on, in environment steps.
            obs_norm_in_adapter_phase: keep updating the actor's running observation statistics
                (`.network(obs_norm="running")`) in the adapter phase. False: they are frozen with the backbone, which
                was trained on them.
            reference: True reproduces all quirks of the published implementation; `Quirks(...)`
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
                update_loop="epoch", of all agents). 0.01 to 0.05 are usual. None, A2PO's default: always `num_epochs`
                passes.
            adam_epsilon: epsilon of all Adam optimisers.
            compile: run optimiser steps as one compiled graph, about four times faster for small minibatches, about
                twice for recurrent networks. Needs a CPU and a C++ compiler. Not compiled: adapters by role,
                reference=True, sequences of more than 20 steps (`chunk_length`), an encoder or a loss of your own, and
                in A2PO several learners, or agents of several owners updated together (`agents_per_step`). "auto":
                compiles in the background after some seconds of optimiser steps, uses the graph once it is ready, and
                caches it on disk for other trials and later runs; logs the reason if steps cannot be compiled. True:
                waits for the graph, and raises if steps cannot be compiled. False: never. On one GPU, steps of MAPPO
                and A2PO are recorded once as CUDA graphs and replayed, recurrent ones too; False: they are not.
            vf_clip_param: clip range of MAPPO's value loss, in normalised units; None: no clipping.
            grad_clip: maximum gradient norm per owner (backbone, each adapter, critic); None: no limit.
            train_batch_size: environment steps per iteration, summed over environments and learners.
            train_batch_size_per_learner: environment steps per iteration and learner, instead of `train_batch_size`.
            minibatch_size: environment steps (each with all its agents) per optimiser step of a learner. "auto": equal
                parts of the batch, about 500 steps over all learners; None: the whole batch.
        """
        given = dict(locals())
        for name in ("vf_clip_param", "grad_clip", "minibatch_size"):  # None means "off" here; RLlib would ignore it
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        if {"train_batch_size", "train_batch_size_per_learner"} & set(kwargs):  # the last call wins
            self.train_batch_size, self.train_batch_size_per_learner = recipe.BATCH, None
        for name in ("lr", "entropy_coeff"):
            if name in kwargs:
                kwargs[name] = self._decaying(name, kwargs[name])
        super().training(**kwargs)
        return self._store({**given, "critic_lr": self._decaying("critic_lr", critic_lr)})

    @override(PPOConfig)
    def update_from_dict(self, config_dict: Mapping[str, object]) -> Self:
        """Sets settings by name, as Tune and `evaluation_config` give them. Raises ValueError for unknown names."""
        if not isinstance(config_dict, Mapping | AlgorithmConfig):  # RLlib also passes configs, which have items()
            raise ValueError(f"{short(config_dict)} must be a dictionary of settings by name.")
        config_dict = with_current_names({str(name): value for name, value in config_dict.items()})
        check_is_settings("evaluation_config", config_dict.get("evaluation_config"))
        for name in config_dict:
            if name.startswith("__") or name in NO_SETTINGS:
                continue
            if not hasattr(self, self._translate_special_keys(name, warn_deprecated=False)):
                settings = [known for known in vars(self) if not known.startswith("_")]
                raise ValueError(suggestion(name, settings))
        if "lr" in config_dict and "linear_decay" not in config_dict:
            self._decaying("lr", config_dict["lr"])  # as in `training`
        if "env" not in config_dict:
            return super().update_from_dict(config_dict)
        rest = {name: value for name, value in config_dict.items() if name != "env"}
        return super().update_from_dict(rest).environment(config_dict["env"])

    @override(PPOConfig)
    def get_state(self) -> StateDict:
        """State from which `from_state` restores this config; algorithms are built from such a copy.

        Raises ValueError for numbers set to -1, which RLlib would drop.
        """
        check_not_dropped(vars(self))
        return super().get_state()

    @classmethod
    @override(PPOConfig)
    def from_state(cls, state: Mapping[str, object]) -> Self:
        """Restores a config from `get_state` of this or an older version."""
        return super().from_state(upgraded(state))

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(upgraded(state))

    # Values derived from the settings

    def describe(self) -> str:
        """A readable summary of the settings and what follows from them: team, owners, phases, sizes, steps.

        Raises ValueError if no environment is set or the settings are invalid.
        """
        return describe(self)

    def __repr__(self) -> str:
        return summary(self)

    def plan(self) -> Plan:
        """What follows from the settings. The algorithm, each env runner and each learner resolve it once, when built.

        Raises ValueError for settings that contradict the team or each other.
        """
        return Plan.of(self)

    def team_spec(self) -> TeamSpec:
        """The team of the configured environment.

        Determined once, by building and closing a copy of the environment if necessary, and stored with this config and
        its copies, so that all processes use the same order of agents. Determined again if the environment changes.
        """
        return team_spec(self)

    @property
    def needs_groups(self) -> bool:
        """Whether the sharing method needs groups and none are set."""
        return self.groups is None and "groups" in takes(self.method)

    def with_one_group(self) -> Self:
        """A copy in which all agents form one group, in place of groups that are not known yet."""
        return self.copy(copy_frozen=False).sharing(groups=dict.fromkeys(self.team_spec().agents, 0))

    def spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Spaces in RLlib's format, for example for `build_learner(spaces=...)`."""
        spec = self.team_spec()
        observation, action = row_spaces(spec)
        observations = gym.spaces.Dict(dict.fromkeys(spec.agents, observation))
        every = observations, gym.spaces.Dict(dict.fromkeys(spec.agents, action))
        return {INPUT_ENV_SPACES: every, INPUT_ENV_SINGLE_SPACES: every, MODULE_ID: (observation, action)}

    def update_settings(self, entropy_coeff: float) -> MAPPOSettings:
        """Settings of an update, under the names of the mathematics."""
        return update_of(self, MAPPOSettings, entropy_coeff)

    def decays(self, name: str = "lr") -> bool:
        """Whether a setting decays linearly to 0 over `total_env_steps`."""
        usual = name == "lr" and self.lr_is_default and self.total_env_steps is not None
        return name in self.linear_decay or (usual and not isinstance(self.lr, list | tuple))

    def _decaying(self, name: str, given: object) -> object:
        """The value to store for `name`; "linear" and ("linear", value) also record it in `linear_decay`."""
        if given is NotProvided:
            return given
        value, linear = given, isinstance(given, str) and given == "linear"
        if linear:
            value = getattr(self, name)
        elif isinstance(given, list | tuple) and len(given) == 2 and given[0] == "linear":
            value, linear = given[1], True
        others = tuple(other for other in self.linear_decay if other != name)
        self.linear_decay = (*others, name) if linear else others
        self.lr_is_default = self.lr_is_default and name != "lr"
        return value

    def _store(self, given: Mapping[str, object]) -> Self:
        """Stores the arguments of a setter that were given, each as the attribute of its name, as RLlib does."""
        for name, value in given.items():
            if value is not NotProvided and name not in ("self", "kwargs", "__class__"):
                setattr(self, name, value)
        return self

    # RLlib's hooks

    @override(PPOConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        observation, action = row_spaces(self.team_spec())
        return RLModuleSpec(
            module_class=LoRASAModule,
            observation_space=observation,
            action_space=action,
            model_config=self.plan().policy.to_dict(),
        )

    @override(PPOConfig)
    def validate(self) -> None:
        """Validates all settings. Raises ValueError that names the setting and the remedy."""
        if not self._validate_config:
            return
        check_tables(self)
        settle_numbers(self)
        if self.env is not None and not is_team_env(self.env):
            self.environment(self.env)
        if self.needs_groups and self.env is not None:  # validate the rest with placeholder groups
            return self.with_one_group().validate()
        check_network(self.network_settings, NETWORK)
        check_inherited_settings(self, defaults=type(self)())
        check_batch_size(self, usual=recipe.BATCH)
        super().validate()
        if self.env is None:
            raise ValueError('no environment is set. Call .environment("mamujoco", env_config={...}).')
        schedule = self.plan().schedule
        if self.adapters is not None and schedule.begins_plain:
            raise ValueError(
                "adapters= would have no effect until the switch, and then change the policy at once. Set "
                "phase_switch=0 to start in the adapter phase, or schedule='joint'."
            )
        check_recipe(self)
        if not self.in_evaluation:
            check_encoder(self)
            if self.sample_ahead and not self.num_env_runners:
                raise ValueError("sample_ahead=True needs remote env runners: set num_env_runners to 1 or more.")
            check_layout(self)
            check_evaluation(self)

    @override(PPOConfig)
    def get_evaluation_config_object(self) -> Any:
        """Config of evaluation: greedy unless `evaluation_config` sets `explore`; same agents, matched by name."""
        config = super().get_evaluation_config_object()
        if config is not None and self.env is not None:
            know(config, learn_team(self).moved_to(config.env, config.env_config))
        if config is not None and "explore" not in (self.evaluation_config or {}):
            config.explore = False
        return config
