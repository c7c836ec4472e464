"""How fast are battles of SMAX sampled? One env runner, one core.

Compared   ours, LoRASA's adapter phase keyed by agent and by role, feed-forward and recurrent |
           the raw loop: the package's own step under jit and vmap, with available actions and conversion to numpy, and
           precomputed random actions (no policy: the upper bound)
Method     map 3s5z, E = 8, 32, 128 battles; all alternate in one process; median and range
Run        python benchmarks/sampling_smax.py [--json FILE]                    about 5 minutes
Expect     at E = 32, of the raw loop: 70 % feed-forward, 55 % recurrent
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ours import Team, with_numbers
from benchmarks.timing import alternate, arguments, report, spread
from lorasa_rllib import MAPPOConfig
from lorasa_rllib.envs.jax_setup import import_jax

NETWORKS = {"feed-forward": {}, "recurrent": {"recurrent": True}, "published": {"preset": "published"}}
"""The published network has one more layer, and a recurrent critic that the env runner also steps."""


def raw_loop(map_name: str, num_envs: int, steps: int) -> Callable[[], None]:
    """Steps all battles `steps` times, converting everything that agents need to numpy after each step."""
    jax = import_jax()
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    library = HeuristicEnemySMAX(scenario=map_name_to_scenario(map_name))
    agents = library.agents

    @jax.jit
    @jax.vmap
    def step(key, battle, actions):
        key, now = jax.random.split(key)
        named = {agent: actions[n] for n, agent in enumerate(agents)}
        obs, battle, rewards, dones, _ = library.step(now, battle, named)
        masks = library.get_avail_actions(battle)
        seen = jnp.stack([obs[a] for a in agents]), obs["world_state"], jnp.stack([masks[a] for a in agents])
        return key, battle, *seen, rewards[agents[0]], dones["__all__"]

    keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(num_envs))
    held = [keys, jax.vmap(library.reset)(keys)[1]]
    actions = np.random.default_rng(0).integers(library.num_ally_actions, size=(steps, num_envs, len(agents)))

    def run() -> None:
        for row in actions:
            held[0], held[1], *shown = step(held[0], held[1], row)
            for column in shown:
                np.asarray(column)

    return run


def runner(map_name: str, num_envs: int, steps: int, network: dict, key: str) -> Callable[[], object]:
    config = MAPPOConfig().environment("smax", env_config={"map_name": map_name})
    config = with_numbers(config, num_envs, steps * num_envs).sharing(adapter_key=key)
    return Team(config.network(**{"hidden_size": 64} | network), "adapters").sample


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--map", default="3s5z")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--steps", type=int, default=300, help="steps of all battles in one measurement")
    options = parser.parse_args()
    rows = []
    for num_envs in options.num_envs:
        workloads = {"raw loop": raw_loop(options.map, num_envs, options.steps)}
        for name, network in NETWORKS.items():
            for key in ("agent", "role"):
                workloads[f"ours, {name}, by {key}"] = runner(options.map, num_envs, options.steps, network, key)
        seconds = alternate(workloads, options.repeats)
        floor = statistics.median(seconds["raw loop"])
        rows += [
            {
                "battles": str(num_envs),
                "sampler": name,
                "env_steps_per_s": spread([options.steps * num_envs / s for s in values]),
                "share_of_raw_loop": floor / statistics.median(values),
            }
            for name, values in seconds.items()
        ]
    report(f"Sampling SMAX {options.map}, one core", rows, options.json)


if __name__ == "__main__":
    main()
