"""How does a run scale over env runners, environments per runner and learners, and where does the time go?

Compared   1 and 2 remote env runners; 8, 16 and 64 environments each; 0 and 1 remote learners; sampling ahead or not.
           Each iteration is split into sample, transfer (rollouts to learners), learn, sync (weights to env runners)
Method     HalfCheetah 6x1, LoRASA's adapter phase, 4,000 environment steps an iteration, five epochs, two hidden layers
           of 64, one thread per process; all algorithms are built first and then alternate by iteration; medians.
           "sampling" alone: rounds without updates, all runners at once
Model      an iteration of R runners, each with its share of a batch of 256 steps per runner:
               sample    256 / rate of one runner, + a call per runner on the driver
               transfer  bytes of the batch / network rate
               learn     seconds per step x steps / learners
               sync      bytes of the weights x machines (16 runners each) / network rate, + a call per runner
           rates, bytes and seconds per call as measured here, network rate as given (--gigabits)
Run        python benchmarks/scaling.py [--json FILE] [--cpus 32]                           about 6 minutes
Expect     two runners on two cores sample at least 1.75 times as fast as one
Recorded   README, "Performance"; cluster/README.md
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parents[1]))

import ray
import torch

from benchmarks.ours import team_config
from benchmarks.timing import alternate, arguments, report, spread
from lorasa_rllib.rllib.results import SPLIT

BATCH, PARTS = 4000, ("sample", "transfer", "learn", "sync")
PER_RUNNER, RUNNERS_PER_MACHINE = 256, 16


def algorithm(runners: int, envs: int = 16, learners: int = 0, ahead: bool = False) -> Any:
    """A running algorithm on HalfCheetah 6x1."""
    batch = -(-BATCH // (runners * envs)) * runners * envs
    return (
        team_config("HalfCheetah", "6x1", envs, batch)
        .sharing("lora", phase_switch=0)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=envs, sample_ahead=ahead)
        .learners(num_learners=learners)
        .build_algo()
    )


class Rounds:
    """Rounds of sampling by the env runners of an algorithm, without updates."""

    def __init__(self, algo: Any):
        self._algo = algo

    def __call__(self) -> None:
        self._algo._sampling.round()


def split_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the parts of an iteration in milliseconds, and steps per second."""
    parts = {part: statistics.median(r[SPLIT][part] for r in results) for part in PARTS}
    whole = statistics.median(r["time_this_iter_s"] for r in results)
    steps = results[-1]["env_runners"]["num_env_steps_sampled"]
    return {**{f"{part}_ms": 1000 * parts[part] for part in PARTS}, "steps_per_s": steps / whole}


def iterations(algorithms: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """Runs iterations of the algorithms in turn. Returns one row per algorithm."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in algorithms}
    alternate({name: lambda name=name: results[name].append(algorithms[name].train()) for name in algorithms}, repeats)
    return [{"what": name, **split_of(of[-repeats:])} for name, of in results.items()]


def seconds_per_call(algo: Any, repeats: int = 200) -> float:
    """Driver time per additional env runner in a call; calls are sent without waiting for each other."""
    group = algo.env_runner_group
    started = time.perf_counter()
    for _ in range(repeats):
        group.foreach_env_runner("ping", local_env_runner=False, timeout_seconds=0.0)
    group.foreach_env_runner("ping", local_env_runner=False)
    return (time.perf_counter() - started) / (repeats + 1) / group.num_remote_env_runners()


def bytes_of_rollout_and_weights(algo: Any) -> tuple[float, int]:
    """Bytes of a rollout per environment step, and of the weights."""
    (part, *_), _ = algo._sampling.round()
    rollout = ray.get(part.shards[0])
    columns = [c for c in vars(rollout).values() if hasattr(c, "nbytes")]
    weights = algo.learner_group.get_state(components="learner/rl_module", inference_only=True)["learner"]["rl_module"]
    tensors = [torch.as_tensor(value) for module in weights.values() for value in module.values()]
    return sum(c.nbytes for c in columns) / part.num_env_steps, sum(t.nbytes for t in tensors)


def extrapolated(facts: dict[str, float], runners: int, learners: int, network: float) -> dict[str, Any]:
    """The model of this file's docstring. network: bytes per second."""
    steps = PER_RUNNER * runners
    seconds = {
        "sample": PER_RUNNER / facts["steps_per_s_of_one_runner"] + facts["s_per_call"] * runners,
        "transfer": facts["bytes_per_step"] * steps / network / max(1, learners),
        "learn": facts["learn_s_per_step"] * steps / max(1, learners),
        "sync": facts["weights_bytes"] * -(-runners // RUNNERS_PER_MACHINE) / network + facts["s_per_call"] * runners,
    }
    whole, ahead = sum(seconds.values()), max(seconds["sample"], sum(seconds.values()) - seconds["sample"])
    milliseconds = {f"{part}_ms": 1000 * s for part, s in seconds.items()}
    return {
        "runners": runners,
        "learners": learners,
        **milliseconds,
        "steps_per_s": steps / whole,
        "sampling_ahead_steps_per_s": steps / ahead,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--cpus", type=int, default=32, help="CPUs that Ray hands out; the machine may have fewer")
    parser.add_argument("--gigabits", type=float, default=10.0, help="network rate of the model")
    options = parser.parse_args()
    ray.init(num_cpus=options.cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def file(name: str) -> Path | None:
        return options.json.with_name(f"{options.json.stem}_{name}.json") if options.json else None

    one, two = algorithm(1), algorithm(2)
    rounds = alternate({"1 runner": Rounds(one), "2 runners": Rounds(two)}, 2 * options.repeats)
    medians = {who: statistics.median(seconds) for who, seconds in rounds.items()}
    base = medians["1 runner"]
    rows = [
        {"who": who, "steps_per_s": BATCH / m, "seconds": spread(rounds[who]), "speed-up": base / m}
        for who, m in medians.items()
    ]
    report(f"Sampling {BATCH:,} environment steps", rows, file("sampling"))
    per_step, weights = bytes_of_rollout_and_weights(one)
    facts = {
        "steps_per_s_of_one_runner": BATCH / base,
        "s_per_call": seconds_per_call(two),
        "bytes_per_step": per_step,
        "weights_bytes": weights,
    }
    others = {
        "1 runner": one,
        "2 runners": two,
        "2 runners, sampling ahead": algorithm(2, ahead=True),
        "2 runners of 8 environments": algorithm(2, envs=8),
        "2 runners of 64 environments": algorithm(2, envs=64),
        "2 runners, 1 remote learner": algorithm(2, learners=1),
        "2 runners, 1 remote learner, ahead": algorithm(2, learners=1, ahead=True),
    }
    rows = iterations(others, options.repeats)
    report("Iterations", rows, file("iterations"))
    facts["learn_s_per_step"] = rows[1]["learn_ms"] / 1000 / BATCH
    report("Measured for the model", [facts], file("facts"))
    network = options.gigabits * 1e9 / 8
    sizes = [(runners, learners) for runners in (8, 64, 1024) for learners in (1, 8)]
    rows = [extrapolated(facts, runners, learners, network) for runners, learners in sizes]
    report(f"Extrapolated, {options.gigabits:g} Gbit/s, 256 steps per runner", rows, file("model"))
    for algo in others.values():
        algo.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
