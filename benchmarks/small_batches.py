"""What does an optimiser step on few rows cost? Run through `learning_step.py --small`; needs torch but not Ray.

Compared   plain torch | ours with one shared policy | ours with LoRASA trained jointly, and both compiled: MAPPO's
           optimiser step on minibatches of 64 and of 500 environment steps. "Plain" is implemented below for one shared
           policy: the same networks and loss, all parameters views of one flat vector, with Adam and clipping on that
           vector. Then recurrent updates in chunks of 16 and of 128 steps
Method     HalfCheetah 2x3: two agents, local observations, two hidden layers of 64; 2,000 environment steps (4,000 for
           minibatches of 500) of random numbers; whole updates divided by their steps, so that ours includes advantages
           and statistics; one thread; alternating; median and range. Recurrent: GRUs of 64 in actor and critic, 32,768
           environment steps of 128 environments, one pass in one minibatch
Run        python benchmarks/learning_step.py --small [--json FILE]          about 2 minutes, more to compile at first
Expect     at most 1.3 times plain torch for one shared policy, 1.6 times for joint LoRASA; compiled 0.35 and 0.5 times;
           time per row of long chunks within 1.2 times that of short ones
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import alternate, report, spread
from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.sharing.methods import owners_of
from lorasa_rllib.spec import TeamSpec

AGENTS, OBS, STATE, ACTIONS, HIDDEN, ENVS = 2, 12, 17, 3, 64, 8
EPOCHS, RATE, CLIP, VALUE_CLIP, HUBER, MAX_NORM = 4, 3e-4, 0.2, 0.2, 10.0, 0.5
CASES = ((64, 2048), (500, 4000))
"""Environment steps of a minibatch, and of a rollout."""


class PlainActor(nn.Module):
    """Observations with a one-hot agent id -> mean and deviation of a squashed Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(OBS)
        self.first, self.second = nn.Linear(OBS + AGENTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))
        self.head, self.log_std = nn.Linear(HIDDEN, ACTIONS), nn.Parameter(torch.ones(ACTIONS))

    def forward(self, obs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.norm(obs), ids.expand(*obs.shape[:-1], -1)], -1)
        x = self.norms[0](torch.relu(self.first(x)))
        x = self.norms[1](torch.relu(self.second(x)))
        return self.head(x), 0.5 * torch.sigmoid(self.log_std)


def plain_critic() -> nn.Module:
    hidden = [nn.Linear(STATE, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN)]
    hidden += [nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN)]
    return nn.Sequential(nn.LayerNorm(STATE), *hidden, nn.Linear(HIDDEN, 1))


