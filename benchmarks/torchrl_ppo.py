"""TorchRL's multi-agent PPO, following its tutorial: one policy and one central critic, which reads all observations.

Needs torchrl (`pip install -e ".[bench]" -c constraints.txt`). Environments are in `torchrl_tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import EnvBase
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss, ValueEstimators

AGENTS = "agents"
OBS, ACTION = (AGENTS, "observation"), (AGENTS, "action")


@dataclass(frozen=True)
class Numbers:
    """Settings of the training loop. The defaults are TorchRL's own for MuJoCo (`sota-implementations/ppo`).

    batch, minibatch: environment steps per iteration and per optimiser step. iterations: over which the rate decays
    linearly to 0; None: it stays. max_norm: of gradients. hidden: width of both hidden layers (tanh).
    """

    batch: int = 2048
    minibatch: int = 64
    epochs: int = 10
    rate: float = 3e-4
    iterations: int | None = None
    max_norm: float = 0.5
    hidden: int = 64
    gamma: float = 0.99
    lambda_: float = 0.95
    entropy: float = 0.0
    normalise_advantage: bool = True


class TorchRLPPO:
    """One iteration at a time on `env`, whose agents are in the group "agents".

    loss: mean over the optimiser steps of the last iteration. optimiser_steps, env_steps: so far.
    """

    def __init__(self, env: EnvBase, numbers: Numbers):
        self._numbers, self._done = numbers, 0
        space = env.full_action_spec[ACTION].space
        num_agents, size = env.full_action_spec[ACTION].shape[-2:]
        observed = env.observation_spec[OBS].shape[-1]

        def network(outputs: int, central: bool) -> MultiAgentMLP:
            return MultiAgentMLP(
                n_agent_inputs=observed, n_agent_outputs=outputs, n_agents=num_agents, centralized=central,
                share_params=True, depth=2, num_cells=numbers.hidden, activation_class=nn.Tanh,
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
        self._loss = ClipPPOLoss(
            self.actor, critic, clip_epsilon=0.2, entropy_coeff=numbers.entropy,
            normalize_advantage=numbers.normalise_advantage,
        )  # fmt: skip
        self._loss.set_keys(
            reward=(AGENTS, "reward"), action=ACTION, value=(AGENTS, "state_value"), done=(AGENTS, "done"),
            terminated=(AGENTS, "terminated"), sample_log_prob=(AGENTS, "action_log_prob"),
        )  # fmt: skip
        self._loss.make_value_estimator(ValueEstimators.GAE, gamma=numbers.gamma, lmbda=numbers.lambda_)
        self._collector = Collector(env, self.actor, frames_per_batch=numbers.batch, total_frames=-1, use_buffers=False)
        self._batches = iter(self._collector)
        self._buffer = ReplayBuffer(
            storage=LazyTensorStorage(numbers.batch), sampler=SamplerWithoutReplacement(), batch_size=numbers.minibatch
        )
        self._optimiser = torch.optim.Adam(self._loss.parameters(), numbers.rate, eps=1e-5)
        self.env_steps = self.optimiser_steps = 0
        self.loss = 0.0

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self._loss.parameters())

    def train(self) -> int:
        """Runs one iteration. Returns the environment steps so far."""
        batch = next(self._batches)
        _ends_of_agents(batch)
        with torch.no_grad():
            self._loss.value_estimator(
                batch, params=self._loss.critic_network_params, target_params=self._loss.target_critic_network_params
            )
        self._buffer.extend(batch.reshape(-1))
        numbers = self._numbers
        if numbers.iterations is not None:
            for group in self._optimiser.param_groups:
                group["lr"] = numbers.rate * max(0.0, 1 - self._done / numbers.iterations)
        seen = []
        for _ in range(numbers.epochs):
            for minibatch in self._buffer:
                losses = self._loss(minibatch)
                loss = losses["loss_objective"] + losses["loss_critic"]
                if numbers.entropy:
                    loss = loss + losses["loss_entropy"]
                loss.backward()
                nn.utils.clip_grad_norm_(self._loss.parameters(), numbers.max_norm)
                self._optimiser.step()
                self._optimiser.zero_grad()
                seen.append(loss.detach())
        self._done += 1
        self.loss = float(torch.stack(seen).mean())
        self.optimiser_steps += len(seen)
        self.env_steps += batch.numel()
        return self.env_steps

    def close(self) -> None:
        self._collector.shutdown()


def _ends_of_agents(batch: TensorDictBase) -> None:
    """Gives every agent the ends of its environment, where the environment has no ends of agents."""
    for name in ("done", "terminated"):
        if ("next", AGENTS, name) not in batch.keys(True):
            rewards = batch["next", AGENTS, "reward"]
            batch["next", AGENTS, name] = batch["next", name].unsqueeze(-1).expand(rewards.shape)
