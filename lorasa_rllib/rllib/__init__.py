"""The RLlib layer. Importing it registers the algorithms and environments with Tune."""

from __future__ import annotations

from functools import partial

from ray.tune.registry import register_env, register_trainable

from lorasa_rllib.envs.registry import ENVIRONMENTS
from lorasa_rllib.rllib.a2po import A2PO, A2POConfig
from lorasa_rllib.rllib.mappo import MAPPO, MAPPOConfig
from lorasa_rllib.rllib.module import LoRASAModule, map_to_shared_policy
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.stock import TeamMultiAgentEnv, shared_policy_spec
from lorasa_rllib.rollout.episodes import EpisodeSummary

__all__ = [
    "A2PO",
    "MAPPO",
    "A2POConfig",
    "EpisodeSummary",
    "LoRASAModule",
    "MAPPOConfig",
    "TeamEnvRunner",
    "TeamMultiAgentEnv",
    "map_to_shared_policy",
    "shared_policy_spec",
]

register_trainable("MAPPO", MAPPO)
register_trainable("A2PO", A2PO)
for _name in ENVIRONMENTS:
    register_env(_name, partial(TeamMultiAgentEnv.registered, _name))
