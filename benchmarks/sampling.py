"""How fast are environments sampled? One env runner, one core.

Compared   ours, LoRASA's adapter phase and plain shared policy | RLlib's stock multi-agent runner |
           a loop over `gymnasium.make(task)` with precomputed actions (no policy, no agents: the upper bound)
Method     16 environments, two hidden layers of 64; all alternate in one process; median and range
Run        python benchmarks/sampling.py [--json FILE]                        about 4 minutes
Expect     HalfCheetah 6x1: 8 times stock and 45 % of the bare loop; Ant 4x2: 3 times stock and 65 % of it
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ours import Team, team_config
from benchmarks.stock import build_stock_runner, stock_ppo_config
from benchmarks.timing import alternate, arguments, report, spread

TASKS = {("HalfCheetah", "6x1"): "HalfCheetah-v5", ("Ant", "4x2"): "Ant-v5"}


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
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4000, help="environment steps of one measurement")
    options = parser.parse_args()
    rows = []
    for (scenario, conf), task in TASKS.items():
        config = team_config(scenario, conf, options.num_envs, options.steps)
        lora, shared = Team(config, "adapters"), Team(config, "backbone")
        stock = build_stock_runner(stock_ppo_config(scenario, conf, num_envs=options.num_envs))
        seconds = alternate(
            {
                "ours, LoRASA": lora.sample,
                "ours, PS": shared.sample,
                "RLlib stock": lambda stock=stock: stock.sample(num_timesteps=options.steps),
                "bare loop": bare_loop(task, options.num_envs, options.steps // options.num_envs),
            },
            options.repeats,
        )
        median = {name: statistics.median(values) for name, values in seconds.items()}
        rows += [
            {
                "task": f"{scenario} {conf}",
                "sampler": name,
                "env_steps_per_s": spread([options.steps / s for s in values]),
                "times_stock": median["RLlib stock"] / median[name],
                "share_of_bare_loop": median["bare loop"] / median[name],
            }
            for name, values in seconds.items()
        ]
    report(f"Sampling, {options.num_envs} environments, one core", rows, options.json)


if __name__ == "__main__":
    main()
