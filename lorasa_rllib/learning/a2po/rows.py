"""The rows of a unit in a batch, for the actor and for the critic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.nn.actor import RowInputs
from lorasa_rllib.nn.rows import Agent, Several, index_of


class Place(Protocol):
    """Where the rows of a unit are in a batch [L, C, N, ...]."""

    def take(self, column: Tensor) -> Tensor:
        """The rows of a column [L, C, N, ...]."""
        ...

    def take_hidden(self, hidden: Tensor) -> Tensor:
        """The sequences of hidden states [C, N, h]."""
        ...

    def take_columns(self, columns: Tensor) -> Tensor:
        """The rows of `Unit.columns` [L, C, n]."""
        ...

    def spread(self, steps: Tensor) -> Tensor:
        """[L, C] -> the rows, one number for each."""
        ...

    def put(self, column: Tensor, rows: Tensor) -> None:
        """Overwrites the rows of a column, in place."""
        ...


@dataclass(frozen=True)
class AgentPlace:
    """Rows of some agents, [L, C, n, ...]. agents: int64 [n]."""

    agents: Tensor

    def take(self, column: Tensor) -> Tensor:
        return column.index_select(2, self.agents)

    def take_hidden(self, hidden: Tensor) -> Tensor:
        return hidden.index_select(1, self.agents)

    def take_columns(self, columns: Tensor) -> Tensor:
        return columns

    def spread(self, steps: Tensor) -> Tensor:
        return steps.unsqueeze(-1).expand(-1, -1, len(self.agents))

    def put(self, column: Tensor, rows: Tensor) -> None:
        column.index_copy_(2, self.agents, rows)


@dataclass(frozen=True)
class SequencePlace:
    """Whole sequences of one agent each, [L, R, ...]. sequences: int64 [R], indices into [C * N]."""

    sequences: Tensor
    num_agents: int

    def take(self, column: Tensor) -> Tensor:
        return column.flatten(1, 2).index_select(1, self.sequences)

    def take_hidden(self, hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1).index_select(0, self.sequences)

    def take_columns(self, columns: Tensor) -> Tensor:
        return self.take(columns)

    def spread(self, steps: Tensor) -> Tensor:
        return self.take(steps.unsqueeze(-1).expand(-1, -1, self.num_agents))

    def put(self, column: Tensor, rows: Tensor) -> None:
        column.flatten(1, 2).index_copy_(1, self.sequences, rows)


@dataclass(frozen=True)
class UnitRows:
    """The rows of a unit, for the actor. Names as in `Batch`.

    agent: the agents of the rows, as for `Actor.unroll`. active: live rows of this unit. keep: `Batch.actor_keep`.
    """

    place: Place
    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    advantages: Tensor
    masks: Tensor | None
    roles: Tensor | None
    state: Tensor | None
    keep: Tensor | None
    agent: Agent

    @classmethod
    def at(cls, place: Place, batch: Batch, active: Tensor, agent: Agent) -> UnitRows:
        """The rows of a batch at a place. active: bool [L, C, N]."""
        return cls(
            place,
            place.take(batch.obs),
            place.take(batch.actions),
            place.take(batch.log_probs),
            place.take(active),
            place.take(batch.advantages),
            None if batch.masks is None else place.take(batch.masks),
            None if batch.roles is None else place.take(batch.roles),
            None if batch.actor_state is None else place.take_hidden(batch.actor_state),
            None if batch.actor_keep is None else place.take(batch.actor_keep),
            agent,
        )

    def inputs(self) -> RowInputs:
        """Arguments of the actor other than `obs`."""
        return {
            "masks": self.masks,
            "roles": self.roles,
            "state": self.state,
            "keep": self.keep,
            "agent": self.agent,
        }


@dataclass(frozen=True)
class CriticRows:
    """The rows of a unit, for the critic. agents: those whose values it trains (None: all).

    counted: bool, shaped like `values`, True for those that count in the loss.
    """

    state: Tensor
    hidden: Tensor | None
    keep: Tensor | None
    values: Tensor
    returns: Tensor
    targets: Tensor
    counted: Tensor
    agents: Several | None

    @classmethod
    def of(cls, batch: Batch, counted: Tensor) -> CriticRows:
        """All values of a batch."""
        hidden, keep = batch.critic_state, batch.keep
        return cls(batch.state, hidden, keep, batch.values, batch.returns, batch.targets, counted, None)

    @classmethod
    def of_agents(cls, batch: Batch, agents: tuple[int, ...], counted: Tensor) -> CriticRows:
        """The values of some agents; the critic has one per agent."""
        at = index_of(agents, batch.obs.device)
        columns = batch.values, batch.returns, batch.targets, counted
        values, returns, targets, counted = (column.index_select(2, at) for column in columns)
        state = batch.state.index_select(2, at) if batch.state.dim() == batch.obs.dim() else batch.state
        hidden = None if batch.critic_state is None else batch.critic_state.index_select(1, at)
        return cls(state, hidden, batch.keep, values, returns, targets, counted, agents)
