"""Our side of the benchmarks: a runner and a learner of LoRASA or of the plain shared policy, without starting Ray."""

from __future__ import annotations

from typing import Any

import torch

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.nn.policy import Phase
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.learner import TeamLearner
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import TeamTrainingData


def team_config(scenario: str, agent_conf: str, num_envs: int, train_batch: int = 4000) -> MAPPOConfig:
    """MAPPO with two hidden layers of 64 and five full-batch epochs, as in `stock.stock_ppo_config`."""
    config = MAPPOConfig().environment("mamujoco", env_config={"scenario": scenario, "agent_conf": agent_conf})
    return with_numbers(config, num_envs, train_batch)


def with_numbers(config: TeamConfig, num_envs: int, train_batch: int) -> TeamConfig:
    return (
        config.sharing("lora", phase_switch=0)
        .network("feedforward")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .training(train_batch_size_per_learner=train_batch, num_epochs=5, minibatch_size=None, lambda_=0.93)
        .training(lr=3e-4, grad_clip=10.0, target_kl=None)  # always five epochs
        .debugging(seed=0, log_level="ERROR")
    )


class Team:
    """A runner and a learner in one process. Phase "adapters": LoRASA's second phase; "backbone": the shared policy."""

    def __init__(self, config: TeamConfig, phase: Phase):
        self.config, self.phase = config, phase
        self.runner = TeamEnvRunner(config=config, worker_index=0)
        self.learner: TeamLearner = config.build_learner(spaces=config.spaces())
        self.learner.policy.set_phase(phase)
        with torch.no_grad():  # adapters without effect would be an easy case
            for parameter in self.learner.policy.parameters_of("adapters").values():
                parameter.normal_(std=0.05)
        self.hand_out()

    def hand_out(self) -> None:
        state = self.learner.get_state(components="rl_module", inference_only=True)
        self.runner.set_state({name: state[name] for name in ("rl_module", "weights_seq_no")})

    def sample(self) -> TeamTrainingData:
        return TeamTrainingData(shards=[self.runner.sample()[0].shards])

    def learn(self, data: TeamTrainingData) -> Any:
        """An update. Returns its metrics by module."""
        timesteps = {"num_env_steps_sampled_lifetime": 0}
        return self.learner.update(training_data=data, timesteps=timesteps, phase=self.phase)

    def iteration(self) -> Any:
        """Samples, with the metrics of that, updates, and hands the weights out. Returns the update's metrics."""
        data = self.sample()
        self.runner.get_metrics()
        learned = self.learn(data)
        self.hand_out()
        return learned
