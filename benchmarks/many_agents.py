"""What do very many agents cost?

Compared   bank layers' execution paths (merged, factored, sorted rows) at equal numbers of rows, from 8 agents with
           1,000 rows each to 4,096 agents with 2; then whole iterations (sample and learn) on the synthetic team
Method     forward and backward of the actor in the adapter phase, two hidden layers of 64, r = 8, one thread, workloads
           alternate; iterations run in separate processes, whose peak memory is reported
Run        python benchmarks/many_agents.py [--json FILE]                     about 3 minutes
Expect     time per row at 1,000 agents x 8 rows at most 3 times that at 8 agents x 1,000 rows
Recorded   docs/performance.md
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ours import Team, with_numbers
from benchmarks.timing import alternate, arguments, report, spread
from lorasa_rllib import MAPPOConfig
from lorasa_rllib.nn import bank

SHAPES = ((8, 1000), (64, 125), (1000, 8), (4096, 2))
ITERATIONS = (8, 64, 1000, 4096)
OBS = 16


def synthetic(num_agents: int, num_envs: int, train_batch: int) -> MAPPOConfig:
    env = {"num_agents": num_agents, "obs_size": OBS, "action_size": 2}
    return with_numbers(MAPPOConfig().environment("synthetic", env_config=env), num_envs, train_batch)


def actor_rows(repeats: int) -> list[dict[str, Any]]:
    """Microseconds per row of forward and backward, for each path."""
    workloads = {}
    for agents, rows in SHAPES:
        policy = Team(synthetic(agents, 1, 1), "adapters").learner.policy
        obs = torch.randn(rows, agents, OBS)
        index = torch.arange(agents).repeat(rows)
        flat = obs.reshape(-1, OBS)

        def run(policy: Any = policy, obs: Any = obs, merge_from: int | None = None, index: Any = None) -> None:
            usual, bank.MERGE_FROM_ROWS = (
                bank.MERGE_FROM_ROWS,
                bank.MERGE_FROM_ROWS if merge_from is None else merge_from,
            )
            try:
                policy.distribution(obs, agent=index).mean.square().sum().backward()
            finally:
                bank.MERGE_FROM_ROWS = usual

        name = f"{agents:,} agents x {rows:,} rows"
        workloads[name, "chosen"] = run
        workloads[name, "merged"] = lambda run=run: run(merge_from=0)
        workloads[name, "factored"] = lambda run=run: run(merge_from=10**9)
        workloads[name, "sorted"] = lambda run=run, flat=flat, index=index: run(obs=flat, index=index)
    seconds = alternate(workloads, repeats, warmups=3)  # type: ignore[arg-type]
    total = {name: agents * rows for agents, rows in SHAPES for name in [f"{agents:,} agents x {rows:,} rows"]}
    base = statistics.median(seconds[next(iter(seconds))]) / total[next(iter(total))]
    return [
        {
            "shape": name,
            "path": path,
            "us_per_row": spread([1e6 * s / total[name] for s in values]),
            "times_first": statistics.median(values) / total[name] / base,
        }
        for (name, path), values in seconds.items()
    ]


def iteration(num_agents: int) -> dict[str, Any]:
    """One whole iteration in this process: 8 environments x 16 steps."""
    team = Team(synthetic(num_agents, 8, 128), "adapters")
    team.iteration()
    began = time.perf_counter()
    data = team.sample()
    sampled = time.perf_counter()
    team.learn(data)
    team.hand_out()
    ended = time.perf_counter()
    return {
        "agents": num_agents,
        "agent_rows": num_agents * 128,
        "sample_s": sampled - began,
        "learn_s": ended - sampled,
        "us_per_agent_row": 1e6 * (ended - began) / (num_agents * 128),
        "adapter_parameters": sum(p.numel() for p in team.learner.policy.parameters_of("adapters").values()),
        "peak_memory_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--one-iteration", type=int, help="measure this team size in this process and print JSON")
    options = parser.parse_args()
    if options.one_iteration:
        print(json.dumps(iteration(options.one_iteration)))
        return
    rows = actor_rows(options.repeats)
    report("Actor, forward and backward, adapter phase", rows, options.json)
    command = [sys.executable, "-W", "ignore", __file__, "--one-iteration"]
    whole = []
    for agents in ITERATIONS:
        answer = subprocess.run([*command, str(agents)], capture_output=True, text=True, check=True, timeout=600)
        whole.append(json.loads(answer.stdout.splitlines()[-1]))
    second = options.json.with_name(options.json.stem + "_iterations.json") if options.json else None
    report("One iteration, 8 environments x 16 steps, synthetic team", whole, second)


if __name__ == "__main__":
    main()
