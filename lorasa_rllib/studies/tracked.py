"""What trackers such as W&B and MLflow are given of a trial: its hyper-parameters, and the documented result keys."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from lorasa_rllib.rllib.ranges import SETTINGS
from lorasa_rllib.studies.curves import STEPS
from lorasa_rllib.studies.overrides import CONFIGS

RESULTS = (
    STEPS, "training_iteration", "time_total_s", "phase_index", "num_faults", "env_runners", "evaluation", "learners",
    "split",
)  # fmt: skip
"""First parts of the result keys that are tracked: see `docs/result_keys.md`."""

COUNTERS = re.compile(r"num_(agent|module)_steps|__all_modules__|weights_seq_no|_workers|_reqs|_restarts$|_dropped_")
"""Keys among them that say nothing about learning."""

SETTERS = ("sharing", "network", "training", "env_runners")
BY_NAME = ("method", "schedule", "adapter_key", "seed")
"""Settings without a numeric range that are always tracked."""
NOT_SETTINGS = ("trial_name", "log_level", "callbacks", "lr_is_default", "evaluation_config")
"""Keys of configs that are no hyper-parameters."""


def tracked_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a result under the keys of `RESULTS`, flat: "env_runners/episode_return_mean" ..."""
    found = {key: value for name in RESULTS if name in result for key, value in _flat(result[name], name)}
    return {
        key: value if isinstance(value, int) else float(value)
        for key, value in found.items()
        if isinstance(value, Real) and math.isfinite(value) and not COUNTERS.search(key)
    }


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric settings of a trial, and whatever else differs from the defaults of MAPPO (or A2PO), flat.

    config: `trial.config`. Settings have the names that setters and `--set` give them ("r", "lambda", "lr",
    "network/hidden_size", "env_config/scenario"); values are numbers, truth values, strings or None.
    """
    defaults = CONFIGS["a2po" if "off_policy_correction" in config else "mappo"]().to_dict()
    always = {setting.attribute or setting.name.rstrip("_") for setting in SETTINGS if setting.setter in SETTERS}
    always |= {"_train_batch_size_per_learner", *BY_NAME}
    chosen = {
        name.lstrip("_"): value
        for name, value in config.items()
        if name in always or (not name.startswith("_") and name not in NOT_SETTINGS and value != defaults.get(name))
    }
    if chosen["train_batch_size_per_learner"] is not None:
        chosen.pop("train_batch_size", None)  # without effect
    chosen["network"] = chosen.pop("network_settings", {})
    return {key: value for name, given in sorted(chosen.items()) for key, value in _flat(given, name) if _plain(value)}


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{key}/{name}")
    elif isinstance(value, tuple | list):
        yield key, str(list(value))
    else:
        yield key, value


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
