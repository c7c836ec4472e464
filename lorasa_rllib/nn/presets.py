"""Networks by name. Imports no torch, so that command lines can list them at once."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "published": {"hidden_size": 64, "num_layers": 3, "recurrent": True, "critic_recurrent": True, "post_layers": 1},
    "raw_inputs": {"feature_norm": False},
}
"""Networks by name. "published": that of LoRASA, A2PO and MAPPO's authors, actor and critic alike. "raw_inputs": the
default one without normalised features, for observations whose scale means something."""
