"""Groups for SePS: clusters agents with `sharing.seps` on a short random rollout before training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ray

from lorasa_rllib.rllib.checkpoints import read_trained
from lorasa_rllib.rllib.faults import Fault
from lorasa_rllib.rllib.plan import network_of
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import resolved
from lorasa_rllib.rllib.sampling import Outcome
from lorasa_rllib.rllib.teams import learn_team
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.sharing.methods import takes
from lorasa_rllib.sharing.seps import find_groups, transitions

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

logger = logging.getLogger(__name__)

ENV_STEPS = 4000
"""Length of the rollout, summed over environments, as published."""


def with_groups(config: TeamConfig) -> TeamConfig:
    """A copy of the config with `groups` set, if its sharing method needs them and none are given; else the config.

    A run that starts from a checkpoint with groups (`fork_from`, `backbone`) reuses them.
    """
    if not config.needs_groups:
        return config
    spec, begun = config.team_spec(), config.fork_from or config.backbone
    if begun is not None:
        network_of(config)  # so that an encoder in the files is known
        owners = read_trained(begun).config.owners
        if "groups" in takes(owners.method) and len(owners.backbone_of) == spec.num_agents:
            return _grouped(config, owners.backbone_of)
    rollout = random_rollout(config)
    data = transitions(
        rollout.obs,
        rollout.actions,
        rollout.active,
        rollout.terminated | rollout.truncated,
        choices=0 if spec.continuous else spec.component_size,
    )
    groups = find_groups(data, spec.num_agents)
    logger.info("SePS shares actors in %d groups: %s", max(groups) + 1, dict(zip(spec.agents, groups, strict=True)))
    return _grouped(config, groups)


def _grouped(config: TeamConfig, groups: tuple[int, ...]) -> TeamConfig:
    found = config.copy(copy_frozen=False).sharing(groups=groups)
    found.freeze()
    return found


def random_rollout(config: TeamConfig) -> TeamRollout:
    """Samples `ENV_STEPS` steps of uniform actions in a temporary env runner, remote if the config has remote ones."""
    scout = config.copy(copy_frozen=False).sharing("ps", adapter_key="agent", num_adapters=None)
    scout.learners(num_learners=0).debugging(seed=config.seed or 0)
    scout.callbacks_class, scout.backbone, scout.adapters = [], None, None
    for name in vars(scout):
        if name.startswith("callbacks_on_"):
            setattr(scout, name, None)
    if not config.num_env_runners:
        runner = TeamEnvRunner(config=scout.env_runners(num_env_runners=0), worker_index=0)
        try:
            rollout = _only(runner.attempt(num_timesteps=ENV_STEPS, random_actions=True))
            learn_team(config).seen.keep(runner.give_away_env())  # reused for training
            return rollout
        finally:
            runner.stop()
    remote = ray.remote(
        num_cpus=config.num_cpus_per_env_runner,
        num_gpus=config.num_gpus_per_env_runner,
        resources=config.custom_resources_per_env_runner,
    )(TeamEnvRunner).remote(config=scout, worker_index=1)
    try:
        return _only(ray.get(remote.attempt.remote(num_timesteps=ENV_STEPS, random_actions=True), timeout=TIMEOUT))
    finally:
        ray.kill(remote)


TIMEOUT = 900.0
"""Seconds for the whole rollout, including the start of a remote process and its simulators."""


def _only(answer: Outcome) -> TeamRollout:
    if isinstance(answer, Fault):
        failed = answer.exception("the random rollout of SePS (.sharing(groups=...) goes without it) failed")
        raise failed from answer.cause
    ((one,), _) = answer
    (shard,) = one.shards
    return resolved(shard, TIMEOUT)
