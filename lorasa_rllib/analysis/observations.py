"""A common bank of observations, and the inputs that present it to every agent's policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.nn.policy import TeamPolicy


@dataclass(frozen=True)
class ObservationBank:
    """Pooled trajectories of all agents: B columns of T steps, each from one agent.

    obs:    [T, B, o] observations, padded to the widest agent.
    keep:   bool [T, B], False where an episode begins or the agent was absent in the step before, which resets the
            hidden state; None: True everywhere.
    masks:  bool [T, B, choices], available choices (discrete teams); None: all.
    active: bool [T, B], True where the agent was alive; None: everywhere. Policies are unrolled through all rows, but
            only active ones are evaluated.
    agents: int64 [B], the agent of each column; None: unknown. If given, padding may hold anything; otherwise padding
            must be 0, and teams whose agents differ in size cannot be routed by role.
    """

    obs: np.ndarray
    keep: np.ndarray | None = None
    masks: np.ndarray | None = None
    active: np.ndarray | None = None
    agents: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.obs.ndim != 3:
            raise ValueError(f"obs {self.obs.shape} must be [T, B, o]; `bank_of` pools rollouts [T, E, N, o].")
        steps = self.obs.shape[:2]
        for name, column, shape in (
            ("keep", self.keep, steps),
            ("masks", None if self.masks is None else self.masks[..., 0], steps),
            ("active", self.active, steps),
            ("agents", self.agents, steps[1:]),
        ):
            if column is not None and column.shape != shape:
                raise ValueError(f"{name} of a bank with obs {self.obs.shape} must have leading axes {shape}.")
        if not (self.obs.size if self.active is None else self.active.any()):
            raise ValueError("the bank has no active row: nothing can be compared. Collect more steps.")

    def active_rows(self, limit: int | None = None) -> np.ndarray:
        """Positions of active rows in [T * B], int64 [R]; at most `limit`, evenly spaced."""
        rows = np.arange(self.obs.shape[0] * self.obs.shape[1])
        rows = rows if self.active is None else rows[self.active.reshape(-1)]
        return rows if limit is None else rows[_evenly(len(rows), limit)]


def bank_of(
    obs: np.ndarray,
    keep: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    active: np.ndarray | None = None,
    limit: int = 64,
    absent_forget: bool = True,
) -> ObservationBank:
    """Pools the trajectories of all agents into at most `limit` columns, divided evenly among agents.

    obs [T, E, N, o]; keep bool [T, E] (None: a single episode); masks bool [T, E, N, choices]; active bool [T, E, N];
    absent_forget as in the policy's config.
    Each agent's columns are spread over the environments, starting at a different environment per agent.
    """
    if obs.ndim != 4:
        raise ValueError(f"obs {obs.shape} must be [T, E, N, o]: steps, environments, agents, features.")
    envs, agents = obs.shape[1:3]
    columns = _evenly(envs * agents, limit)
    agent = columns // envs
    env = (columns + agent) % envs  # otherwise a limit of N columns would cover only one environment
    kept = None if keep is None else keep[:, env]
    alive = None if active is None else active[:, env, agent]
    if alive is not None and absent_forget:
        kept = np.ones_like(alive) if kept is None else kept.copy()
        kept[1:] &= alive[:-1]  # as in acting and training, agents begin without memory
    return ObservationBank(
        obs=obs[:, env, agent],
        keep=kept,
        masks=None if masks is None else masks[:, env, agent],
        active=alive,
        agents=agent,
    )


def names_of(policy: TeamPolicy) -> list[str]:
    """Names of what is compared: the roles if adapters are keyed by role, otherwise the agents."""
    owners = policy.config.owners
    if policy.actor.router.by_role:
        return [f"role {k}" for k in range(owners.num_adapters)]
    return list(policy.config.spec.agents)


def inputs_of(policy: TeamPolicy, bank: ObservationBank) -> Iterator[dict[str, Any]]:
    """Yields, for each agent (or role), the arguments of `Actor.unroll` that apply its policy to the whole bank.

    Agent i's policy receives every observation as its own: with its id features, weights and adapter, and, if
    observation sizes differ, with as many entries as it has (those that the observing agent lacks are 0). Recurrent
    policies start from zero hidden states and reset them where the bank says so (`keep`). Role k's policy receives
    every row with role k and otherwise as the row's own agent. Adapters are used only in phases that use them.
    """
    spec, router = policy.config.spec, policy.actor.router
    if bank.obs.shape[-1] != spec.obs_size:
        raise ValueError(f"observations of width {bank.obs.shape[-1]} are not of this team: it has {spec.obs_size}.")
    weight = policy.actor.head.weight
    seen = bank.obs if bank.agents is None else np.where(spec.obs_mask()[bank.agents], bank.obs, 0.0)
    obs = torch.as_tensor(seen, dtype=weight.dtype, device=weight.device)
    shared = {
        "obs": obs,
        "masks": _on(weight, bank.masks),
        "keep": _on(weight, bank.keep),
        "adapters": policy.adapters_on,
    }
    lead = obs.shape[:-1]
    if not router.by_role:
        for agent in range(spec.num_agents):
            yield shared | {"agent": agent, "roles": None}
        return
    if bank.agents is None and len({*zip(spec.obs_sizes, spec.action_sizes, strict=True)}) > 1:
        raise ValueError("agents of this team differ in size: a bank for roles must say whose columns it holds.")
    holders = np.zeros(lead[1], np.int64) if bank.agents is None else bank.agents
    agents = torch.as_tensor(holders, device=weight.device).expand(lead)
    for role in range(policy.config.owners.num_adapters):
        yield shared | {"agent": agents, "roles": torch.full(lead, role, device=weight.device)}


def _on(weight: Tensor, column: np.ndarray | None) -> Tensor | None:
    return None if column is None else torch.as_tensor(column, device=weight.device)


def _evenly(count: int, limit: int) -> np.ndarray:
    """Evenly spaced ascending integers below `count`, int64 [min(count, limit)]."""
    few = min(count, limit)
    return np.arange(few) * count // max(few, 1)
