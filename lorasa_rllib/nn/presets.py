"""Networks by name. Imports no torch, so that command lines can list them at once."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "hidden_size": 64, "num_layers": 3, "obs_norm": "layer", "recurrent": True, "critic_recurrent": True,
        "post_layers": 1,
    },
    "feedforward": {
        "hidden_size": 64, "num_layers": 2, "obs_norm": "layer", "recurrent": False, "critic_recurrent": False,
    },
    "raw_inputs": {"obs_norm": None},
    "normalised": {"obs_norm": "running"},
    "normalised_team": {"obs_norm": "running_team"},
}  # fmt: skip
"""Networks by name. "published": that of LoRASA, A2PO and MAPPO's authors, actor and critic alike. "feedforward": the
same without memory, two hidden layers. The others are the default one with other inputs. "raw_inputs": as they are,
for observations whose scale means something. "normalised": by running statistics of each agent, the default;
"normalised_team": of the team."""
