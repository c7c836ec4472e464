"""Checks that CPUs and GPUs for an algorithm's processes exist: Ray itself would wait for them without limit."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

logger = logging.getLogger(__name__)

LIMIT = 900.0
"""Seconds to wait for resources while an autoscaler starts nodes, which takes minutes, or other jobs finish."""

POLL = 2.0
"""Seconds between checks. The first passes silently: resources of a stopped algorithm are released with a delay."""


def wait_for_room(config: TeamConfig, limit: float = LIMIT) -> None:
    """Returns once the cluster can start all remote env runners and learners. Trials of Tune have reserved theirs.

    Raises ValueError at once if they can never fit because this process started Ray on this machine only; otherwise
    TimeoutError after `limit` seconds. An autoscaler sees the pending placement group.
    """
    wanted = requests(config)
    if not wanted or ray.util.get_current_placement_group() is not None:
        return
    total: Counter[str] = Counter()
    for request in wanted:
        total.update(request)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = _covers(ray.cluster_resources(), total) and all(
        any(_covers(n, request) for n in nodes) for request in wanted
    )
    if fits and _in_worker():
        return
    if not fits and _started_here():
        raise ValueError(f"{_what_is_missing(config, total)} {REMEDY}, or start Ray with more: ray.init(num_cpus=...).")
    until = time.monotonic() + limit
    reserved = placement_group(wanted)
    try:
        if reserved.wait(POLL):
            return
        what = _what_is_missing(config, total)
        logger.warning(f"{what} Waiting up to {limit:.0f} s for nodes to join or other jobs to finish.")
        while not reserved.wait(POLL):
            if time.monotonic() >= until:
                raise TimeoutError(f"{_what_is_missing(config, total)} There was no room for {limit:.0f} s. {REMEDY}.")
    finally:
        remove_placement_group(reserved)


REMEDY = (
    "Lower num_env_runners, num_learners or what each of them requests, such as num_cpus_per_env_runner (of a "
    "checkpoint: from_checkpoint(path, config=...)); stop() algorithms that are no longer needed"
)


def requests(config: TeamConfig) -> list[dict[str, float]]:
    """Resources that each remote env runner and learner requests, by name."""
    runner = {
        "CPU": config.num_cpus_per_env_runner,
        "GPU": config.num_gpus_per_env_runner,
        **config.custom_resources_per_env_runner,
    }
    cpus = config.num_cpus_per_learner
    learner = {
        "CPU": float(not config.num_gpus_per_learner) if cpus == "auto" else cpus,
        "GPU": config.num_gpus_per_learner,
        **(config.custom_resources_per_learner or {}),
    }
    runners = config.num_env_runners + config.evaluation_num_env_runners
    everyone = [runner] * runners + [learner] * config.num_learners
    return [present for request in everyone if (present := {name: float(n) for name, n in request.items() if n})]


def check_gpu(config: TeamConfig) -> None:
    """Raises ValueError if the learner of this process should have a GPU and PyTorch finds none."""
    if not config.num_gpus_per_learner:
        return
    there, index = torch.cuda.device_count(), config.local_gpu_idx
    if not there:
        raise ValueError(
            f"num_gpus_per_learner={config.num_gpus_per_learner} asks for a GPU, but PyTorch finds none on this "
            "machine (torch.cuda.device_count() is 0). Set .learners(num_gpus_per_learner=0), or install a PyTorch "
            "that supports the GPU."
        )
    if index >= there and not (there == 1 and _in_worker()):  # a worker uses the GPU that Ray assigned
        raise ValueError(
            f"local_gpu_idx={index} must be below {there}, the number of GPUs that PyTorch finds on this machine."
        )


def _covers(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in wanted.items())


def _started_here() -> bool:
    """Whether `ray.init` of this process started Ray on this machine: no node will join."""
    return ray.get_runtime_context().get_session_name().endswith(f"_{os.getpid()}")


def _in_worker() -> bool:
    """Whether this process is a Ray worker: its task releases its CPUs while it waits for others."""
    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def _what_is_missing(config: TeamConfig, total: Mapping[str, float]) -> str:
    whole, free = ray.cluster_resources(), ray.available_resources()
    needed = " and ".join(f"{amount:g} {name}s" for name, amount in total.items())
    there = " and ".join(f"{whole.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in total)
    who = [f"num_env_runners={config.num_env_runners}"]
    who += [f"evaluation_num_env_runners={n}"] if (n := config.evaluation_num_env_runners) else []
    who += [f"num_learners={config.num_learners}"] if config.num_learners else []
    return f"{', '.join(who)} need {needed}, each process on one node, but the cluster has {there}."
