"""What follows from the settings of a config, resolved once: `TeamConfig.plan()`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from lorasa_rllib.learning import recipe
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.losses import clipped_policy_loss
from lorasa_rllib.learning.phases import PhaseSchedule, Schedule, usual_schedule
from lorasa_rllib.learning.reference import absent_forget, fresh_norm_std, rules_of
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.encoder_classes import learn as learn_encoder
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.sharing.methods import owners_of
from lorasa_rllib.spec import Owners, TeamSpec

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

Rate = float | list[list[float]]
"""A number, or RLlib's schedule [[environment steps, number], ...]."""

TWO_PHASE_SCALE, JOINT_SCALE = 3.0, 0.5
"""Default multiples of `lr`: of adapters that alone must change the policy, and of each of backbone and adapters where
they train together (on average over agents the two gradients agree, so that their steps add up)."""


@dataclass(frozen=True)
class Plan:
    """Everything that the algorithm, env runners and learners derive from a config.

    policy:        team spec, owners, adapters and network.
    schedule:      when the adapter phase begins.
    update:        settings of an update, with the initial weight of the entropy bonus.
    rates:         learning rate of each optimiser: "backbone", "adapters", "critic".
    entropy_coeff: weight of the entropy bonus.
    """

    policy: PolicyConfig
    schedule: PhaseSchedule
    update: MAPPOSettings
    rates: dict[str, Rate]
    entropy_coeff: Rate

    @property
    def spec(self) -> TeamSpec:
        return self.policy.spec

    @property
    def owners(self) -> Owners:
        return self.policy.owners

    @classmethod
    def of(cls, config: TeamConfig) -> Plan:
        """Resolves the settings of a config. Raises ValueError for settings that contradict the team or each other."""
        owners = owners_of_team(config)
        schedule = PhaseSchedule(
            kind_of_schedule(config), config.total_env_steps, config.phase_switch, has_adapters=owners.num_adapters > 0
        )
        entropy_coeff = scheduled(config, "entropy_coeff", config.entropy_coeff)
        initial = entropy_coeff[0][1] if isinstance(entropy_coeff, list) else entropy_coeff
        return cls(
            policy_of(config, owners), schedule, config.update_settings(initial), rates(config, schedule), entropy_coeff
        )


def owners_of_team(config: TeamConfig) -> Owners:
    """The owner table of the sharing method."""
    key = "role" if callable(config.adapter_key) else config.adapter_key
    return owners_of(
        config.method,
        config.team_spec(),
        adapter_key=None if key == "agent" else key,
        num_adapters=config.num_adapters,
        groups=config.groups,
    )


def policy_of(config: TeamConfig, owners: Owners) -> PolicyConfig:
    """The complete specification of the policy."""
    spec, network = config.team_spec(), network_of(config)
    team_value = spec.shared_reward and owners.num_critics == 1 and not spec.state_per_agent
    critic_input = config.critic_input or ("state" if team_value else "agent_state")
    return PolicyConfig(
        spec,
        owners,
        lora_of(config),
        network,
        critic_input,
        fresh_norm_std(config.reference),
        absent_forget(config.reference),
    )


def network_of(config: TeamConfig) -> NetworkConfig:
    """The architecture. Imports an encoder that is given by name."""
    network = NetworkConfig.from_dict(config.network_settings)
    learn_encoder(network.encoder)
    return network


def lora_of(config: TeamConfig) -> LoRAConfig:
    """Rank, scale and placement of the adapters."""
    given = {field.name: getattr(config, field.name) for field in fields(LoRAConfig)}
    targets = config.target_modules
    given["target_modules"] = (targets,) if isinstance(targets, str) else tuple(targets)
    given["rank_pattern"] = dict(config.rank_pattern)
    return LoRAConfig(**given)


NAMES = {
    "clip": "clip_param",
    "value_clip": "vf_clip_param",
    "value_coeff": "vf_loss_coeff",
    "value_active_only": "vf_active_only",
    "max_grad_norm": "grad_clip",
    "units_per_step": "agents_per_step",
    "loop": "update_loop",
    "two_stage": "two_stage_critic",
    "correction": "off_policy_correction",
    "late": "sample_ahead",
    "rules": "reference",
}
"""Field of the update's settings, by the word of the mathematics -> setting of a config, where they differ."""

Update = TypeVar("Update", bound=MAPPOSettings)


def update_of(config: TeamConfig, kind: type[Update], entropy_coeff: float) -> Update:
    """The settings of an update with this weight of the entropy bonus."""
    given = {field.name: getattr(config, NAMES.get(field.name, field.name)) for field in fields(kind)}
    given |= {
        "entropy_coeff": entropy_coeff,
        "minibatch_size": minibatch_steps(config),
        "policy_loss": config.policy_loss or clipped_policy_loss,
        "rules": rules_of(config.reference),
    }
    return kind(**given)


def kind_of_schedule(config: TeamConfig) -> Schedule:
    """The schedule that was set, or the default one."""
    return config.schedule or usual_schedule(config.total_env_steps, config.phase_switch)


def minibatch_steps(config: TeamConfig) -> int | None:
    """`minibatch_size` with "auto" resolved; None: the whole batch."""
    if config.minibatch_size != "auto":
        return config.minibatch_size
    network, learners = network_of(config), max(1, config.num_learners)
    length = config.chunk_length if network.recurrent or network.critic_recurrent else 1
    return recipe.minibatch_of(config.total_train_batch_size // learners, learners, length)


def rates(config: TeamConfig, schedule: PhaseSchedule) -> dict[str, Rate]:
    """Learning rate of every optimiser."""
    joint = schedule.schedule == "joint" and schedule.has_adapters
    backbone, adapters = config.backbone_lr_scale, config.adapter_lr_scale
    if backbone is None:
        backbone = JOINT_SCALE if joint else 1.0
    if adapters is None:
        adapters = backbone if joint else TWO_PHASE_SCALE
    lr = critic = scheduled(config, "lr", config.lr)
    if config.critic_lr is not None or "critic_lr" in config.linear_decay:
        critic = scheduled(config, "critic_lr", config.lr if config.critic_lr is None else config.critic_lr)
    return {"backbone": times(backbone, lr), "adapters": times(adapters, lr), "critic": critic}


def times(scale: float, rate: Rate) -> Rate:
    """A multiple of a rate or schedule."""
    return [[step, scale * at] for step, at in rate] if isinstance(rate, list | tuple) else scale * rate


def scheduled(config: TeamConfig, name: str, value: Rate) -> Rate:
    """`value` of the setting `name`, or its schedule in environment steps if it decays."""
    if not config.decays(name) or isinstance(value, list):
        return value
    return [[0, value], [config.total_env_steps or 0, 0.0]]
