"""Names of settings in versions up to 0.1, which checkpoints, experiments of Tune and scripts still contain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "sharing_method": "method",
    "sharing_schedule": "schedule",
    "sharing_adapter_key": "adapter_key",
    "sharing_num_adapters": "num_adapters",
    "sharing_groups": "groups",
    "backbone_checkpoint": "backbone",
    "adapter_files": "adapters",
    "fork_checkpoint": "fork_from",
    "lora_r": "r",
    "lora_use_rslora": "use_rslora",
    "lora_init_weights": "init_lora_weights",
    "lora_target_modules": "target_modules",
    "lora_rank_pattern": "rank_pattern",
    "lora_adapt_bias": "adapt_bias",
    "lora_adapt_norm": "adapt_norm",
}
"""Old name -> the name of the argument of `.sharing(...)`, which every setting has today."""

DECAYS_WITH_BUDGET = "lr?"
"""Entry of `linear_decay` for a learning rate that had not been set; today `lr_is_default`."""


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of any version under today's names. Raises ValueError if one is given under both."""
    current = {name: value for name, value in settings.items() if name not in RENAMED}
    for old in [name for name in settings if name in RENAMED]:
        if RENAMED[old] in current:
            raise ValueError(f"{old} is the old name of {RENAMED[old]}: give {RENAMED[old]} alone.")
        current[RENAMED[old]] = settings[old]
    return current


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """A config's complete state, as any version wrote it, in today's form.

    Settings that it lacks did not exist: nothing decayed, no pass ended early, and in joint training the backbone had
    the full rate.
    """
    current = with_current_names(state)
    decaying = tuple(current.get("linear_decay", ()))
    current["linear_decay"] = tuple(name for name in decaying if name != DECAYS_WITH_BUDGET)
    current.setdefault("lr_is_default", DECAYS_WITH_BUDGET in decaying)
    current.setdefault("target_kl", None)
    current.setdefault("backbone_lr_scale", 1.0)
    return current
