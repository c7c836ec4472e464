"""MAPPO as an RLlib algorithm: config, learner and algorithm class. The mathematics is in `learning.mappo`."""

from __future__ import annotations

from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.utils.annotations import override
from torch import Tensor

from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.rllib.algorithm import TeamAlgorithm
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.learner import TeamLearner
from lorasa_rllib.rollout.columns import TeamRollout


class MAPPOConfig(TeamConfig):
    """Config of MAPPO (Yu et al. 2022, arXiv 2103.01955) for teams that share a policy.

    config = (
        MAPPOConfig()
        .environment("mamujoco", env_config={"scenario": "HalfCheetah", "agent_conf": "6x1"})
        .sharing("lora", r=8, total_env_steps=10_000_000, phase_switch=0.2)
    )
    algo = config.build_algo()
    algo.train()
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or MAPPO)

    @override(TeamConfig)
    def get_default_learner_class(self) -> type:
        return MAPPOLearner


class MAPPOLearner(TeamLearner):
    """Learner of MAPPO, for all sharing methods."""

    @override(TeamLearner)
    def build(self) -> None:
        super().build()
        self._compiler = StepCompiler(self.config.compile) if self.config.compile else None

    @override(TeamLearner)
    def update_policy(self, rollout: TeamRollout, settings: MAPPOSettings) -> dict[str, Tensor]:
        return mappo.update(
            self.policy, self.optimisers(), rollout, settings, self._generator, self.all_sum, self._compiler
        )


class MAPPO(TeamAlgorithm):
    """The MAPPO algorithm. See `MAPPOConfig`."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> MAPPOConfig:
        return MAPPOConfig()
