"""Merged networks: snapshots for acting, with everything that is constant between weight syncs precomputed."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasa_rllib.nn.actor import Actor, action_distribution
from lorasa_rllib.nn.bank import Affine, BankLayerNorm, BankLinear
from lorasa_rllib.nn.critic import Critic
from lorasa_rllib.nn.distributions import ActionDistribution, Categoricals
from lorasa_rllib.nn.gru import gru_cell
from lorasa_rllib.nn.network import ACTIVATION, Trunk
from lorasa_rllib.nn.rows import Slots, SortedRows, TeamRows, index_of, known_roles

ALONE_UP_TO = 64
"""Number of rows up to which gathering dense weights per row is cheaper than sorting rows by role."""


class MergedActor:
    """A frozen copy of an actor with adapters merged, for acting (`nn.acting.Acting`).

    Adapters, id columns and the affine maps of LayerNorms are folded into one dense weight and bias per layer and owner
    (an agent or a role; one for all if they share it), so acting costs one batched product per layer. It shares no
    memory with the actor and does not follow later changes. Adapters keyed by role require equal observation sizes.
    """

    @torch.no_grad()
    def __init__(self, actor: Actor, adapters: bool = True):
        self._by_role = actor.router.by_role and adapters
        if self._by_role and actor.obs_mask is not None:
            raise ValueError("adapters keyed by role cannot be merged where agents' observations differ in size.")
        self._router = actor.router
        slots = actor.router.slots_of_all() if adapters else actor.router.slots_of_agents(slice(None))
        self._obs_norm = None if actor.obs_norm is None else actor.obs_norm.fixed()
        self._encoder = None if actor.encoder is None else actor.encoder.merged(slots)
        self._seen = None if actor.encoder is None else actor.obs_mask
        present = actor.obs_mask if actor.encoder is None else None
        self._network = _MergedNetwork(actor, actor.head, slots, present, adapters)
        self._head = actor.head_type
        self._real, self._components = actor.real_entries, actor.components
        self._std = None if self._head is None else self._head.std_of(actor.log_std(slots, adapters)).clone()
        self._team = None if self._by_role else slots

    def step(
        self,
        obs: Tensor,
        *,
        roles: Tensor | None = None,
        available: Tensor | None = None,
        hidden: Tensor | None = None,
        agents: tuple[int, ...] | None = None,
    ) -> tuple[ActionDistribution, Tensor | None]:
        """See `nn.acting.Acting.step`."""
        if self._obs_norm is not None:  # its output is clipped, so it cannot be folded into the first layer
            obs = self._obs_norm(obs, agents)
        some = None if agents is None else index_of(agents, obs.device)
        rows, owner = self._layout(obs, agents, some, roles)
        if self._encoder is None:
            x = rows.arrange(obs)
        else:
            if self._seen is not None:
                obs = torch.where(self._seen if some is None else self._seen[some], obs, 0.0)
            x = self._encoder(obs, rows.arrange, owner)
        y, h = self._network(x, None if hidden is None else rows.arrange(hidden), owner)
        output, after = rows.restore(y), None if h is None else rows.restore(h)
        if self._components is not None:
            of_rows = (lambda table: table) if some is None else lambda table: table[some]
            return Categoricals(self._components.logits(output, available, of_rows)), after
        real = self._real if self._real is None or some is None else self._real[some]
        if self._head is None or self._std is None:
            return action_distribution(None, output, None, real, available), after
        std = self._std if owner is None else rows.restore_vector(_of(self._std, owner))
        return self._head.from_std(output if real is None else output * real, std, real), after

    def _layout(
        self, obs: Tensor, agents: tuple[int, ...] | None, some: Tensor | None, roles: Tensor | None
    ) -> tuple[_Layout, Tensor | None]:
        """The layout of the rows, and the owner whose weights each slot uses (None: slot s those of owner s)."""
        lead = obs.shape[:-1]
        if self._by_role and roles is not None and roles.numel() <= ALONE_UP_TO:
            plain = self._router.owners.num_adapters
            return RowsAlone(lead), known_roles(roles, plain, otherwise=plain).reshape(-1)
        if self._team is not None:  # the usual case: no index maps needed
            return TeamRows(self._team if some is None else Slots(len(some)), lead[:-1]), some
        rows = self._router.layout(obs, agents, roles)
        assert isinstance(rows, SortedRows), "rows routed by role are sorted"
        return rows, rows.owner_of_slot


class _Layout(Protocol):
    """The part of `nn.rows.Rows` that merged networks need."""

    def arrange(self, x: Tensor) -> Tensor: ...

    def restore(self, y: Tensor) -> Tensor: ...

    def restore_vector(self, v: Tensor) -> Tensor: ...


class RowsAlone:
    """One slot per row; fastest for small batches routed by role. Methods as in `nn.rows.Rows`."""

    def __init__(self, lead: torch.Size):
        self._lead = lead

    def arrange(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, x.shape[-1])

    def restore(self, y: Tensor) -> Tensor:
        return y.reshape(*self._lead, y.shape[-1])

    def restore_vector(self, v: Tensor) -> Tensor:
        return v[0] if len(v) == 1 else self.restore(v)


class MergedCritic:
    """A frozen copy of a recurrent critic, which env runners step along with the actor, one step at a time."""

    @torch.no_grad()
    def __init__(self, critic: Critic):
        slots = critic.router.slots_of_agents(slice(None))
        self._obs_norm = None if critic.obs_norm is None else critic.obs_norm.fixed()
        self._encoder = None if critic.encoder is None else critic.encoder.merged(slots)
        self._network = _MergedNetwork(critic, critic.head, slots, None, adapters=False)
        self._values, self._per_agent = critic.num_values, critic.per_agent

    def step(self, global_state: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """global_state [E, S] or [E, N, S], hidden [E, V, h] -> normalised values [E, V], hidden after the step."""
        x = global_state
        if self._obs_norm is not None:
            x = self._obs_norm(x, None if self._per_agent else 0)
        x = self._arrange(x) if self._encoder is None else self._encoder(x, self._arrange)
        y, h = self._network(x, hidden.transpose(0, 1))
        assert h is not None, "the critic is recurrent"
        return y.squeeze(-1).T, h.transpose(0, 1)

    def _arrange(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1) if self._per_agent else x.expand(self._values, -1, -1)


class _MergedNetwork:
    """A trunk and its head as a chain of affine maps, separated by LayerNorms without parameters."""

    def __init__(self, trunk: Trunk, head: BankLinear, slots: Slots, present: Tensor | None, adapters: bool):
        # [N, 1, features], 1 for real features and 0 for padding
        self._present = None if present is None else present[:, None].to(head.weight.dtype)
        real_features = torch.ones(1) if present is None else present.sum(-1)
        self._count = real_features[:, None, None].to(head.weight.dtype)
        self._standardises = trunk.feature_norm is not None
        self._normalises = trunk.config.layer_norm
        self._activation = ACTIVATION[trunk.config.activation]

        def dense(layer: BankLinear, before: BankLayerNorm | None = None, real: Tensor | None = None) -> Affine:
            return _fold(before, real, layer.merged(slots, adapters), slots, adapters)

        # Each with the affine map of the LayerNorm before it; of a GRU, also the projection of its hidden state.
        self._stages: list[tuple[Affine, Affine | None]] = []
        norm, real = trunk.feature_norm, present
        for stage in trunk.stages():
            hidden = None if stage.hidden is None else dense(stage.hidden)
            self._stages.append((dense(stage.linear, norm, real), hidden))
            norm, real = stage.norm, None
        self._head = dense(head, norm, real)

    def __call__(self, x: Tensor, h: Tensor | None, owner: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [S, B, features], h [S, B, hidden_size] (zeros if None) -> output [S, B, out] and the next h.

        owner int64 [S]: the owner whose weights each slot uses; None: slot s those of owner s.
        """
        x = self._standardised(x, owner)
        after = None
        for linear, hidden in self._stages:
            y = linear.of(owner)(x)
            if hidden is None:
                y = self._activation(y)
            else:
                h = y.new_zeros(*y.shape[:-1], y.shape[-1] // 3) if h is None else h
                y = after = gru_cell(y, hidden.of(owner)(h), h)
            x = self._normalised(y)
        return self._head.of(owner)(x), after

    def _normalised(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) if self._normalises else x

    def _standardised(self, x: Tensor, owner: Tensor | None) -> Tensor:
        """Standardises the real features of each row (if the trunk has a feature_norm) and zeroes padding."""
        if self._present is None:
            return F.layer_norm(x, x.shape[-1:]) if self._standardises else x
        present, count = self._present, self._count
        if owner is not None:
            present, count = present[owner], count[owner]
        x = x * present
        if not self._standardises:
            return x
        centred = torch.addcmul(x, x.sum(-1, keepdim=True).div_(count), present, value=-1)
        variance = centred.square().sum(-1, keepdim=True).div_(count)
        return centred.mul_(variance.add_(1e-5).rsqrt_())


def _of(bank: Tensor, owner: Tensor) -> Tensor:
    """[O, ...] -> [S, ...]; banks shared by all owners stay [1, ...]."""
    return bank if len(bank) == 1 else bank.index_select(0, owner)


def _fold(norm: BankLayerNorm | None, present: Tensor | None, layer: Affine, slots: Slots, adapters: bool) -> Affine:
    """Folds the affine map of a LayerNorm into the layer after it: W (g x + c) + b = (W g) x + (W c + b)."""
    weight, bias = layer.weight, layer.bias
    if norm is not None:
        gain, offset = norm.affine(slots, adapters)
        offset = offset if present is None else offset * present
        weight, bias = weight * gain[:, None], bias + (weight @ offset[..., None]).squeeze(-1)
    return Affine(weight.clone(), bias.clone())