class Plain:
    """Straightforward PPO in torch for one shared policy, on one flat vector of parameters."""

    def __init__(self, minibatch: int, rollout: TeamRollout):
        torch.manual_seed(0)
        self.actor, self.critic = PlainActor(), plain_critic()
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.split = sum(p.numel() for p in self.actor.parameters())
        self.flat = torch.cat([p.detach().flatten() for p in parameters])
        self.grad, self.first, self.second = (torch.zeros_like(self.flat) for _ in range(3))
        for p, values, grad in zip(
            parameters, self._parts(parameters, self.flat), self._parts(parameters, self.grad), strict=True
        ):
            p.data, p.grad = values, grad
        self.steps, self.minibatch, self.ids = 0, minibatch, torch.eye(AGENTS)
        rows = {name: getattr(rollout, name).flatten(0, 1) for name in ("obs", "actions", "log_probs", "active")}
        size = len(rows["obs"])
        columns = {"state": rollout.state[:-1].flatten(0, 1), "advantages": torch.randn(size, AGENTS)}
        self.columns = [*rows.values(), *columns.values(), torch.randn(size, 1), torch.randn(size, 1)]

    @staticmethod
    def _parts(parameters: list[nn.Parameter], flat: Tensor) -> list[Tensor]:
        parts = flat.split([p.numel() for p in parameters])
        return [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]

    def __call__(self) -> None:
        """Four passes over all rows."""
        size = len(self.columns[0])
        for _ in range(EPOCHS):
            for index in torch.randperm(size)[: size - size % self.minibatch].split(self.minibatch):
                self.step(*(column[index] for column in self.columns))

    def step(
        self,
        obs: Tensor,
        actions: Tensor,
        log_probs: Tensor,
        active: Tensor,
        state: Tensor,
        advantages: Tensor,
        old_values: Tensor,
        targets: Tensor,
    ) -> None:
        mean, std = self.actor(obs, self.ids)
        u = torch.atanh(actions.clamp(-1 + 1e-6, 1 - 1e-6))
        gaussian = -0.5 * ((u - mean) / std).square() - torch.log(std) - 0.919
        new = gaussian - torch.log(1 - actions.square() + 1e-6)
        ratio, gain = (new - log_probs).exp(), advantages.unsqueeze(-1)
        surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).sum(-1)
        policy_loss = -(surrogate * active).sum() / active.sum()
        values = self.critic(state)
        clipped = old_values + (values - old_values).clamp(-VALUE_CLIP, VALUE_CLIP)
        errors = [F.huber_loss(v, targets, reduction="none", delta=HUBER) for v in (values, clipped)]
        loss = policy_loss + torch.maximum(*errors).mean()
        self.grad.zero_()
        loss.backward()
        with torch.no_grad():
            self.adam()

    def adam(self) -> None:
        for part in self.grad.split([self.split, len(self.grad) - self.split]):
            part.mul_((MAX_NORM / (part.norm() + 1e-6)).clamp(max=1))
        self.steps += 1
        self.first.lerp_(self.grad, 0.1)
        self.second.mul_(0.999).addcmul_(self.grad, self.grad, value=0.001)
        root = self.second.sqrt().div_((1 - 0.999**self.steps) ** 0.5).add_(1e-5)
        self.flat.addcdiv_(self.first, root, value=-RATE / (1 - 0.9**self.steps))


class Ours:
    """Repeats our update of a sharing method on the same rollout."""

    def __init__(self, method: str, minibatch: int, rollout: TeamRollout, compiled: bool = False):
        spec = team()
        torch.manual_seed(0)
        network = NetworkConfig(hidden_size=HIDDEN, num_layers=2)
        self.compiler = StepCompiler(True) if compiled else None
        self.policy = TeamPolicy(PolicyConfig(spec, owners_of(method, spec), network=network))
        if method == "lora":
            self.policy.set_phase("joint")
        groups = {group: self.policy.parameters_of(group).values() for group in ("backbone", "adapters", "critic")}
        self.optimisers = {group: OwnerAdam(params, lr=RATE) for group, params in groups.items() if params}
        self.settings = MAPPOSettings(num_epochs=EPOCHS, minibatch_size=minibatch, max_grad_norm=MAX_NORM)
        self.rollout, self.generator = rollout, torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.policy.parameters_of("adapters").values():
                parameter.normal_(std=0.05)
            actions = self.policy.distribution(rollout.obs)
            self.rollout.log_probs = actions.log_prob(rollout.actions)

    def __call__(self) -> None:
        args = self.policy, self.optimisers, self.rollout, self.settings, self.generator
        self.log = mappo.update(*args, compiler=self.compiler)


