"""What tests of updates share: settings, optimisers, random batches, losses written out, learners in threads."""

import threading

import torch

from lorasa_rllib.learning.batch import MAPPOSettings, prepare
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.passes import Minibatch, live_rows, shuffled
from lorasa_rllib.learning.step import STATISTICS, EagerStep
from tests.helpers import owner_tables, random_rollout, seeded, team

UNEQUAL = team((4, 2, 3), (2, 3, 1))
SETTINGS = MAPPOSettings(entropy_coeff=0.05, value_coeff=0.7, max_grad_norm=0.3, huber_delta=0.5, chunk_length=2)
CASES = [
    (method, phase)
    for method, owners in owner_tables(2).items()
    for phase in (("adapters", "joint") if owners.num_adapters else ("backbone",))
]


def optimisers_of(policy, lr=0.01):
    named = {group: list(policy.parameters_of(group).values()) for group in ("backbone", "adapters", "critic")}
    return {group: OwnerAdam(params, lr=lr) for group, params in named.items() if params}


def experienced(policy):
    """The policy with a normaliser that has seen returns."""
    size = policy.critic.num_values
    mean = torch.linspace(-1, 2, size, dtype=torch.double)
    for _ in range(5):
        policy.value_norm.update(mean, mean.square() + 4)
    return policy


def batch_of(policy, steps=3, envs=3, seed=0, dead=(), config=SETTINGS):
    rollout = random_rollout(policy, steps, envs, seed, dead).to("cpu")
    return prepare(experienced(policy), rollout, config)[0]


def minibatches(batch, settings, generator):
    """All minibatches of all passes."""
    for _ in range(settings.num_epochs):
        order, size = shuffled(batch, settings, generator)
        yield from [batch] if order is None else batch[order].split(size)


def take_step(policy, optimisers, batch, settings, generator=None):
    """One optimiser step of MAPPO on a batch. Returns sums of statistics by name, and gradient norms."""
    counts = live_rows(policy, batch, settings)
    all_move = all(bool((rows > 0).all()) for rows in counts.values())
    step = EagerStep(policy, optimisers, settings)
    sums, norms = step(Minibatch(batch, counts, all_move=all_move), generator)
    return dict(zip(STATISTICS, sums, strict=True)) | {"value_rows": counts["critic"].sum()}, norms


def finished_gradients(optimiser):
    """Averaged and clipped gradients of the last step, by parameter."""
    found = {}
    for part in optimiser.parts:
        found |= dict(zip(part.block.parameters, part.block.views(part.grads), strict=True))
    return found


def row_losses(policy, batch, config):
    """Policy loss [L, B, N] and value loss [L, B, V] of every row, written out."""
    sequence = {"state": batch.actor_state, "keep": batch.actor_keep}
    distribution = policy.distribution(batch.obs, roles=batch.roles, masks=batch.masks, **sequence)
    log_ratio = distribution.log_prob(batch.actions) - batch.log_probs
    ratio = (log_ratio.sum(-1, keepdim=True) if config.joint_ratio else log_ratio).exp()
    a = batch.advantages.unsqueeze(-1)
    gain = torch.where(a > 0, ratio.clamp(max=1 + config.clip), ratio.clamp(min=1 - config.clip)) * a
    policy_loss = -gain.sum(-1) - config.entropy_coeff * distribution.entropy(seeded(5)).sum(-1)
    values = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)[0]
    huber = torch.nn.HuberLoss(reduction="none", delta=config.huber_delta)
    change = (values - batch.values).clamp(-config.value_clip, config.value_clip)
    targets = policy.value_norm.normalise(batch.returns)
    errors = torch.stack([huber(values, targets), huber(batch.values + change, targets)])
    return policy_loss, config.value_coeff * errors.max(0).values


class Learners:
    """Learners in threads of one process: `all_sum(rank)` adds up over them as an all-reduce does."""

    def __init__(self, size):
        self._barrier, self._parts = threading.Barrier(size, timeout=30), [None] * size

    def all_sum(self, rank):
        def add_up(x):
            self._parts[rank] = x.clone()
            self._barrier.wait()
            total = sum(self._parts)
            self._barrier.wait()
            return total

        return add_up


def uneven_rollout(policy):
    """Shards of two learners differ in live counts and episode ends; agent 1 lives in the second shard only."""
    rollout = random_rollout(policy, 6, 4, seed=3)
    rollout.active[:, :2, 1] = False
    rollout.active[1:, 0] = False
    rollout.terminated[2:, :2] = False
    return rollout
