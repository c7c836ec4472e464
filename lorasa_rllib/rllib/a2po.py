"""A2PO as an RLlib algorithm: config, learner and algorithm class. The mathematics is in `learning.a2po`."""

from __future__ import annotations

from typing import Any, Self, get_args

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.utils.annotations import override
from torch import Tensor

from lorasa_rllib.learning import a2po
from lorasa_rllib.learning.a2po.corrections import CORRECTIONS
from lorasa_rllib.learning.a2po.order import ORDERS
from lorasa_rllib.learning.a2po.settings import Loop
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.rllib.algorithm import TeamAlgorithm
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.keywords import knows_its_keywords
from lorasa_rllib.rllib.learner import TeamLearner
from lorasa_rllib.rllib.plan import update_of
from lorasa_rllib.rollout.columns import TeamRollout


class A2POConfig(TeamConfig):
    """Config of A2PO (Wang et al. 2023, arXiv 2302.06205), which updates the agents of a team sequentially.

    config = (
        A2POConfig()
        .environment("mamujoco", env_config={"scenario": "HalfCheetah", "agent_conf": "6x1"})
        .sharing("lora", r=8, total_env_steps=10_000_000, phase_switch=0.2)
    )

    Each step updates one owner: an agent, the agents of a group, or a role. With LoRASA's adapters an epoch costs about
    as much as one of MAPPO. If all agents share the trained weights (PS, the backbone phase), every step changes all
    policies and an epoch costs about N evaluations of the team; `agents_per_step` reduces that.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or A2PO)
        self.critic_input = "agent_state"  # a single value per team would give all agents the same score
        self.target_kl = None  # agents that share weights move each other, so their passes would end at once
        update = a2po.A2POSettings()
        self.agent_order = update.agent_order
        self.agents_per_step = update.units_per_step
        self.update_loop = update.loop
        self.two_stage_critic = update.two_stage
        self.off_policy_correction = update.correction
        self.others_clip = update.others_clip
        self.clip_growth = update.clip_growth

    @override(TeamConfig)
    @knows_its_keywords()
    def training(
        self,
        *,
        agent_order: str = NotProvided,
        agents_per_step: int = NotProvided,
        update_loop: Loop = NotProvided,
        two_stage_critic: bool = NotProvided,
        off_policy_correction: str | None = NotProvided,
        others_clip: float | None = NotProvided,
        clip_growth: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the update's hyperparameters, in addition to those of `TeamConfig.training`. Returns this config.

        The default of `critic_input` is "agent_state" here: per-agent values give per-agent scores.

        Args:
            agent_order: order of updates. "semi_greedy": alternately the remaining agent with the largest mean
                |advantage| and a random one; "greedy", "random", "cyclic" (by index), or "reverse_" followed by one of
                these.
            agents_per_step: agents (groups, roles) updated together. 1 gives the most exact corrections; higher values
                save time in large teams.
            update_loop: "agent": each agent runs all its epochs before the next one starts. "epoch": every epoch
                updates all agents, and advantages are corrected for all of them between epochs.
            two_stage_critic: precede each step of actor and critic by a step of the critic alone.
            off_policy_correction: correction of advantages for the agents already updated. "capped_factors": the ratio
                of each time step is capped at 1 (as in V-trace); "capped_product": the running product is; None: no
                correction.
            others_clip: the product of the other agents' ratios, which multiplies an agent's own ratio, is clipped to
                1 +- others_clip. None: half the agent's clip range.
            minibatch_size: environment steps per optimiser step; each pass of an agent covers the whole batch. If steps
                also change other agents' policies, their ratios are recomputed after the pass. "auto": as for MAPPO,
                equal parts of about 500 over all learners; None: the whole batch.
            clip_growth: the k-th of n updates uses the clip range clip_param * (1 - clip_growth * (1 - k / n)), so
                early ones change less.
        """
        given = dict(locals())
        super().training(**kwargs)
        return self._store(given)

    @override(TeamConfig)
    def update_settings(self, entropy_coeff: float) -> a2po.A2POSettings:
        return update_of(self, a2po.A2POSettings, entropy_coeff)

    @override(TeamConfig)
    def validate(self) -> None:
        """Validates all settings. Raises ValueError that names the setting and the remedy."""
        for name, value, known in (
            ("agent_order", self.agent_order, sorted(ORDERS)),
            ("update_loop", self.update_loop, list(get_args(Loop))),
            ("off_policy_correction", self.off_policy_correction, [*CORRECTIONS, None]),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {known}.")
        if self.compile is True and self.num_learners > 1:
            raise ValueError("compile=True: steps of A2PO with several learners are not compiled. Set compile='auto'.")
        super().validate()

    @override(TeamConfig)
    def get_default_learner_class(self) -> type:
        return A2POLearner


class A2POLearner(TeamLearner):
    """Learner of A2PO, for all sharing methods."""

    @override(TeamLearner)
    def build(self) -> None:
        super().build()
        self._compiler = StepCompiler(self.config.compile) if self.config.compile else None

    @override(TeamLearner)
    def update_policy(self, rollout: TeamRollout, settings: a2po.A2POSettings) -> dict[str, Tensor]:
        return a2po.update(
            self.policy, self.optimisers(), rollout, settings, self._generator, self.all_sum, self._compiler
        )


class A2PO(TeamAlgorithm):
    """The A2PO algorithm. See `A2POConfig`."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> A2POConfig:
        return A2POConfig()