class Recurrent:
    """An update of recurrent networks: one pass, in chunks of a given length. minibatch: None for the whole batch."""

    def __init__(
        self, chunk: int, envs: int = 128, steps: int = 256, minibatch: int | None = None, compiled: bool = False
    ):
        spec = team()
        torch.manual_seed(0)
        network = NetworkConfig(hidden_size=HIDDEN, num_layers=1, recurrent=True, critic_recurrent=True)
        self.policy = TeamPolicy(PolicyConfig(spec, owners_of("ps", spec), network=network))
        groups = {group: self.policy.parameters_of(group).values() for group in ("backbone", "critic")}
        self.optimisers = {group: OwnerAdam(params, lr=RATE) for group, params in groups.items()}
        self.settings = MAPPOSettings(
            num_epochs=1, chunk_length=chunk, minibatch_size=minibatch, max_grad_norm=MAX_NORM
        )
        self.compiler = StepCompiler(True) if compiled else None
        self.rollout = random_rollout(steps * envs, envs)
        self.rollout.actor_state = torch.zeros(steps // chunk, envs, AGENTS, HIDDEN)
        self.rollout.critic_state = torch.zeros(steps // chunk, envs, 1, HIDDEN)
        self.rollout.values, self.rollout.final_values = torch.randn(steps + 1, envs, 1), torch.zeros(0, 1)
        self.generator = torch.Generator().manual_seed(0)
        self.rows = steps * envs * AGENTS

    def __call__(self) -> None:
        args = self.policy, self.optimisers, self.rollout, self.settings, self.generator
        mappo.update(*args, compiler=self.compiler)


def team() -> TeamSpec:
    return TeamSpec(
        agents=tuple(f"agent_{n}" for n in range(AGENTS)),
        obs_sizes=(OBS,) * AGENTS,
        action_kind="continuous",
        action_sizes=(ACTIONS,) * AGENTS,
        action_low=((-1.0,) * ACTIONS,) * AGENTS,
        action_high=((1.0,) * ACTIONS,) * AGENTS,
        state_size=STATE,
    )


def random_rollout(steps: int, envs: int = ENVS) -> TeamRollout:
    random = np.random.default_rng(0)
    times, rows = steps // envs, (steps // envs, envs, AGENTS)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    no = np.zeros((times, envs), bool)
    return TeamRollout(
        obs=normal(*rows, OBS),
        state=normal(times + 1, envs, STATE),
        actions=np.tanh(normal(*rows, ACTIONS)),
        log_probs=normal(*rows, ACTIONS),
        rewards=normal(times, envs, 1),
        terminated=no,
        truncated=no.copy(),
        active=np.ones(rows, bool),
        final_index=np.zeros((0, 2), np.int64),
        final_obs=np.zeros((0, AGENTS, OBS), np.float32),
        final_state=np.zeros((0, STATE), np.float32),
    ).to("cpu")


def main(options: Any) -> None:
    rows = []
    for minibatch, steps in CASES:
        who: dict[str, Callable[[], Any]] = {
            "plain torch, PS": Plain(minibatch, random_rollout(steps)),
            "ours, PS": Ours("ps", minibatch, random_rollout(steps)),
            "ours, joint LoRASA": Ours("lora", minibatch, random_rollout(steps)),
            "compiled, PS": Ours("ps", minibatch, random_rollout(steps), compiled=True),
            "compiled, joint LoRASA": Ours("lora", minibatch, random_rollout(steps), compiled=True),
        }
        seconds = alternate(who, options.repeats, warmups=2)
        taken = EPOCHS * (steps // minibatch)
        plain = statistics.median(seconds["plain torch, PS"])
        rows += [
            {
                "minibatch": minibatch,
                "who": name,
                "ms_per_step": spread([1e3 * value / taken for value in values]),
                "times_plain": statistics.median(values) / plain,
            }
            for name, values in seconds.items()
        ]
    report("An optimiser step of 2 agents, by environment steps of a minibatch", rows, options.json)
    recurrent = {"ours, PS": Recurrent(10, 16, 250, 500), "compiled, PS": Recurrent(10, 16, 250, 500, compiled=True)}
    seconds = alternate(recurrent, options.repeats, warmups=2)
    as_it_is = statistics.median(seconds["ours, PS"])
    report(
        "A recurrent optimiser step of 2 agents, 50 chunks of 10 steps",
        [
            {
                "who": name,
                "ms_per_step": spread([1e3 * value / 8 for value in values]),
                "share": statistics.median(values) / as_it_is,
            }
            for name, values in seconds.items()
        ],
        options.json and options.json.with_name(f"{options.json.stem}_compiled_recurrent.json"),
    )
    chunks = {str(chunk): Recurrent(chunk) for chunk in (16, 128)}
    seconds = alternate(chunks, options.repeats)
    shortest = statistics.median(seconds["16"])
    file = options.json and options.json.with_name(f"{options.json.stem}_recurrent.json")
    report(
        "A recurrent update of 2 agents, by steps of a chunk",
        [
            {
                "chunk": name,
                "us_per_row": spread([1e6 * value / chunks[name].rows for value in values]),
                "times_shortest": statistics.median(values) / shortest,
            }
            for name, values in seconds.items()
        ],
        file,
    )
