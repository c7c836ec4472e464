"""How fast are environments sampled? One env runner, one core.

Compared   ours, LoRASA's adapter phase and plain shared policy | RLlib's stock multi-agent runner |
           a loop over `gymnasium.make(task)` with precomputed actions (no policy, no agents: the upper bound)
Method     16 and 64 environments, two hidden layers of 64; all alternate in one process; median and range
Run        python benchmarks/sampling.py [--tasks Ant-4x2] [--json FILE]      about 8 minutes
Expect     64 environments: at least 14 (HalfCheetah), 4 (Ant) and 3 (Humanoid) times stock, and the bare loop's speed
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ours import Team, team_config
from benchmarks.stock import build_stock_runner, stock_ppo_config
from benchmarks.timing import alternate, arguments, report, spread

TASKS = {
    ("HalfCheetah", "6x1"): "HalfCheetah-v5",
    ("Ant", "4x2"): "Ant-v5",
    ("Humanoid", "9|8"): "Humanoid-v5",
}
"""Scenario and how it is divided among agents -> task of Gymnasium."""


def bare_loop(task: str, num_envs: int, steps: int) -> Callable[[], None]:
    """Steps `num_envs` Gymnasium environments one after another, with precomputed actions."""
    envs = [gymnasium.make(task) for _ in range(num_envs)]
    for e, env in enumerate(envs):
        env.reset(seed=e)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, *envs[0].action_space.shape))

    def run() -> None:
        for row in actions:
            for env, action in zip(envs, row, strict=True):
                *_, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()

    return run


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--steps", type=int, default=4096, help="environment steps of one measurement")
    names = ["-".join(task) for task in TASKS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    rows = [
        row
        for (scenario, conf), task in TASKS.items()
        if f"{scenario}-{conf}" in options.tasks
        for num_envs in options.num_envs
        for row in measured(scenario, conf, task, num_envs, options.steps, options.repeats)
    ]
    report("Sampling, one core", rows, options.json)


def measured(scenario: str, conf: str, task: str, num_envs: int, steps: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one task with `num_envs` environments."""
    config = team_config(scenario, conf, num_envs, steps)
    lora, shared = Team(config, "adapters"), Team(config, "backbone")
    stock = build_stock_runner(stock_ppo_config(scenario, conf, num_envs=num_envs))
    seconds = alternate(
        {
            "ours, LoRASA": lora.sample,
            "ours, PS": shared.sample,
            "RLlib stock": lambda: stock.sample(num_timesteps=steps),
            "bare loop": bare_loop(task, num_envs, steps // num_envs),
        },
        repeats,
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "task": f"{scenario} {conf}",
            "envs": num_envs,
            "sampler": name,
            "env_steps_per_s": spread([steps / s for s in values]),
            "times_stock": median["RLlib stock"] / median[name],
            "share_of_bare_loop": median["bare loop"] / median[name],
        }
        for name, values in seconds.items()
    ]


if __name__ == "__main__":
    main()
