"""The centralised critic: states to values in units of the value normaliser. It lives on the learner only."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lorasa_rllib.nn.bank import BankLinear, LoRAConfig
from lorasa_rllib.nn.network import Banks, NetworkConfig, Trunk
from lorasa_rllib.nn.rows import Router, TeamRows
from lorasa_rllib.spec import Owners, TeamSpec

CriticInput = Literal["state", "agent_state"]


class Critic(Trunk):
    """Values of states.

    "state":       one value per environment step, V = 1. Needs a shared reward and one critic.
    "agent_state": one value per agent, V = N: the state with the agent's id, or a critic of its own.
    """

    def __init__(self, spec: TeamSpec, owners: Owners, critic_input: CriticInput, config: NetworkConfig):
        team = critic_input == "state"
        of_critics = Owners("critic", (0,) if team else owners.critic_of)
        banks = Banks(of_critics, LoRAConfig())
        ids = 0 if team or owners.num_critics > 1 else spec.id_capacity
        super().__init__(spec.state_size, banks, config, ids)
        self.head = BankLinear("head", config.hidden_size, 1, banks.of("head"), gain=1.0)
        self.router = Router(of_critics)
        self.num_values = len(of_critics.backbone_of)

    def forward(self, state: Tensor) -> Tensor:
        """state [..., S] -> normalised values [..., V]."""
        rows = TeamRows(self.router.slots_of_agents(slice(None)), state.shape[:-1])
        x = state.reshape(1, -1, state.shape[-1]).expand(self.num_values, -1, -1)
        return rows.restore(self.head(self.features(x, rows), rows.slots)).squeeze(-1)
