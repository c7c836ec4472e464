"""How fast are the worlds of VMAS sampled? One process, without Ray; on a GPU, nothing leaves it.

Compared   ours, LoRASA's adapter phase with the policy's forward pass, draws and columns; feed-forward and recurrent |
           the package stepped bare: `step` with precomputed random actions, all reset every 100 steps (no policy)
Method     navigation with 4 agents, 600 worlds, hidden layers of 64; all alternate in one process; median and range
Run        python benchmarks/sampling_vmas.py [--device cuda] [--num-envs 4096] [--json FILE]      about 2 minutes
           needs torch, numpy, rich and vmas; neither Ray nor Gymnasium
Expect     at least 80 % of the bare package on a CPU core with 600 worlds, 60 % on a GPU with 4,096
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import alternate, arguments, report, spread
from lorasa_rllib.envs.registry import make_environment
from lorasa_rllib.envs.vmas_worlds import import_vmas
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.memory import Memory
from lorasa_rllib.sharing.methods import owners_of

NETWORKS = {"feed-forward": {"num_layers": 2}, "recurrent": {"num_layers": 1, "recurrent": True}}


def waits(device: str) -> None:
    """Waits for all work of a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def bare(scenario: str, num_envs: int, steps: int, device: str) -> Callable[[], None]:
    """The package's own step, `steps` times, with precomputed random actions and a reset every 100 steps."""
    env = import_vmas().make_env(scenario, num_envs=num_envs, device=device, seed=0)
    env.reset()
    actions = [env.get_random_actions() for _ in range(steps)]
    done = 0

    def run() -> None:
        nonlocal done
        for of_agents in actions:
            env.step(of_agents)
            done += 1
            if done % 100 == 0:
                env.reset()
        waits(device)

    return run


def ours(scenario: str, num_envs: int, steps: int, device: str, network: dict[str, Any]) -> Callable[[], object]:
    env = make_environment("vmas", num_envs, {"scenario": scenario, "device": device})
    torch.manual_seed(0)
    config = NetworkConfig(hidden_size=64, obs_norm="running", **network)
    owners = owners_of("lora", env.spec, adapter_key="agent")
    policy = TeamPolicy(PolicyConfig(env.spec, owners, network=config, critic_input="agent_state")).to(device)
    policy.set_phase("adapters")
    with torch.no_grad():  # adapters without effect would be an easy case
        for parameter in policy.parameters_of("adapters").values():
            parameter.normal_(std=0.05)
    collector = Collector(env, Memory(policy.config, num_envs, 10, env.device), seed=0)

    def run() -> object:
        sampled = collector.steps(steps, policy.acting(), critic=policy.acting_critic())
        waits(device)
        return sampled

    return run


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--scenario", default="navigation")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[600])
    parser.add_argument("--steps", type=int, default=100, help="steps of all worlds in one measurement")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    rows = []
    for num_envs in options.num_envs:
        task = options.scenario, num_envs, options.steps, options.device
        workloads: dict[str, Callable[[], object]] = {"bare package": bare(*task)}
        workloads |= {f"ours, {name}": ours(*task, network) for name, network in NETWORKS.items()}
        seconds = alternate(workloads, options.repeats)
        floor = statistics.median(seconds["bare package"])
        rows += [
            {
                "worlds": str(num_envs),
                "sampler": name,
                "env_steps_per_s": spread([options.steps * num_envs / s for s in values]),
                "share_of_bare": floor / statistics.median(values),
            }
            for name, values in seconds.items()
        ]
    where = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    report(f"Sampling VMAS {options.scenario}, {where}", rows, options.json)


if __name__ == "__main__":
    main()
