"""Checks that a cluster, CPUs and GPUs for an algorithm's processes exist: Ray itself would wait for them for long."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from lorasa_rllib.rllib.starts import in_worker

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

logger = logging.getLogger(__name__)

LIMIT = 900.0
"""Seconds to wait for resources while an autoscaler starts nodes, which takes minutes, or other jobs finish."""

IN_TRIAL = 60.0
"""Seconds to wait for room in the placement group of a trial, whose other processes alone can release it."""

POLL = 2.0
"""Seconds between checks. The first passes silently: resources of a stopped algorithm are released with a delay."""


def check_address(address: str, setting: str) -> None:
    """Raises ValueError if nothing listens at "host:port" or "ray://host:port": Ray itself would wait for minutes.

    Other addresses, such as "auto", pass. setting: where the address comes from.
    """
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as problem:
        raise ValueError(
            f"no Ray cluster answers at {setting}={address} ({problem}). Start one there with `ray start --head`, or "
            f"leave {setting} out to use this machine."
        ) from None


def wait_for_room(config: TeamConfig, limit: float = LIMIT) -> None:
    """Returns once the cluster can start all remote env runners and learners.

    Raises ValueError at once if they can never fit because this process started Ray on this machine only, or into the
    placement group of this trial; otherwise TimeoutError after `limit` seconds (in a trial at most `IN_TRIAL`). An
    autoscaler sees the pending placement group.
    """
    wanted = requests(config)
    if not wanted:
        return
    if (group := ray.util.get_current_placement_group()) is not None:
        check_bundles(config, group.bundle_specs, ray.get_runtime_context().get_assigned_resources())
        wait_for_bundles(config, group, min(limit, IN_TRIAL))
        return
    total = _sum(wanted)
    check_machine(config)
    until = time.monotonic() + limit
    reserved = placement_group(wanted)
    try:
        if reserved.wait(POLL) or _has_room_for(total):
            return
        what = _what_is_missing(config, total)
        logger.warning(f"{what} Waiting up to {limit:.0f} s for nodes to join or other jobs to finish.")
        while not (reserved.wait(POLL) or _has_room_for(total)):
            if time.monotonic() >= until:
                raise TimeoutError(f"{_what_is_missing(config, total)} There was no room for {limit:.0f} s. {REMEDY}.")
    finally:
        remove_placement_group(reserved)


REMEDY = (
    "Lower num_env_runners, num_learners or what each of them requests, such as num_cpus_per_env_runner (of a "
    "checkpoint: from_checkpoint(path, config=...)); stop() algorithms that are no longer needed"
)


def check_machine(config: TeamConfig, main: Mapping[str, float] = MappingProxyType({})) -> None:
    """Raises ValueError if this process started Ray on this machine only, and env runners and learners never fit.

    main: resources of the algorithm itself, in addition.
    """
    if not ray.is_initialized() or not _started_here():
        return
    wanted = [*requests(config), *([dict(main)] if main else [])]
    total = _sum(wanted)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not (
        _covers(ray.cluster_resources(), total)
        and all(any(_covers(node, request) for node in nodes) for request in wanted)
    ):
        raise ValueError(f"{_what_is_missing(config, total)} {REMEDY}, or start Ray with more: ray.init(num_cpus=...).")


def check_bundles(config: TeamConfig, bundles: Sequence[Mapping[str, float]], own: Mapping[str, float]) -> None:
    """Raises ValueError if env runners and learners do not fit into the bundles of a trial's placement group.

    own: resources of this process, in bundle 0. Env runner number i, those of evaluation last, is placed in bundle i;
    learners in any.
    """
    free = [dict(bundle) for bundle in bundles]
    if not (_taken(free[0], own) and _fits(config, free)):
        raise ValueError(
            f"{_needs(config)}, but the placement group of this trial has the bundles {_listed(bundles)}. Leave "
            "tune.with_resources out, as algorithms request what they need; around a function that builds one, use "
            "tune.with_resources(function, MAPPO.default_resource_request(config))."
        )


def wait_for_bundles(config: TeamConfig, group: PlacementGroup, limit: float) -> None:
    """Returns once the bundles of a trial's placement group have room for env runners and learners.

    Raises TimeoutError if other processes of the trial, such as those of a second algorithm, hold it for `limit`
    seconds.
    """
    until = time.monotonic() + limit
    while not _fits(config, free := _free_in(group)):
        if time.monotonic() >= until:
            raise TimeoutError(
                f"{_needs(config)}, but other processes of this trial hold its placement group: of the bundles "
                f"{_listed(group.bundle_specs)}, {_listed(free)} are free, and have been for {limit:.0f} s. stop() the "
                "trial's other algorithm before this one is built, or make the bundles large enough for both: "
                "tune.with_resources(function, tune.PlacementGroupFactory([...])), with env runner number i of both in "
                "bundle i."
            )
        time.sleep(min(POLL, limit))


def _free_in(group: PlacementGroup) -> list[dict[str, float]]:
    """What is free in each bundle of a placement group."""
    there, group_id = ray.available_resources(), group.id.hex()
    return [
        {name: there.get(f"{name}_group_{at}_{group_id}", 0.0) for name in bundle}
        for at, bundle in enumerate(group.bundle_specs)
    ]


def _fits(config: TeamConfig, bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether env runners, each in its bundle, and learners, in any, fit into what is free in the bundles."""
    free = [dict(bundle) for bundle in bundles]
    runners = config.num_env_runners + config.evaluation_num_env_runners
    everyone = requests(config)
    fits = len(everyone) >= runners
    for place, request in enumerate(everyone):
        anywhere = range(len(free)) if place >= runners else range(place + 1, min(place + 2, len(free)))
        fits = fits and any(_taken(free[at], request) for at in anywhere)
    return fits


