"""Network presets by name. Does not import torch, so the command line can list them quickly."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "hidden_size": 64, "num_layers": 3, "obs_norm": "layer", "recurrent": True, "critic_recurrent": True,
        "post_layers": 1, "distribution": "squashed_gaussian",
    },
    "feedforward": {
        "hidden_size": 64, "num_layers": 2, "obs_norm": "layer", "recurrent": False, "critic_recurrent": False,
        "distribution": "squashed_gaussian",
    },
    "raw_inputs": {"obs_norm": None},
    "feature_norm": {"obs_norm": "layer"},
    "normalised": {"obs_norm": "running"},
    "normalised_team": {"obs_norm": "running_team"},
}  # fmt: skip
"""Settings of `NetworkConfig` by preset name. "published": the network of the authors of LoRASA, A2PO and MAPPO, for
actor and critic. "feedforward": the same without recurrence, with two hidden layers. The others change only how inputs
are normalised. "raw_inputs": not at all, for observations whose scale carries information. "feature_norm": by a
LayerNorm over an agent's features. "normalised": by running statistics per agent, the default of configs;
"normalised_team": by running statistics of the team."""
