"""The centralised critic: global states to normalised values. Learners hold it; env runners step it if recurrent."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lorasa_rllib.nn.bank import BankLinear, Banks, LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig, Trunk
from lorasa_rllib.nn.rows import Router, Several, TeamRows, index_of
from lorasa_rllib.spec import Owners, TeamSpec

CriticInput = Literal["state", "agent_state"]


class Critic(Trunk):
    """Values of global states. If these are arrays like the observations, such as images, they go through an encoder.

    "state":       one value per environment step, V = 1. Needs a shared reward and one critic.
    "agent_state": one value per agent, V = N, from the state and the agent's id (no id if every agent has its own
                   critic), or from the agent's own view of the state (`TeamSpec.state_per_agent`).
    """

    def __init__(self, spec: TeamSpec, owners: Owners, critic_input: CriticInput, config: NetworkConfig):
        team = critic_input == "state"
        of_critics = Owners("critic", (0,) if team else owners.critic_of)
        banks = Banks(of_critics, LoRAConfig())
        own = owners.num_critics == spec.num_agents
        ids = 0 if team or own or spec.state_per_agent else spec.id_capacity
        observers = spec.num_agents if spec.state_per_agent else 1
        alike = config.encoder is not None and len(spec.state_parts) == 1 + len(spec.obs_shape)
        parts = spec.state_parts if alike else ()
        super().__init__(spec.state_size, banks, config, ids, config.critic_recurrent, observers, parts)
        self.head = BankLinear("head", config.hidden_size, 1, banks.of("head"), gain=1.0)
        self.router = Router(of_critics)
        self.num_values = len(of_critics.backbone_of)
        self.per_agent = spec.state_per_agent

    def forward(
        self,
        state: Tensor,
        hidden: Tensor | None = None,
        keep: Tensor | None = None,
        agents: Several | None = None,
    ) -> Tensor:
        """state [..., S] (or [..., N, S], one per agent) -> normalised values [..., V]; arguments as for `unroll`."""
        return self.unroll(state, hidden, keep, agents)[0]

    def unroll(
        self,
        state: Tensor,
        hidden: Tensor | None = None,
        keep: Tensor | None = None,
        agents: Several | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalised values [..., V], and the hidden states after each step (None if feed-forward).

        state [..., S] or [..., N, S]; if recurrent, the first axis is time.
        hidden [..., V, hidden_size], without time: before the first step; None: zeros.
        keep bool, broadcastable to the values: False where an episode begins; None: True everywhere.
        agents: compute only these agents' values (critics with a value per agent); N and V then count them.
        """
        if self.obs_norm is not None:
            state = self.obs_norm(state, agents if self.per_agent else 0)
        lead = state.shape[: -2 if self.per_agent else -1]
        some = None if agents is None else index_of(agents, state.device)
        rows = TeamRows(self.router.slots_of_agents(slice(None) if some is None else some), lead, some)

        def arrange(x: Tensor) -> Tensor:
            return rows.arrange(x) if self.per_agent else x.reshape(1, -1, x.shape[-1]).expand(rows.slots.size, -1, -1)

        x = arrange(state) if self.encoder is None else self.encoder.encode(state, rows.slots, arrange)
        features, states = self.features(x, rows, state=hidden, keep=keep)
        return rows.restore(self.head(features, rows.slots)).squeeze(-1), states