def _needs(config: TeamConfig) -> str:
    total = _amounts(_sum(requests(config)))
    return f"{_who(config)} need {total} besides the algorithm's own, every env runner in a bundle of its own"


def _listed(bundles: Sequence[Mapping[str, float]]) -> str:
    return f"[{', '.join(' and '.join(f'{n:g} {name}' for name, n in bundle.items()) for bundle in bundles)}]"


def _taken(free: dict[str, float], amounts: Mapping[str, float]) -> bool:
    """Takes `amounts` out of `free`, if they are there."""
    if not _covers(free, amounts):
        return False
    free |= {name: free[name] - amount for name, amount in amounts.items() if name in free}
    return True


def _sum(wanted: Sequence[Mapping[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for request in wanted:
        total.update(request)
    return total


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
    if index >= there and not (there == 1 and in_worker()):  # a worker uses the GPU that Ray assigned
        raise ValueError(
            f"local_gpu_idx={index} must be below {there}, the number of GPUs that PyTorch finds on this machine."
        )


def _covers(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in wanted.items())


def _started_here() -> bool:
    """Whether `ray.init` of this process started Ray on this machine: no node will join."""
    return ray.get_runtime_context().get_session_name().endswith(f"_{os.getpid()}")


def _has_room_for(total: Mapping[str, float]) -> bool:
    """Whether this is a Ray task and `total` is free once it releases its CPUs, as it does while it waits for others.

    Other processes keep what they have; for them, a placement group tells.
    """
    context = ray.get_runtime_context()
    if not in_worker() or context.get_actor_id() is not None:
        return False
    return _covers(_sum([ray.available_resources(), context.get_assigned_resources()]), total)


def _what_is_missing(config: TeamConfig, total: Mapping[str, float]) -> str:
    whole, free = ray.cluster_resources(), ray.available_resources()
    there = " and ".join(f"{whole.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in total)
    return f"{_who(config)} need {_amounts(total)}, each process on one node, but the cluster has {there}."


def _amounts(total: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}s" for name, amount in total.items())


def _who(config: TeamConfig) -> str:
    who = [f"num_env_runners={config.num_env_runners}"]
    who += [f"evaluation_num_env_runners={n}"] if (n := config.evaluation_num_env_runners) else []
    who += [f"num_learners={config.num_learners}"] if config.num_learners else []
    return ", ".join(who)
