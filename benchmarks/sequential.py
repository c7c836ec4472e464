"""What does A2PO's update cost, over agents and steps? Run through `learning_step.py --algorithm a2po`.

Compared   updates of 2 to 256 agents, always on 4,000 environment steps (synthetic team, adapter phase); at 8 agents,
           ours with evaluating all agents for each agent, as published: the same update, but every actor step and every
           correction runs the whole team with gradients; steps on minibatches of 500, compiled or not
Method     five epochs (minibatches: two), two-stage critic, two hidden layers of 64, r = 8, one thread; alternating;
           median and range. Memory: growth of the peak during one update, in separate processes
Run        python benchmarks/learning_step.py --algorithm a2po [--json FILE]            about 8 minutes
Expect     log-log slope over agents at most 1.2; at 8 agents twice as fast as evaluating all for each; memory linear in
           agents and in steps
Recorded   docs/performance.md
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ours import Team, with_numbers
from benchmarks.timing import alternate, report, spread
from lorasa_rllib import A2POConfig
from lorasa_rllib.learning.a2po import SequentialUpdate
from lorasa_rllib.learning.a2po.sequential import Turn
from lorasa_rllib.learning.a2po.units import Unit
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.rllib.config import TeamConfig

AGENTS = (2, 6, 17, 64, 256)
MEMORY = ((16, 4000), (64, 4000), (256, 4000), (64, 2000), (64, 8000))
ENVS = 16


def synthetic(agents: int, steps: int) -> TeamConfig:
    env = {"num_agents": agents, "obs_size": 16, "action_size": 2}
    return with_numbers(A2POConfig().environment("synthetic", env_config=env), ENVS, steps)


class Update:
    """Repeats a team's update on one recorded rollout."""

    def __init__(
        self,
        agents: int,
        steps: int = 4000,
        kind: type[SequentialUpdate] = SequentialUpdate,
        compiled: bool = False,
        **settings: Any,
    ):
        config = synthetic(agents, steps)
        team = Team(config, "adapters")
        self.learner, self.kind = team.learner, kind
        self.rollout = team.sample().rollout(None).to("cpu")
        self.settings = replace(config.plan().update, **settings)
        self.compiler = StepCompiler(True) if compiled else None

    def __call__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def pick(left: int) -> int:
            return int(torch.randint(left, (1,), generator=generator))

        optimisers = self.learner.optimisers()
        args = self.learner.policy, optimisers, self.rollout, self.settings, pick, generator
        self.kind(*args, compiler=self.compiler).run()


class AllForEach(SequentialUpdate):
    """Evaluates the whole team for every actor step and every correction, as the published code does."""

    def _evaluate(self) -> torch.Tensor:
        batch = self.batch
        with torch.enable_grad():
            log_probs = self._policy.distribution(batch.obs).log_prob(batch.actions)
        return self.ratios.log_ratio_of(log_probs.detach())

    def _product_of(self, units: Sequence[Unit]) -> torch.Tensor:
        table = self._evaluate()
        return Unit.joined(units).log_product(table, self.batch.roles) if units else torch.zeros_like(table[..., 0])

    def _others(self, turn: Turn, rows: Any, before: torch.Tensor, sequences: Any = None) -> torch.Tensor:
        return super()._others(turn, rows, self._product_of(self.order[: turn.position - 1]), sequences)

    def _correct(self, unit: Any, product: torch.Tensor, done: Sequence[Unit] = ()) -> None:
        super()._correct(unit, self._product_of(done) + self.ratios.product(unit), done)


def against_published(repeats: int) -> list[dict[str, Any]]:
    """Our update and the published procedure, at 8 agents."""
    seconds = alternate({"ours": Update(8), "all agents for each": Update(8, kind=AllForEach)}, repeats)
    base = statistics.median(seconds["all agents for each"])
    return [
        {"who": who, "seconds": spread(values), "speed-up": base / statistics.median(values)}
        for who, values in seconds.items()
    ]


def minibatches(repeats: int) -> list[dict[str, Any]]:
    """Optimiser steps on 500 environment steps, compiled or not."""
    rows = []
    for agents in (2, 6):
        small = {"minibatch_size": 500, "num_epochs": 2}
        both = {"ours": Update(agents, **small), "compiled": Update(agents, compiled=True, **small)}
        seconds = alternate(both, repeats)
        taken = 2 * 8 * 2 * agents  # passes, minibatches, steps of the critic and of both
        rows += [
            {"agents": agents, "who": who, "ms_per_step": spread([1e3 * value / taken for value in values])}
            for who, values in seconds.items()
        ]
    return rows


def over_agents(repeats: int) -> list[dict[str, Any]]:
    seconds = alternate({str(agents): Update(agents) for agents in AGENTS}, repeats)
    medians = [statistics.median(seconds[str(agents)]) for agents in AGENTS]
    slope = np.polyfit(np.log(AGENTS), np.log(medians), 1)[0]
    return [
        {
            "agents": agents,
            "seconds": spread(seconds[str(agents)]),
            "us_per_agent_row": 1e6 * median / (4000 * agents),
            "slope_of_all": float(slope),
        }
        for agents, median in zip(AGENTS, medians, strict=True)
    ]


def memory(agents: int, steps: int) -> dict[str, Any]:
    """Growth of this process's peak memory during one update."""
    update = Update(agents, steps)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    update()
    growth = resident("VmHWM") - before
    return {
        "agents": agents,
        "env_steps": steps,
        "growth_MiB": growth / 1024,
        "KiB_per_agent_step": growth / (agents * steps),
    }


def resident(field: str) -> int:
    """Memory of this process in KiB: VmRSS is the current value, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main(options: Any) -> None:
    if options.memory_of:
        print(json.dumps(memory(*options.memory_of)))
        return

    def file(name: str) -> Path | None:
        return options.json.with_name(f"{options.json.stem}_{name}.json") if options.json else None

    report("A2PO at 8 agents, 4,000 environment steps", against_published(options.repeats), file("published"))
    report("Optimiser steps of A2PO, 500 environment steps", minibatches(options.repeats), file("minibatches"))
    report("A2PO over agents, 4,000 environment steps", over_agents(min(3, options.repeats)), file("agents"))
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("learning_step.py")), "--algorithm", "a2po"]
    rows = []
    for agents, steps in MEMORY:
        call = [*command, "--memory-of", str(agents), str(steps)]
        answer = subprocess.run(call, capture_output=True, text=True, check=True, timeout=600)
        rows.append(json.loads(answer.stdout.splitlines()[-1]))
    report("Memory of one A2PO update", rows, file("memory"))
