"""The options of a study as a record, used by everything after the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StudyOptions:
    """What to train, for how long, and where. See `options.parser` for each option.

    settings: from --set, by full names such as "training.lr"; env_settings: from --env-set.
    """

    suite: str
    algorithm: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    total_env_steps: int
    phase_switch: int | float | str | None
    obs: str | None
    agent_obsk: int | None
    state: str | None
    network: str | None
    preset: str
    num_epochs: int | None
    id_features: str
    r: int
    lora_alpha: float | None
    init_lora_weights: str
    adapter_lr_scale: float | None
    num_env_runners: int
    num_envs: int | None
    sample_ahead: bool
    num_learners: int
    num_gpus_per_learner: float
    evaluation_interval: int | None
    max_concurrent: int | None
    keep_checkpoints: int
    storage_path: str
    name: str
    address: str | None
    resume: bool
    smoke: bool
    fork_at: tuple[int, ...] = ()
    fork_base: str = "lora"
    loggers: tuple[str, ...] = ()
    films: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    env_settings: dict[str, Any] = field(default_factory=dict)
