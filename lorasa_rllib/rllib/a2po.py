"""A2PO as an RLlib algorithm: its settings, its learner and its name. The mathematics is in `learning.a2po`."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.utils.annotations import override
from torch import Tensor

from lorasa_rllib.learning import a2po
from lorasa_rllib.learning.agent_order import ORDERS
from lorasa_rllib.learning.trace import CORRECTIONS
from lorasa_rllib.rllib.algorithm import TeamAlgorithm
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.keywords import knows_its_keywords
from lorasa_rllib.rllib.learner import TeamLearner

LOOPS = ("agent", "epoch")


class A2POConfig(TeamConfig):
    """A2PO (Wang et al. 2023, arXiv 2302.06205) for teams that share a policy: agents are updated one after the other.

    config = (
        A2POConfig()
        .environment("mamujoco", env_config={"scenario": "HalfCheetah", "agent_conf": "6x1"})
        .sharing("lora", r=8, total_env_steps=10_000_000, phase_switch=0.2)
    )

    What moves in one step is an owner: an agent, the agents of a group, or a role. With LoRASA's adapters an epoch
    costs about as much as one of MAPPO's. Where all agents share what trains (PS, the backbone phase), every step moves
    everybody, and an epoch costs about N evaluations of the team; `agents_per_step` shortens it.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or A2PO)
        self.critic_input = "agent_state"  # one value for the whole team would score all agents alike
        self.agent_order = "semi_greedy"
        self.agents_per_step = 1
        self.update_loop = "agent"
        self.two_stage_critic = True
        self.off_policy_correction: str | None = "capped_factors"
        self.others_clip: float | None = 0.1
        self.clip_growth = 0.5

    @override(TeamConfig)
    @knows_its_keywords()
    def training(
        self,
        *,
        agent_order: str = NotProvided,
        agents_per_step: int = NotProvided,
        update_loop: str = NotProvided,
        two_stage_critic: bool = NotProvided,
        off_policy_correction: str | None = NotProvided,
        others_clip: float | None = NotProvided,
        clip_growth: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Numbers of the update, beside those of `TeamConfig.training`. Returns this config.

        Unlike there, `critic_input` is "agent_state" by default: values tell agents apart, and so do scores.

        Args:
            agent_order: who goes first. "semi_greedy": in turns the one with the largest mean |advantage| left, and
                anyone; "greedy", "random", "cyclic" (as numbered), or "reverse_" and one of these.
            agents_per_step: agents (groups, roles) that move together. 1 corrects best; large teams save time.
            update_loop: "agent": one agent takes all its epochs, then the next. "epoch": every epoch goes through all
                agents, and advantages are corrected for everybody in between.
            two_stage_critic: before each step of actor and critic, one of the critic alone.
            off_policy_correction: of advantages, for agents that moved before. "capped_factors": each step's ratio
                is capped at 1 (as in V-trace); "capped_product": the running product is; None: no correction.
            others_clip: the product of the others' ratios, which weighs an agent's own, is kept within 1 +- this. None:
                half the agent's clip range.
            minibatch_size: environment steps per optimiser step; each pass of an agent goes through all of them. Where
                steps also move other agents, their ratios are brought up to date after the pass. "auto": as there,
                None: all at once.
            clip_growth: agent k of n is clipped at clip_param * (1 - clip_growth * (1 - k / n)): early ones move less.
        """
        super().training(**kwargs)
        return self._store(
            agent_order=agent_order,
            agents_per_step=agents_per_step,
            update_loop=update_loop,
            two_stage_critic=two_stage_critic,
            off_policy_correction=off_policy_correction,
            others_clip=others_clip,
            clip_growth=clip_growth,
        )

    @override(TeamConfig)
    def update_settings(self, entropy_coeff: float) -> a2po.A2POSettings:
        return a2po.A2POSettings(
            **self._numbers(entropy_coeff),
            agent_order=self.agent_order,
            units_per_step=self.agents_per_step,
            loop=self.update_loop,  # type: ignore[arg-type]
            two_stage=self.two_stage_critic,
            correction=self.off_policy_correction,
            others_clip=self.others_clip,
            clip_growth=self.clip_growth,
            late=self.sample_ahead,
        )

    @override(TeamConfig)
    def validate(self) -> None:
        """Judges all settings together. Raises ValueError that names the setting and what to do."""
        for name, value, known in (
            ("agent_order", self.agent_order, sorted(ORDERS)),
            ("update_loop", self.update_loop, list(LOOPS)),
            ("off_policy_correction", self.off_policy_correction, [*CORRECTIONS, None]),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {known}.")
        if self.compile is True:
            raise ValueError("compile=True: steps of A2PO are not compiled. Leave it at 'auto', or use MAPPO.")
        super().validate()

    @override(TeamConfig)
    def get_default_learner_class(self) -> type:
        return A2POLearner


class A2POLearner(TeamLearner):
    """A2PO for every sharing method."""

    @override(TeamLearner)
    def update_policy(self, rollout: Any, settings: Any) -> dict[str, Tensor]:
        return a2po.update(self.policy, self.optimisers(), rollout, settings, self._generator, self.all_sum)


class A2PO(TeamAlgorithm):
    """A2PO on teams that share a policy. See `A2POConfig`."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> A2POConfig:
        return A2POConfig()
