"""LoRASA for Ray RLlib: teams that share one policy and specialise with low-rank adapters.

Importing the package loads neither Ray nor torch. Touching one of its names imports the module that defines it; names
of the Ray layer register the algorithms and environments.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; `_DEFINED_IN` says the same at run time
    from lorasa_rllib.envs.base import TeamEnvError, TeamStep, VectorTeamEnv
    from lorasa_rllib.learning.reference import Quirks
    from lorasa_rllib.nn.bank import LoRAConfig
    from lorasa_rllib.nn.network import NetworkConfig
    from lorasa_rllib.policies.acting import LoadedPolicy, load_policy
    from lorasa_rllib.rllib import (
        A2PO,
        MAPPO,
        A2POConfig,
        EpisodeSummary,
        LoRASAModule,
        MAPPOConfig,
        TeamEnvRunner,
        TeamMultiAgentEnv,
        map_to_shared_policy,
        shared_policy_spec,
    )
    from lorasa_rllib.spec import TeamSpec

__version__ = "0.1.0"

__all__ = [
    "A2PO",
    "MAPPO",
    "A2POConfig",
    "EpisodeSummary",
    "LoRAConfig",
    "LoRASAModule",
    "LoadedPolicy",
    "MAPPOConfig",
    "NetworkConfig",
    "Quirks",
    "TeamEnvError",
    "TeamEnvRunner",
    "TeamMultiAgentEnv",
    "TeamSpec",
    "TeamStep",
    "VectorTeamEnv",
    "__version__",
    "load_policy",
    "map_to_shared_policy",
    "shared_policy_spec",
]

_DEFINED_IN = {
    "TeamEnvError": "envs.base",
    "TeamStep": "envs.base",
    "VectorTeamEnv": "envs.base",
    "Quirks": "learning.reference",
    "LoRAConfig": "nn.bank",
    "NetworkConfig": "nn.network",
    "LoadedPolicy": "policies.acting",
    "load_policy": "policies.acting",
    "TeamSpec": "spec",
}
"""Name -> module of this package; all other names are those of the Ray layer."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DEFINED_IN.get(name, 'rllib')}"), name)


def __dir__() -> list[str]:
    return __all__
