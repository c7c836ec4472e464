"""Number of torch threads: one per process, unless the learner is the only process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lorasa_rllib.rllib.plan import minibatch_steps

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

ROWS_PER_THREAD = 4096
"""Rows of an optimiser step per thread; with fewer, another thread costs more than it saves, as layers are small."""


def threads_of_learner(config: TeamConfig) -> int:
    """`learner_threads`, or its default, see `TeamConfig.learners`."""
    if config.learner_threads is not None:
        return int(config.learner_threads)
    if config.num_learners or config.num_env_runners or config.evaluation_num_env_runners:
        return 1
    rows = (minibatch_steps(config) or config.total_train_batch_size) * config.team_spec().num_agents
    return max(1, min(cores(), rows // ROWS_PER_THREAD))


def cores() -> int:
    """Cores that this process may use: `OMP_NUM_THREADS`, which Ray sets for its actors, or its CPU affinity."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if said.isdigit() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Sets the number of torch threads within the context and restores it afterwards."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)
