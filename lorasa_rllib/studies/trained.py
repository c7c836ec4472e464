"""Trained policies of finished trials: reads checkpoints and plays the policies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorasa_rllib.analysis.observations import ObservationBank, bank_of
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.folder import policy_files
from lorasa_rllib.policies.saved import team_policy
from lorasa_rllib.rllib.checkpoints import env_steps_of, is_checkpoint, read_trained
from lorasa_rllib.rllib.seeds import first_seed
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.memory import Memory
from lorasa_rllib.studies.playing import Environment, environment_of

CHECKPOINT = "checkpoint_*"


@dataclass(frozen=True)
class Trial:
    """A trial's folder with checkpoints. checkpoints: environment steps -> path, in ascending order."""

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
        """The trial's name without the seed."""
        return re.sub(r"_seed\d+$", "", self.name)


def find_trials(folder: Path, trust: bool = False) -> list[Trial]:
    """The trials in an experiment's folder, or the trial whose folder this is.

    trust: whether checkpoints without policy files may be unpickled. Raises ValueError if no trial has a checkpoint.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give that of an experiment, such as ~/lorasa_results/NAME.")
    candidates = [folder] if list(folder.glob(CHECKPOINT)) else sorted(p for p in folder.iterdir() if p.is_dir())
    found = [Trial(path, checkpoints) for path in candidates if (checkpoints := _checkpoints(path, trust))]
    if not found:
        raise ValueError(
            f"{folder} holds no trial with a checkpoint. Give the folder of an experiment or of a trial of this "
            "package's scripts."
        )
    return found


def _checkpoints(path: Path, trust: bool) -> dict[int, Path]:
    """Checkpoints by environment steps, read from their own state, as folder numbers only count checkpoints."""
    places = [one for one in sorted(path.glob(CHECKPOINT)) if policy_files(one) or is_checkpoint(one)]
    found = {env_steps_of(one, trust=trust and not policy_files(one)): one for one in places}
    return dict(sorted(found.items()))


def load_policy_of(checkpoint: Path, trust: bool = False) -> TeamPolicy:
    """The policy in an Algorithm checkpoint, in its saved phase. trust: whether it may be unpickled."""
    return team_policy(read_trained(checkpoint, trust)).eval()


def play(checkpoint: Path, num_envs: int, env_steps: int, seed: int = 0, trust: bool = False) -> ObservationBank:
    """Observations collected while a checkpoint's policy acts (sampling actions), pooled over agents.

    trust: whether pickles of older checkpoints and environment modules may run.
    """
    saved = read_trained(checkpoint, trust)
    origin = saved.origin
    env = environment_of(saved, num_envs, {}, environment=Environment(origin.environment, origin.env_config, trust))
    try:
        steps = -(-env_steps // num_envs)
        collector = Collector(env, Memory(saved.config, num_envs, steps, env.device), seed, first_seed(seed))
        rollout, _ = collector.steps(steps, LoadedPolicy(saved).acting)
    finally:
        env.close()
    keep = np.zeros((steps, num_envs), bool)
    keep[1:] = ~(rollout.terminated | rollout.truncated)[:-1]
    return bank_of(rollout.obs, keep, rollout.masks, rollout.active, absent_forget=saved.config.absent_forget)
