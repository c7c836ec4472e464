"""Acting: one step of any number of environments through one interface, whatever form the actor has.

acting = policy.acting()                                        # valid until the policy's weights change
distribution, hidden = acting.step(obs, available=available, hidden=hidden)
actions = spec.to_environment(distribution.sample().numpy())
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.nn.distributions import ActionDistribution
from lorasa_rllib.nn.merged import MergedActor

MERGE_UP_TO = 128
"""Number of agents (or roles) up to which acting uses merged weights (`benchmarks/many_agents.py` measures both)."""


class Acting(Protocol):
    """An actor that acts, with its adapters on or off as settled when it was made."""

    def step(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        available: Tensor | None = None,
        hidden: Tensor | None = None,
        agents: tuple[int, ...] | None = None,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """Action distribution of each row, and the hidden states after the step (None if feed-forward).

        obs [..., N, obs_size] of the team, or [..., n, obs_size] of n `agents` (their indices), with any leading axes.
        roles int64 (obs without its last axis): needed if adapters are keyed by role and on; -1 and roles without an
            adapter: the plain backbone.
        available bool [..., n, action_size]: the choices that discrete teams have; None: all.
        hidden [..., n, hidden_size], as returned for the step before; None: zeros, an episode begins.
        """
        ...


class UnmergedActor:
    """An actor that acts as it is, with adapters as factors. Follows the actor's later changes.

    Needed where merging does not pay or is impossible, see `acting_form`.
    """

    def __init__(self, actor: Actor, adapters: bool):
        self._actor, self._adapters = actor, adapters

    def step(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        available: Tensor | None = None,
        hidden: Tensor | None = None,
        agents: tuple[int, ...] | None = None,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """See `Acting.step`."""
        return self._actor.step(
            obs, roles=roles, available=available, hidden=hidden, agents=agents, adapters=self._adapters
        )


def acting_form(actor: Actor, adapters: bool) -> Acting:
    """The fastest form of an actor for acting until its weights change: merged into dense weights per owner.

    Unmerged for more than `MERGE_UP_TO` owners, whose dense weights would not fit the processor's caches, and for
    adapters keyed by role if observation sizes differ. adapters: whether they are on.
    """
    owners, by_role = actor.router.owners, actor.router.by_role
    many = adapters and (owners.num_adapters if by_role else len(owners.backbone_of)) > MERGE_UP_TO
    if many or (by_role and adapters and actor.obs_mask is not None):
        return UnmergedActor(actor, adapters)
    return MergedActor(actor, adapters)
