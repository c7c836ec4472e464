"""How fast is training beside what a user would pick instead? Whole iterations (sampling and update), one core.

Compared   ours with one shared policy, with LoRASA's adapter phase, and with LoRASA trained jointly |
           mujoco: RLlib's stock PPO, TorchRL's multi-agent PPO through its PettingZoo wrapper |
           vmas: TorchRL's multi-agent PPO, the loop and the numbers of its tutorial on VMAS |
           smax: JaxMARL's own MAPPO, its script unchanged (`benchmarks/jaxmarl_mappo.py`), the numbers it publishes
Method     mujoco: HalfCheetah 6x1, 16 environments x 250 steps, five passes of one minibatch, two layers of 64 |
           vmas: navigation, four agents, 600 worlds x 10 steps, 30 passes of 15 minibatches, two layers of 256 |
           smax: 3s5z, 128 battles x 128 steps, four passes of four minibatches, a layer of 128, a GRU of 128 and
           another layer, in actor and critic, sequences of 128 steps |
           each peer is a process of its own that waits for its turn, all of them on one core; iterations alternate;
           median and range of wall clock, and CPU seconds, which a busy machine changes less; an error if a peer takes
           other numbers of environment or optimiser steps, or if its loss does not change
Same       observations, widths, activations (no LayerNorms or running statistics here), numbers of steps, passes and
           minibatches. Ours compiles optimiser steps in the warm-up, as runs of more than a minute do by themselves
           (not with sequences of more than 20 steps)
Different  RLlib's critic reads the agent's own observation, all others are central. On VMAS, ours has a value for each
           agent, as rewards are each agent's; TorchRL has one for the team. TorchRL's standard deviations are outputs
           of the network. JaxMARL compiles sampling and update to one program and begins each time with new weights
Run        python benchmarks/peers.py [--tasks mujoco] [--peers ours-ps rllib-ppo] [--json FILE]
           needs pip install -e ".[bench,smax,vmas]" -c constraints.txt; peers that are not installed are left out;
           --python jaxmarl-mappo=PATH runs one of them with another interpreter
           about 3 (mujoco), 10 (vmas) and 10 minutes (smax); --smoke: small sizes, a minute
Expect     mujoco: at least 10 times RLlib's stock PPO; smax: at least JaxMARL's speed
Recorded   docs/performance.md
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.children import Child
from benchmarks.peer_process import PEERS, SMOKE, TASKS, Task
from benchmarks.timing import alternate, arguments, report, spread

NEEDS = {
    "torchrl-ppo": ("torchrl",),
    "jaxmarl-mappo": ("jaxmarl", "distrax", "hydra", "omegaconf", "wandb"),
    "vmas": ("vmas",),
    "smax": ("jaxmarl",),
}
"""Packages that a peer or a task needs beyond those of this one."""
BASE = "ours-ps"


class Turns:
    """A peer that takes turns, and its answers (`peer_process.Answer`)."""

    def __init__(self, who: str, task: str, python: str, smoke: bool):
        command = [python, str(Path(__file__).with_name("peer_process.py")), who, task, *(["--smoke"] if smoke else [])]
        self.who, self._child = who, Child(f"{who} on {task}", command)
        self.answers: list[dict[str, Any]] = []

    def iterate(self) -> None:
        self.answers.append(self._child.ask())

    def check(self, task: Task) -> None:
        """Raises RuntimeError if its iterations were not those of the task, or if it does not learn."""
        asked = task.env_steps, task.optimiser_steps
        if any((answer["env_steps"], answer["optimiser_steps"]) != asked for answer in self.answers):
            raise RuntimeError(f"{self.who} took other numbers of steps than {asked}: {self.answers}")
        if len({answer["loss"] for answer in self.answers}) < len(self.answers):
            raise RuntimeError(f"{self.who} does not learn, its loss stays the same: {self.answers}")

    def close(self) -> None:
        self._child.close()


def missing(python: str, packages: Sequence[str]) -> list[str]:
    """Those of the packages that an interpreter does not have."""
    code = "import sys; from importlib.util import find_spec; print(*(p for p in sys.argv[1:] if not find_spec(p)))"
    answer = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    return answer.stdout.split()


def measured(
    task: str, peers: Sequence[str], pythons: dict[str, str], repeats: int, smoke: bool = False
) -> list[dict[str, Any]]:
    """The rows of a task."""
    sizes = (SMOKE if smoke else TASKS)[task]
    turns: list[Turns] = []
    try:
        for who in peers:
            turns.append(Turns(who, task, pythons.get(who, sys.executable), smoke))
        seconds = alternate({one.who: one.iterate for one in turns}, repeats)
    finally:
        for one in turns:
            one.close()
    rows = []
    for one in turns:
        one.check(sizes)
        cpu = [answer["cpu_seconds"] for answer in one.answers[-repeats:]]
        base = seconds.get(BASE, seconds[one.who])
        rows.append(
            {
                "task": task,
                "who": one.who,
                "env_steps_per_s": spread([sizes.env_steps / s for s in seconds[one.who]]),
                "cpu_seconds_per_iteration": spread(cpu),
                "share_of_ours_ps": statistics.median(base) / statistics.median(seconds[one.who]),
                "parameters": one.answers[-1]["parameters"],
            }
        )
    return rows


def main() -> None:
    names = list(dict.fromkeys(who for peers in PEERS.values() for who in peers))
    parser = arguments(__doc__ or "")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument("--python", nargs="+", default=[], metavar="PEER=PATH", help="interpreters of some of them")
    parser.add_argument("--core", type=int, help="the core that all of them share; default: the last one")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that everything runs")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        core = max(os.sched_getaffinity(0)) if options.core is None else options.core
        os.sched_setaffinity(0, {core})  # processes that this one starts inherit it
    pythons = dict(pair.split("=", 1) for pair in options.python)
    rows = []
    for task in options.tasks:
        present = []
        for who in (who for who in PEERS[task] if who in options.peers):
            needed = (*NEEDS.get(task, ()), *NEEDS.get(who, ()))
            lacking = missing(pythons.get(who, sys.executable), needed)
            if lacking:
                print(f"{who} on {task} is left out: {', '.join(lacking)} not installed")
            else:
                present.append(who)
        if present:
            rows += measured(task, present, pythons, options.repeats, options.smoke)
    if rows:
        report("Whole training iterations, one core", rows, options.json)


if __name__ == "__main__":
    main()
