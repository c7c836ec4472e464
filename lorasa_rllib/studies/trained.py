"""Trained policies of finished trials: reads checkpoints, and lets the policies play."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from lorasa_rllib.analysis.observations import ObservationBank, bank_of
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.saved import team_policy
from lorasa_rllib.rllib.checkpoints import config_of_checkpoint, env_steps_of, is_checkpoint, read_checkpoint
from lorasa_rllib.rllib.faults import Fault
from lorasa_rllib.rllib.runner import TeamEnvRunner

CHECKPOINT = "checkpoint_*"


@dataclass(frozen=True)
class Trial:
    """A folder of Tune with checkpoints. checkpoints: paths by environment steps, in order."""

    path: Path
    checkpoints: dict[int, Path]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def last(self) -> Path:
        return self.checkpoints[max(self.checkpoints)]

    @property
    def arm(self) -> str:
        """Its name without the seed."""
        return re.sub(r"_seed\d+$", "", self.name)


def find_trials(folder: Path) -> list[Trial]:
    """The trials of an experiment's folder, or the one whose folder it is. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give that of an experiment, such as ~/lorasa_results/NAME.")
    candidates = [folder] if list(folder.glob(CHECKPOINT)) else sorted(p for p in folder.iterdir() if p.is_dir())
    found = [Trial(path, checkpoints) for path in candidates if (checkpoints := _checkpoints(path))]
    if not found:
        raise ValueError(
            f"{folder} holds no trial with a checkpoint. Give the folder of an experiment or of a trial of this "
            "package's scripts."
        )
    return found


def _checkpoints(path: Path) -> dict[int, Path]:
    """A checkpoint's number is that of the saving: how long it was trained, its own state says."""
    found = {env_steps_of(one): one for one in sorted(path.glob(CHECKPOINT)) if is_checkpoint(one)}
    return dict(sorted(found.items()))


def load_policy_of(checkpoint: Path) -> TeamPolicy:
    """The policy of an Algorithm checkpoint, in the phase it was saved in. Checkpoints are pickles: read your own."""
    return team_policy(read_checkpoint(checkpoint)).eval()


def play(checkpoint: Path, num_envs: int, env_steps: int, seed: int = 0) -> ObservationBank:
    """What agents see while the policy of a checkpoint acts (actions are sampled), pooled over agents."""
    config = config_of_checkpoint(checkpoint).copy(copy_frozen=False)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs).learners(num_learners=0)
    config.debugging(seed=seed)
    policy = load_policy_of(checkpoint)
    config.order_agents(policy.config.spec.agents)  # checkpoints of earlier versions do not know their order
    length = config.chunk_length
    runner = TeamEnvRunner(config=config, worker_index=0)
    try:
        weights = policy.state_dict()
        runner.policy.load_state_dict({name: weights[name] for name in runner.policy.state_dict()})
        answer = runner.attempt(num_timesteps=-(-env_steps // (num_envs * length)) * num_envs * length)
    finally:
        runner.stop()
    if isinstance(answer, Fault):
        raise answer.exception(f"the environment of {checkpoint}")
    ((sampled,), _) = answer
    (rollout,) = (ray.get(s) if isinstance(s, ray.ObjectRef) else s for s in sampled.shards)
    ended = rollout.terminated | rollout.truncated
    keep = np.concatenate([np.zeros_like(ended[:1]), ~ended[:-1]])
    return bank_of(rollout.obs, keep, rollout.masks, rollout.active)
