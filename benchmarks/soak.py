"""Does a run survive half an hour of dying env runners, with flat memory and every step counted?

Method     HalfCheetah 2x3, LoRASA in two phases, two remote env runners and one remote learner, 2,000 environment steps
           an iteration; every 20 to 60 s an env runner is killed. Every iteration adds exactly one batch to the counts
           of sampled and trained steps, or the benchmark fails. Memory is the RSS of driver and learner; its slope is
           fitted over the last two thirds of the run
Run        python benchmarks/soak.py [--minutes 30] [--csv FILE] [--json FILE]
Expect     slopes within 1 MiB per minute, exact counters, no hangs
Recorded   results/soak/, docs/performance.md
"""

from __future__ import annotations

import csv
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import ray

from benchmarks.timing import arguments, report
from lorasa_rllib import MAPPOConfig

BATCH = 2000
COLUMNS = ("minutes", "iteration", "steps", "driver_MiB", "learner_MiB", "kills", "faults", "env_runners")


def resident(pid: int) -> float:
    """Memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--csv", type=Path, default=Path("results/soak/soak.csv"))
    options = parser.parse_args()
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("lorasa_rllib").setLevel(logging.ERROR)
    algo = (
        MAPPOConfig()
        .environment("mamujoco", env_config={"scenario": "HalfCheetah", "agent_conf": "2x3"})
        .sharing("lora", phase_switch=0.3, total_env_steps=3_000_000)
        .env_runners(num_env_runners=2, num_envs_per_env_runner=8)
        .learners(num_learners=1)
        .training(train_batch_size_per_learner=BATCH, num_epochs=2, minibatch_size=None, lr=3e-4)
        .debugging(seed=1, log_level="ERROR")
        .build_algo()
    )
    (pid,) = algo.learner_group.foreach_learner(lambda learner: os.getpid())
    learner, rows, kills, chance = pid.get(), [], 0, random.Random(1)
    began = time.monotonic()
    next_kill = began + 20
    with options.csv.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        while (now := time.monotonic()) < began + 60 * options.minutes:
            result = algo.train()
            steps = BATCH * (len(rows) + 1)
            trained = result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"]
            assert result["num_env_steps_sampled_lifetime"] == trained == steps, (result, steps)
            alive = algo.env_runner_group.num_healthy_remote_workers()
            rows.append(
                ((now - began) / 60, len(rows) + 1, steps, resident(os.getpid()), resident(learner), kills,
                 result["num_faults"], alive)
            )  # fmt: skip
            out.writerow([f"{x:.6g}" for x in rows[-1]])
            file.flush()
            if now > next_kill:
                victims = algo.env_runner_group.foreach_env_runner(lambda r: os.getpid(), local_env_runner=False)
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills, next_kill = kills + 1, now + chance.uniform(20, 60)
    algo.stop()
    ray.shutdown()
    late = np.array(rows)[len(rows) // 3 :]
    summary = {
        "minutes": rows[-1][0],
        "iterations": len(rows),
        "steps": rows[-1][2],
        "kills": kills,
        "driver_MiB": f"{late[0, 3]:.0f} to {late[-1, 3]:.0f}",
        "driver_MiB_per_minute": float(np.polyfit(late[:, 0], late[:, 3], 1)[0]),
        "learner_MiB": f"{late[0, 4]:.0f} to {late[-1, 4]:.0f}",
        "learner_MiB_per_minute": float(np.polyfit(late[:, 0], late[:, 4], 1)[0]),
        "longest_iteration_s": float(60 * np.diff(np.array(rows)[:, 0]).max()),
    }
    report("Soak: env runners killed at random", [summary], options.json)


if __name__ == "__main__":
    main()
