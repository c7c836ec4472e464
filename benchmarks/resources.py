"""What do sharing methods cost as teams grow?

Compared   sharing methods (default: all there are) in their last phase, 2 to 128 agents, synthetic team
Method     counted: parameters, bytes of weights and of Adam's moments. Measured: acting and learning on 8 environments
           x 16 steps, two hidden layers of 64, r = 8, five full-batch epochs, one thread; every method and size runs in
           two processes, in two rounds over all of them, and the faster median is reported. Memory: peak minus that
           of PS with a single agent; differences below 1 MiB are noise and count as 1 MiB. SePS: two groups
Run        python benchmarks/resources.py --csv FILE [--figure FILE] [--methods ps lora] [--agents 2 8 32]
           about 7 minutes
Recorded   results/resources/resources.csv; docs/performance.md
Expect     parameters of PS nearly constant, of NPS proportional to the number of agents; LoRASA trains fewer than NPS
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

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.many_agents import synthetic
from benchmarks.ours import Team
from benchmarks.timing import arguments, report
from lorasa_rllib import MAPPOConfig
from lorasa_rllib.analysis.resources import count_methods, draw_resources, last_phase
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.sharing.methods import METHODS
from lorasa_rllib.studies.methods import colours_of

ENVS, ENV_STEPS = 8, 128
AGENTS = (2, 8, 32, 128)
ROUNDS = 2
SPEEDS = ("acting_steps_per_second", "learning_steps_per_second")
GROUPED = ("seps", "seps_lora")


def config_of(method: str, agents: int) -> MAPPOConfig:
    groups: dict[str, Any] = {"groups": tuple(n % 2 for n in range(agents))} if method in GROUPED else {}
    return synthetic(agents, ENVS, ENV_STEPS).sharing(method, **groups)


def policy_of(method: str, agents: int) -> PolicyConfig:
    return config_of(method, agents).plan().policy


def measure(method: str, agents: int, repeats: int) -> dict[str, Any]:
    """Measures one method and size in this process."""
    config = config_of(method, agents)
    team = Team(config, last_phase(config.plan().policy))
    team.iteration()
    acting, learning = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        data = team.sample()
        sampled = time.perf_counter()
        team.learn(data)
        learning.append(time.perf_counter() - sampled)
        acting.append(sampled - began)
        team.hand_out()
    return {
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # the peak
        "acting_steps_per_second": ENV_STEPS / statistics.median(acting),
        "learning_steps_per_second": ENV_STEPS / statistics.median(learning),
    }


def in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{answer.stderr[-2000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def table(methods: list[str], agents: list[int], repeats: int) -> pd.DataFrame:
    """Counted and measured columns with one row per method and number of agents."""
    frame = count_methods({m: lambda n, m=m: policy_of(m, n) for m in methods}, agents)
    smallest = in_a_process("--one", "ps", "1", "--repeats", str(repeats))["memory_bytes"]  # imports, runtime, RLlib
    cases = [(row.method, str(row.agents)) for row in frame[["method", "agents"]].itertuples()]
    rounds = [[in_a_process("--one", *case, "--repeats", str(repeats)) for case in cases] for _ in range(ROUNDS)]
    measured = pd.concat([pd.DataFrame(one) for one in rounds]).groupby(level=0)
    measured = measured.agg({"memory_bytes": "min", **dict.fromkeys(SPEEDS, "max")})
    measured["memory_bytes"] = (measured["memory_bytes"] - smallest).clip(lower=2**20)
    return frame.join(measured)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draws the table, with the same method names as other figures."""
    shown = frame.assign(method=frame["method"].str.replace("_", "-"))
    title = "Sharing methods on the synthetic team, last phase, one thread"
    draw_resources(shown, path, title, colours=colours_of(list(dict.fromkeys(shown["method"]))))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--agents", type=int, nargs="+", default=list(AGENTS))
    parser.add_argument("--csv", type=Path, help="write the table to this file")
    parser.add_argument("--figure", type=Path, help="draw it, too")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "AGENTS"), help="measure it in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        method, agents = options.one
        print(json.dumps(measure(method, int(agents), options.repeats)))
        return
    frame = table(options.methods, options.agents, options.repeats)
    report("Sharing methods on the synthetic team", frame.to_dict("records"), options.json)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(options.csv, index=False, float_format="%.6g")
    if options.figure:
        draw(frame, options.figure)


if __name__ == "__main__":
    main()
