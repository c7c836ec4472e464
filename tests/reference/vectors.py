"""Files of reference vectors as tensors, and as policies of ours. Sizes are read from the files, never assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.learning.reference import absent_forget, fresh_norm_std
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import PRESETS, NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.sharing.methods import owners_of
from lorasa_rllib.spec import TeamSpec


class Vectors:
    """One file. `file["x"]` is a tensor, integers stay integers; `file.number("alpha")` is a Python number."""

    def __init__(self, path: Path, dtype: torch.dtype):
        with np.load(path, allow_pickle=False) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}
        self.dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.as_tensor(self._arrays[name])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def number(self, name: str) -> Any:
        return self._arrays[name].item()

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All arrays `prefix.name`, by name."""
        return {name[len(prefix) + 1 :]: self[name] for name in self._arrays if name.startswith(prefix + ".")}


def close(ours: Tensor, theirs: Tensor, atol: float, rtol: float) -> None:
    torch.testing.assert_close(ours.detach(), theirs.to(ours.dtype), atol=atol, rtol=rtol, check_dtype=False)


def state_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names and shapes as ours: one head, and a leading axis of one backbone on everything shared."""
    state = {}
    for name, value in weights.items():
        for head in ("mean", "logits", "value"):
            name = name.replace(f"head.{head}.", "head.")
        name = "log_std.weight" if name == "log_std" else name
        shared = name.rpartition(".")[2] in ("weight", "bias")
        state[name] = value[None] if shared else value
    return state


def published_policy(
    agents: int,
    obs: int,
    actions: int,
    states: int,
    hidden: int,
    *,
    method: str = "lora",
    continuous: bool = True,
    r: int = 1,
    lora_alpha: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **layers: int,
) -> TeamPolicy:
    """The published networks: recurrent, no agent ids, each agent with its own view of the state and its own reward."""
    bounds = {name: ((b,) * actions,) * agents for name, b in (("action_low", -1.0), ("action_high", 1.0))}
    spec = TeamSpec(
        agents=tuple(f"agent_{n}" for n in range(agents)),
        obs_sizes=(obs,) * agents,
        action_kind="continuous" if continuous else "discrete",
        action_sizes=(actions,) * agents,
        state_size=states,
        state_per_agent=True,
        shared_reward=False,
        has_masks=not continuous,
        **(bounds if continuous else {}),
    )
    network = NetworkConfig(**{**PRESETS["published"], "hidden_size": hidden, "id_features": "none", **layers})
    lora = LoRAConfig(r=r, lora_alpha=lora_alpha)
    config = PolicyConfig(
        spec, owners_of(method, spec), lora, network, "agent_state",
        fresh_norm_std=fresh_norm_std(True), absent_forget=absent_forget(True),
    )  # fmt: skip
    policy = TeamPolicy(config)
    if policy.config.owners.num_adapters:
        policy.set_phase("adapters")
    return policy.to(dtype)
