"""TorchRL's PPO on Multi-Agent MuJoCo, following its multi-agent PPO tutorial: one policy and one central critic.

Needs torchrl (`pip install -e ".[bench]" -c constraints.txt`). Settings are those of TorchRL's own PPO on MuJoCo
(`sota-implementations/ppo`): batches of 2,048 environment steps, ten passes of minibatches of 64, a rate of 3e-4 that
decays to 0, gradient norms of at most 0.5, observations normalised by running statistics, two hidden layers of 64 tanh.
Environment, observations and rewards match `benchmarks.stock`. Its one-hot ids are appended here, because nothing else
distinguishes agents in TorchRL's shared networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium_robotics import mamujoco_v1
from pettingzoo.utils import BaseParallelWrapper
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import ExplorationType, PettingZooWrapper, SerialEnv, TransformedEnv, VecNormV2, set_exploration_type
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss, ValueEstimators

ENVS, BATCH, MINIBATCH, EPOCHS, RATE, MAX_NORM = 8, 2048, 64, 10, 3e-4, 0.5
AGENTS = "agents"
OBS, ACTION = (AGENTS, "observation"), (AGENTS, "action")


class WithIds(BaseParallelWrapper):
    """The task with one-hot ids in observations and without infos, which TorchRL's wrapper cannot handle."""

    def __init__(self, task: Any):
        super().__init__(task)
        self._ids = dict(zip(task.possible_agents, np.eye(len(task.possible_agents), dtype=np.float32), strict=True))

    def observation_space(self, agent: str) -> Box:
        return Box(-np.inf, np.inf, (self.env.observation_space(agent).shape[0] + len(self._ids),), np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._with_ids(obs), {agent: {} for agent in obs}

    def step(self, actions: Any) -> tuple[Any, ...]:
        obs, rewards, terminated, truncated, _ = self.env.step(actions)
        return self._with_ids(obs), rewards, terminated, truncated, {agent: {} for agent in obs}

    def _with_ids(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {agent: np.concatenate([x, self._ids[agent]]).astype(np.float32) for agent, x in obs.items()}


class TorchRLPPO:
    """One iteration at a time, see `benchmarks.contestants.Contestant`."""

    def __init__(
        self, scenario: str, agent_conf: str, total_env_steps: int, seed: int, episodes: int, batch: int = BATCH
    ):
        torch.manual_seed(seed)

        def one() -> PettingZooWrapper:
            task = WithIds(mamujoco_v1.parallel_env(scenario, agent_conf, 1))
            return PettingZooWrapper(task, group_map={AGENTS: list(task.possible_agents)}, device="cpu")

        self._one = one
        self._normaliser = VecNormV2(in_keys=[OBS], decay=0.99999, reduce_batch_dims=True)
        env = TransformedEnv(SerialEnv(ENVS, one), self._normaliser)
        env.set_seed(seed)
        space = env.full_action_spec[ACTION].space
        num_agents, size = env.full_action_spec[ACTION].shape[-2:]
        observed = env.observation_spec[OBS].shape[-1]

        def network(outputs: int, central: bool) -> MultiAgentMLP:
            return MultiAgentMLP(
                n_agent_inputs=observed, n_agent_outputs=outputs, n_agents=num_agents, centralized=central,
                share_params=True, depth=2, num_cells=64, activation_class=nn.Tanh,
            )  # fmt: skip

        parameters = nn.Sequential(network(2 * size, central=False), NormalParamExtractor())
        self.actor = ProbabilisticActor(
            module=TensorDictModule(parameters, in_keys=[OBS], out_keys=[(AGENTS, "loc"), (AGENTS, "scale")]),
            spec=env.full_action_spec[ACTION],
            in_keys=[(AGENTS, "loc"), (AGENTS, "scale")],
            out_keys=[ACTION],
            distribution_class=TanhNormal,
            distribution_kwargs={"low": space.low[0], "high": space.high[0]},
            return_log_prob=True,
        )
        critic = TensorDictModule(network(1, central=True), in_keys=[OBS], out_keys=[(AGENTS, "state_value")])
        self.loss = ClipPPOLoss(self.actor, critic, clip_epsilon=0.2, entropy_coeff=0.0, normalize_advantage=True)
        self.loss.set_keys(
            reward=(AGENTS, "reward"), action=ACTION, value=(AGENTS, "state_value"), done=(AGENTS, "done"),
            terminated=(AGENTS, "terminated"), sample_log_prob=(AGENTS, "action_log_prob"),
        )  # fmt: skip
        self.loss.make_value_estimator(ValueEstimators.GAE, gamma=0.99, lmbda=0.95)
        iterations = -(-total_env_steps // batch)
        self._collector = Collector(
            env, self.actor, frames_per_batch=batch, total_frames=iterations * batch, use_buffers=False
        )
        self._batches = iter(self._collector)
        self._buffer = ReplayBuffer(
            storage=LazyTensorStorage(batch), sampler=SamplerWithoutReplacement(), batch_size=MINIBATCH
        )
        self._optimiser = torch.optim.Adam(self.loss.parameters(), RATE, eps=1e-5)
        self._left, self._iterations, self.env_steps, self._episodes = iterations, iterations, 0, episodes

    def train(self) -> int:
        batch = next(self._batches)
        with torch.no_grad():
            self.loss.value_estimator(
                batch, params=self.loss.critic_network_params, target_params=self.loss.target_critic_network_params
            )
        self._buffer.extend(batch.reshape(-1))
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * self._left / self._iterations
        for _ in range(EPOCHS):
            for minibatch in self._buffer:
                losses = self.loss(minibatch)
                loss = losses["loss_objective"] + losses["loss_critic"]
                loss.backward()
                nn.utils.clip_grad_norm_(self.loss.parameters(), MAX_NORM)
                self._optimiser.step()
                self._optimiser.zero_grad()
        self._left -= 1
        self.env_steps += batch.numel()
        return self.env_steps

    @torch.no_grad()
    def greedy(self) -> float:
        env = TransformedEnv(self._one(), self._normaliser.to_observation_norm())
        returns = []
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            for _ in range(self._episodes):
                played = env.rollout(10_000, self.actor)
                returns.append(float(played["next", AGENTS, "reward"][..., 0, 0].sum()))
        env.close()
        return float(np.mean(returns))

    def close(self) -> None:
        self._collector.shutdown()
