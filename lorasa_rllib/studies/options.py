"""Options of the Tune scripts: from the command line to a validated record."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorasa_rllib.nn.network import PRESETS
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.suites import SUITES

FEED_FORWARD = "feedforward"
METHODS = {
    "ps": ("ps", "two_phase", "agent"),
    "lora": ("lora", "two_phase", "agent"),
    "lora-joint": ("lora", "joint", "agent"),
    "lora-role": ("lora", "two_phase", "role"),
    "lora-role-joint": ("lora", "joint", "role"),
}
"""Name of a method in tables and figures -> sharing method, schedule and whose adapters."""


def parser(description: str, name: str = "mamujoco") -> argparse.ArgumentParser:
    """The command line of a study on a suite."""
    suite = SUITES[name]
    keys = [key for key, (_, _, adapters) in METHODS.items() if suite.roles or adapters == "agent"]
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument(
        f"--{suite.option}", nargs="+", default=[suite.default], dest="scenario", help=f"{suite.form}; one or more"
    )
    p.add_argument("--algorithm", choices=["mappo", "a2po"], default="mappo", help="how policies are updated")
    p.add_argument("--methods", nargs="+", choices=keys, help="methods to compare; overrides --sharing")
    p.add_argument("--sharing", choices=["ps", "lora"], default="lora", help="one sharing method")
    p.add_argument("--schedule", choices=["two_phase", "joint"], default="two_phase", help="schedule of --sharing lora")
    p.add_argument("--seeds", default="1", help="how many seeds, or a list such as 1,4,5")
    p.add_argument("--total-env-steps", type=int, default=10_000_000, help="environment steps of every trial")
    switch = "steps (12000) or share (0.3) until the adapter phase; default: the published step if possible, else 0.3"
    p.add_argument("--phase-switch", help=switch)
    if suite.roles:
        whose = "adapters of agents or of their roles (unit types), for --sharing lora"
        p.add_argument("--adapter-key", choices=["agent", "role"], default="agent", help=whose)
        sees = "what the critic sees; default: the preset"
        p.add_argument("--state", choices=["global", "agent", "pruned"], help=sees)
    else:
        p.add_argument("--obs", choices=["local", "global"], help="what agents observe; default: the scenario's preset")
        p.add_argument("--obsk", type=int, help="joints away that local observations reach; default: the preset")
    p.add_argument("--network", choices=[FEED_FORWARD, *PRESETS], help="actor and critic; default: the preset")
    p.add_argument(
        "--id-features", choices=["auto", "one_hot", "none"], default="auto", help="whether policies know ids"
    )
    p.add_argument("--r", type=int, default=8, help="adapter rank")
    p.add_argument("--lora-alpha", type=float, help="adapter scale; default: the rank")
    p.add_argument("--init-lora-weights", choices=["lorasa", "peft"], default="lorasa", help="how adapters begin")
    p.add_argument(
        "--adapter-lr-scale",
        type=float,
        help="learning rate of adapters as a multiple of the preset's; default: the preset's, else 3, in joint 1",
    )
    p.add_argument(
        "--num-env-runners", type=int, default=0, help="remote env runners; 0 samples in the trial's process"
    )
    p.add_argument("--num-envs-per-env-runner", type=int, help="default: the preset's environments, shared out")
    p.add_argument("--sample-ahead", action="store_true", help="remote env runners sample while learners learn")
    p.add_argument("--num-learners", type=int, default=0, help="remote learners; 0 learns in the trial's process")
    p.add_argument("--num-gpus-per-learner", type=float, default=0, help="GPUs of each learner, fractions allowed")
    p.add_argument("--evaluation-interval", type=int, help="iterations between greedy evaluations; default: 25 in all")
    p.add_argument("--max-concurrent", type=int, help="trials at once; default: as many as the CPUs allow")
    p.add_argument("--storage-path", default="~/lorasa_results", help="folder or URI that receives everything")
    p.add_argument("--name", help="name of the experiment; default: made from scenarios and methods")
    p.add_argument("--address", help="Ray cluster to use; default: the one this script was submitted to, else local")
    p.add_argument("--resume", action="store_true", help="continue the experiment of this name, if there is one")
    p.add_argument("--smoke", action="store_true", help="a tiny trial through both phases, to see that all works")
    return p


def read_options(arguments: Sequence[str] | None, description: str, suite: str = "mamujoco") -> StudyOptions:
    """Parses and checks. Raises SystemExit with one message that names the option."""
    p = parser(description, suite)
    a = p.parse_args(arguments)
    methods = tuple(a.methods or [_method(a.sharing, a.schedule, getattr(a, "adapter_key", "agent"))])
    for name in ("total_env_steps", "r"):
        if getattr(a, name) < 1:
            p.error(f"--{name.replace('_', '-')}={getattr(a, name)} must be at least 1")
    which = SUITES[suite]
    for scenario in a.scenario:
        if not re.fullmatch(which.pattern, scenario):
            p.error(f"--{which.option}={scenario} must be {which.form}, for example {which.default}")
    options = StudyOptions(
        suite=suite,
        algorithm=a.algorithm,
        scenarios=tuple(dict.fromkeys(a.scenario)),
        methods=tuple(dict.fromkeys(methods)),
        seeds=_seeds(p, a.seeds),
        total_env_steps=a.total_env_steps,
        phase_switch=_switch(p, a.phase_switch, a.total_env_steps),
        obs=getattr(a, "obs", None),
        agent_obsk=getattr(a, "obsk", None),
        state=getattr(a, "state", None),
        network=a.network,
        id_features=a.id_features,
        r=a.r,
        lora_alpha=a.lora_alpha,
        init_lora_weights=a.init_lora_weights,
        adapter_lr_scale=a.adapter_lr_scale,
        num_env_runners=a.num_env_runners,
        num_envs=a.num_envs_per_env_runner,
        sample_ahead=a.sample_ahead,
        num_learners=a.num_learners,
        num_gpus_per_learner=a.num_gpus_per_learner,
        evaluation_interval=a.evaluation_interval,
        max_concurrent=a.max_concurrent,
        storage_path=a.storage_path if "://" in a.storage_path else str(Path(a.storage_path).expanduser().resolve()),
        name=a.name or "_".join([suite, a.algorithm, *a.scenario, *methods]).replace("|", "-"),
        address=a.address,
        resume=a.resume,
        smoke=a.smoke,
    )
    return smoke(options) if a.smoke else options


def smoke(options: StudyOptions) -> StudyOptions:
    """The same study with one seed, 1,200 steps and the switch in the middle."""
    name = options.name if options.name.startswith("smoke") else f"smoke_{options.name}"
    return replace(
        options,
        seeds=options.seeds[:1],
        total_env_steps=1200,
        phase_switch=600,
        num_envs=options.num_envs or 4,
        evaluation_interval=3,
        name=name,
    )


def _method(sharing: str, schedule: str, adapter_key: str) -> str:
    """The method that --sharing, --schedule and --adapter-key describe."""
    if sharing == "ps":
        return "ps"
    return next(name for name, what in METHODS.items() if what == (sharing, schedule, adapter_key))


def _seeds(p: argparse.ArgumentParser, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        p.error(f"--seeds={text} must be a count (3) or a list (1,4,5)")
    seeds = numbers if "," in text else tuple(range(1, numbers[0] + 1))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        p.error(f"--seeds={text} must give at least one seed, none twice and none negative")
    return seeds


def _switch(p: argparse.ArgumentParser, text: str | None, budget: int) -> int | float | None:
    if text is None:
        return None
    try:
        switch: int | float = float(text) if "." in text else int(text)
    except ValueError:
        p.error(f"--phase-switch={text} must be a number of steps (12000) or a share of the budget (0.3)")
    if switch < 0 or (switch >= 1 if isinstance(switch, float) else switch >= budget):
        p.error(f"--phase-switch={text} must lie within the budget of --total-env-steps={budget}")
    return switch
