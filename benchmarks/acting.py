"""What does a trained team cost to serve, and to keep?

Compared   `load_policy(...).act` of LoRASA (adapters merged once) and of a plain shared policy (PS) | the RLModule's
           `forward_inference` on flat rows | separate networks, one plain torch module for each agent, called in turn |
           one plain torch module for all, agents' ids in the observation: the lower bound
Method     six agents, 16 features, two actions, two hidden layers of 64 with LayerNorms, and the published recurrent
           network; one and 64 environments; all alternate in one process on one thread; median and range of `repeats`
           times 300 calls. Bytes: the files that `save_policy` writes, without and with the critic; separate policies
           (NPS) without agents' ids, which they do not need
Run        python benchmarks/acting.py [--json FILE]                          about 2 minutes
Expect     LoRASA at most 1.2 times PS and ahead of both RLModule and separate networks
Recorded   results/performance/acting{,_bytes}.json; docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.many_agents import OBS, synthetic
from benchmarks.timing import alternate, arguments, report, spread
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.folder import save_policy
from lorasa_rllib.policies.saved import SavedPolicy, saved

AGENTS, ACTIONS, HIDDEN, CALLS = 6, 2, 64, 300
NETWORKS = {"feed-forward": {"hidden_size": HIDDEN, "num_layers": 2}, "recurrent": {"preset": "published"}}
SIZES = (2, 10, 100, 1000)


def policy_of(method: str, agents: int, network: dict[str, Any]) -> TeamPolicy:
    """A policy in its last phase with adapters that have an effect."""
    policy = TeamPolicy(synthetic(agents, 1, 1).sharing(method).network(**network).plan().policy).eval()
    with torch.no_grad():
        for parameter in policy.parameters_of("adapters").values():
            parameter.normal_(std=0.05)
    policy.set_phase("adapters" if method == "lora" else "backbone")
    return policy


class Plain(nn.Module):
    """The same network in plain torch: greedy actions for rows [R, features], and the next hidden state [R, HIDDEN]."""

    def __init__(self, features: int, recurrent: bool):
        super().__init__()
        sizes = [features] + [HIDDEN] * (3 if recurrent else 2)
        layers = [block(a, b) for a, b in pairwise(sizes)]
        self.mlp = nn.Sequential(nn.LayerNorm(features), *layers)
        self.gru = nn.GRUCell(HIDDEN, HIDDEN) if recurrent else None
        self.post = nn.Sequential(nn.LayerNorm(HIDDEN), block(HIDDEN, HIDDEN)) if recurrent else nn.Identity()
        self.head = nn.Linear(HIDDEN, ACTIONS)

    def forward(self, x: torch.Tensor, h: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = self.mlp(x)
        h = None if self.gru is None else self.gru(x, h)
        return self.head(self.post(x if h is None else h)).tanh(), h


def block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.LayerNorm(outputs))


def workloads(name: str, envs: int) -> dict[str, Callable[[], Any]]:
    """Workloads by name; each acts for `CALLS` steps, numpy observations in, numpy actions out."""
    recurrent, network = name == "recurrent", NETWORKS[name]
    obs = np.random.default_rng(0).standard_normal((envs, AGENTS, OBS), np.float32)
    found: dict[str, Callable[[], Any]] = {}
    for label, method in (("LoRASA, act", "lora"), ("PS, act", "ps")):
        found[label] = acting(LoadedPolicy(saved(policy_of(method, AGENTS, network))), obs)
    shared = Plain(OBS + AGENTS, recurrent)
    ids = np.broadcast_to(np.eye(AGENTS, dtype=np.float32), (envs, AGENTS, AGENTS))
    rows = np.concatenate([obs, ids], -1).reshape(envs * AGENTS, -1)
    found["one plain torch module"] = plain([shared], [rows])
    separate = [Plain(OBS, recurrent) for _ in range(AGENTS)]
    found["separate torch modules, in turn"] = plain(separate, [obs[:, n] for n in range(AGENTS)])
    if not recurrent:  # the RLModule's flat rows carry no hidden state
        found["LoRASA, RLModule.forward_inference"] = module(obs)
    return found


def acting(policy: LoadedPolicy, obs: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        state = None
        for _ in range(CALLS):
            _, state = policy.act(obs, state)

    return run


def plain(modules: list[Plain], rows: list[np.ndarray]) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        memory: list[Any] = [
            None if m.gru is None else torch.zeros(len(x), HIDDEN) for m, x in zip(modules, rows, strict=True)
        ]
        for _ in range(CALLS):
            for n, (one, x) in enumerate(zip(modules, rows, strict=True)):
                actions, memory[n] = one(torch.from_numpy(x), memory[n])
                actions.numpy()

    return run


def module(obs: np.ndarray) -> Callable[[], None]:
    config = synthetic(AGENTS, 1, 1).sharing("lora").network(**NETWORKS["feed-forward"])
    spec = config.get_default_rl_module_spec()
    ours = spec.module_class(
        observation_space=spec.observation_space, action_space=spec.action_space, inference_only=True,
        model_config={**spec.model_config, "phase": "adapters"},
    ).eval()  # fmt: skip
    flat, agent = obs.reshape(-1, OBS), np.tile(np.arange(AGENTS), len(obs))

    @torch.inference_mode()
    def run() -> None:
        for _ in range(CALLS):
            rows = {"obs": torch.from_numpy(flat), "agent": torch.from_numpy(agent)}
            ours.forward_inference({"obs": rows})["action_dist_inputs"].numpy()

    return run


def times(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for name in NETWORKS:
        for envs in (1, 64):
            seconds = alternate(workloads(name, envs), repeats, warmups=2)
            least = statistics.median(seconds["PS, act"])
            rows += [
                {
                    "network": name,
                    "environments": str(envs),
                    "served by": label,
                    "microseconds per step": spread([1e6 * s / CALLS for s in values]),
                    "times PS": statistics.median(values) / least,
                }
                for label, values in seconds.items()
            ]
    return rows


def sizes() -> list[dict[str, Any]]:
    """Bytes on disk per method and team size."""
    rows = []
    for method in ("ps", "nps", "lora"):
        for agents in SIZES:
            ids = {"id_features": "none"} if method == "nps" else {}
            whole = saved(policy_of(method, agents, NETWORKS["feed-forward"] | ids))
            rows.append(
                {
                    "method": method,
                    "agents": agents,
                    "bytes to act": on_disk(replace(whole, critic=None)),
                    "bytes with critic": on_disk(whole),
                }
            )
    return rows


def on_disk(policy: SavedPolicy) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_policy(policy, Path(temporary) / "policy")
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    report(f"Serving a team of {AGENTS}, one thread", times(options.repeats), options.json)
    second = options.json.with_name(f"{options.json.stem}_bytes.json") if options.json else None
    report("A policy's files, two hidden layers of 64, r = 8", sizes(), second)


if __name__ == "__main__":
    main()
