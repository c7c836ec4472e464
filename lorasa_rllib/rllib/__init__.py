"""The Ray layer. Importing it registers the algorithms and environments with Tune."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray.tune.registry import register_env, register_trainable

from lorasa_rllib.envs.registry import ENVIRONMENTS, make_environment
from lorasa_rllib.rllib.algorithm import MAPPO
from lorasa_rllib.rllib.config import MAPPOConfig
from lorasa_rllib.rllib.module import LoRASAModule
from lorasa_rllib.rllib.runner import TeamEnvRunner

__all__ = ["MAPPO", "LoRASAModule", "MAPPOConfig", "TeamEnvRunner"]


def _one_environment(name: str, env_config: Any) -> Any:
    return make_environment(name, 1, dict(env_config))


register_trainable("MAPPO", MAPPO)
for _name in ENVIRONMENTS:
    register_env(_name, partial(_one_environment, _name))
