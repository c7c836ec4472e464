"""LoRASA for Ray RLlib: teams that share one policy and specialise with low-rank adapters.

Importing the package loads neither Ray nor torch; touching a name of the Ray layer imports and registers it.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "A2PO": "lorasa_rllib.rllib",
    "A2POConfig": "lorasa_rllib.rllib",
    "MAPPO": "lorasa_rllib.rllib",
    "MAPPOConfig": "lorasa_rllib.rllib",
    "LoRASAModule": "lorasa_rllib.rllib",
    "TeamEnvRunner": "lorasa_rllib.rllib",
    "TeamMultiAgentEnv": "lorasa_rllib.rllib",
    "shared_policy_spec": "lorasa_rllib.rllib",
    "TeamSpec": "lorasa_rllib.spec",
    "load_policy": "lorasa_rllib.policies.acting",
    "VectorTeamEnv": "lorasa_rllib.envs.base",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
