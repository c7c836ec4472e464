"""Options of the Tune scripts: parses the command line into a validated record."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from lorasa_rllib.nn.presets import PRESETS
from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.methods import METHODS, method_of, steps_of
from lorasa_rllib.studies.suites import SUITES

LEAST = {
    "total_env_steps": 1, "r": 1, "keep_checkpoints": 1, "num_envs_per_env_runner": 1, "evaluation_interval": 1,
    "max_concurrent": 1, "num_env_runners": 0, "num_learners": 0, "num_gpus_per_learner": 0, "obsk": 0,
    "num_epochs": 1,
}  # fmt: skip
"""Minimum values of options."""
OF_ADAPTERS = ("r", "lora_alpha", "init_lora_weights", "adapter_lr_scale", "phase_switch")
"""Options without effect for methods without adapters."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of options and preserves the formatting of descriptions."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line without the usage, which would fill a screen."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser(description: str, name: str = "mamujoco", one: bool = True) -> argparse.ArgumentParser:
    """The command-line parser of a study on a suite. one: include the options that describe a single method."""
    suite = SUITES[name]
    known = [name for name, method in METHODS.items() if suite.roles or method.adapter_key == "agent"]
    p = _Parser(description=description, formatter_class=_Help)
    names = dict.fromkeys([f"--{suite.option}", "--scenario"])
    shown = f"{suite.form}; one or more"
    p.add_argument(*names, nargs="+", default=[suite.default], dest="scenario", help=shown)
    p.add_argument("--algorithm", choices=["mappo", "a2po"], default="mappo", help="how policies are updated")
    variants = f"of {', '.join(known)}, and variants such as lora:r=16 or lora:on=head,switch=auto"
    overrides = "; overrides --sharing" if one else ""
    p.add_argument("--methods", nargs="+", metavar="METHOD", help=f"methods to compare, {variants}{overrides}")
    if one:
        p.add_argument("--sharing", choices=list(SHARING), default="lora", help="one sharing method")
        schedule = "schedule of --sharing lora"
        p.add_argument("--schedule", choices=["two_phase", "joint"], default="two_phase", help=schedule)
    p.add_argument("--seeds", default="1", help="how many seeds, or a list such as 1,4,5 or 4,")
    budget = "environment steps of every trial, such as 12000 or 0.5M"
    p.add_argument("--total-env-steps", type=_steps, default=10_000_000, metavar="STEPS", help=budget)
    switch = (
        "steps (12000, 0.5M), share (0.3) or auto until the adapter phase; default: as published if possible, else 0.3"
    )
    p.add_argument("--phase-switch", help=switch)
    if suite.roles and one:
        whose = "adapters of agents or of their roles (unit types), for --sharing lora"
        p.add_argument("--adapter-key", choices=["agent", "role"], default="agent", help=whose)
    if suite.states:
        sees = "what the critic sees; default: the preset"
        p.add_argument("--state", choices=["global", "agent", "pruned"], help=sees)
    if suite.joints:
        p.add_argument("--obs", choices=["local", "global"], help="what agents observe; default: the scenario's preset")
        p.add_argument("--obsk", type=int, help="joints away that agents see, locally; default: the preset")
    numbers = "recommended: what we found to learn fastest; published: the numbers of the LoRASA paper"
    p.add_argument("--preset", choices=["recommended", "published"], default="recommended", help=numbers)
    p.add_argument("--network", choices=[*PRESETS], help="actor and critic; default: the preset")
    p.add_argument("--num-epochs", type=int, help="passes over every batch; default: the preset")
    p.add_argument(
        "--id-features", choices=["auto", "one_hot", "none"], default="auto", help="whether policies know ids"
    )
    p.add_argument("--r", type=int, default=8, help="adapter rank")
    p.add_argument("--lora-alpha", type=float, help="adapter scale; default: the rank")
    p.add_argument("--init-lora-weights", choices=["lorasa", "peft"], default="lorasa", help="how adapters begin")
    p.add_argument(
        "--adapter-lr-scale",
        type=float,
        help="multiple of the learning rate for adapters; default: the preset's, else 3, in joint the backbone's",
    )
    p.add_argument(
        "--num-env-runners", type=int, default=0, help="remote env runners; 0 samples in the trial's process"
    )
    p.add_argument("--num-envs-per-env-runner", type=int, help="default: the preset's environments, shared out")
    p.add_argument("--sample-ahead", action="store_true", help="remote env runners sample while learners learn")
    p.add_argument("--num-learners", type=int, default=0, help="remote learners; 0 learns in the trial's process")
    p.add_argument("--num-gpus-per-learner", type=float, default=0, help="GPUs of each learner, fractions allowed")
    p.add_argument(
        "--evaluation-interval",
        type=int,
        help="iterations between greedy evaluations; default: 25 in all, at least 20 apart",
    )
    p.add_argument("--max-concurrent", type=int, help="trials at once; default: as many as the CPUs allow")
    keep = (
        "checkpoints of each trial that stay, the latest of ten in all; lorasa analyze shows a course over all of them"
    )
    p.add_argument("--keep-checkpoints", type=int, default=2, help=keep)
    trackers = "where numbers go besides CSV, JSON and TensorBoard files; each needs the extra of its name"
    p.add_argument("--logger", nargs="+", choices=["wandb", "mlflow"], default=[], help=trackers)
    films = "film a greedy episode of every checkpoint, ten in all (.mp4 with the extra video, else .gif)"
    p.add_argument("--films", action="store_true", help=films)
    any_setting = (
        "any setting of the algorithm, such as lr=1e-3, network.hidden_size=128 or sharing.use_rslora=true; several "
        "are allowed, and values are JSON or Python"
    )
    p.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=any_setting)
    env_setting = "any setting of the environment, such as max_episode_steps=200"
    p.add_argument("--env-set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=env_setting)
    p.add_argument("--storage-path", default="~/lorasa_results", help="folder or URI that receives everything")
    p.add_argument("--name", help="name of the experiment; default: made from scenarios and methods")
    p.add_argument("--address", help="Ray cluster to use; default: the one this script was submitted to, else local")
    p.add_argument("--resume", action="store_true", help="continue the experiment of this name, if there is one")
    p.add_argument("--smoke", action="store_true", help="a tiny trial through both phases, to see that all works")
    return p


def read_options(
    arguments: Sequence[str] | None,
    description: str,
    suite: str | None = "mamujoco",
    methods: Sequence[str] | None = None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
    variants: Callable[[argparse.Namespace], list[str]] | None = None,
    prog: str | None = None,
) -> StudyOptions:
    """Parses and validates options. Exits with one message that names the option if one is invalid.

    suite: name of the suite; None: chosen by --suite. methods: default of --methods; None: one method, described by
    --sharing and related options. more: adds options of a script. variants: returns further methods to compare from the
    parsed options.
    """
    several, suite = suite is None, suite or _suite(arguments, prog)
    p = parser(description, suite, one=methods is None)
    p.prog = prog or p.prog
    if several:
        p.add_argument("--suite", choices=list(SUITES), default=suite, help="whose scenarios; other options follow it")
    p.set_defaults(methods=None if methods is None else list(methods))
    if more is not None:
        more(p)
    given, settings, env_settings = _with_settings(p, arguments)
    if variants is not None:
        given.methods = [*given.methods, *variants(given)]
    return replace(study_of(p, given, suite), settings=settings, env_settings=env_settings)


def _with_settings(
    p: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """Returns the parsed options and the settings of --set and --env-set."""
    given = p.parse_args(arguments)
    if not given.set and not given.env_set:
        return given, {}, {}
    from lorasa_rllib.studies import overrides  # slow: imports Ray

    try:
        settings, options = overrides.read_settings(given.set, given.algorithm)
        env_settings = overrides.read_env_settings(given.env_set)
    except ValueError as error:
        p.error(str(error))
    return p.parse_args([*(sys.argv[1:] if arguments is None else arguments), *options]), settings, env_settings


def _suite(arguments: Sequence[str] | None, prog: str | None) -> str:
    """The value of --suite, parsed first because other options depend on it."""
    first = _Parser(prog=prog, add_help=False, allow_abbrev=False)
    first.add_argument("--suite", choices=list(SUITES), default="mamujoco")
    return str(first.parse_known_args(arguments)[0].suite)


def study_of(p: argparse.ArgumentParser, a: argparse.Namespace, suite: str) -> StudyOptions:
    """Validates parsed options and converts them to a record."""
    methods = tuple(
        a.methods if a.methods is not None else [_method(a.sharing, a.schedule, getattr(a, "adapter_key", "agent"))]
    )
    for name in methods:
        try:
            if method_of(name).adapter_key == "role" and not SUITES[suite].roles:
                p.error(f"--methods: {name} needs roles, which {suite} does not have")
        except ValueError as error:
            p.error(f"--methods: {error}")
    for name, least in LEAST.items():
        value = getattr(a, name, None)
        if value is not None and not value >= least:
            p.error(f"--{name.replace('_', '-')}={value} must be at least {least}")
    which = SUITES[suite]
    for scenario in a.scenario:
        if not re.fullmatch(which.pattern, scenario):
            p.error(f"--{which.option}={scenario} must be {which.form}, for example {which.default}")
    if getattr(a, "obs", None) == "global" and a.obsk is not None:
        p.error(f"--obsk={a.obsk} needs --obs local: with --obs global agents see everything")
    unread = [name for name in OF_ADAPTERS if getattr(a, name) != p.get_default(name)]
    if unread and not any(method_of(name).adapts for name in methods):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
        print(f"{p.prog}: no adapters in {', '.join(methods)}, so {named} changes nothing", file=sys.stderr)
    if a.name is not None and (
        a.name in ("", ".", "..") or len(a.name) > 200 or re.search(r"[/\\\x00-\x1f\x7f]", a.name)
    ):
        p.error(f"--name={a.name!r} must be the name of a folder, without / in it; --storage-path says where it lies")
    fork_at = _fork_at(p, getattr(a, "fork_at", ""), a.total_env_steps)
    forks = ["forks"] if fork_at else []
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
        preset=a.preset,
        num_epochs=a.num_epochs,
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
        keep_checkpoints=a.keep_checkpoints,
        storage_path=a.storage_path if "://" in a.storage_path else str(Path(a.storage_path).expanduser().resolve()),
        name=a.name or in_files("_".join([suite, a.algorithm, *a.scenario, *methods, *forks])),
        address=a.address,
        resume=a.resume,
        smoke=a.smoke,
        fork_at=fork_at,
        fork_base=getattr(a, "base", "lora"),
        loggers=tuple(dict.fromkeys(a.logger)),
        films=a.films,
    )
    return smoke(options) if a.smoke else options


def smoke(options: StudyOptions) -> StudyOptions:
    """The same study with one seed, 1,200 environment steps and the phase switch halfway."""
    name = options.name if options.name.startswith("smoke") else f"smoke_{options.name}"
    return replace(
        options,
        seeds=options.seeds[:1],
        total_env_steps=1200,
        phase_switch=600,
        fork_at=(400, 800) if options.fork_at else (),
        num_envs=options.num_envs or 4,
        evaluation_interval=3,
        name=name,
    )


def in_files(name: str) -> str:
    """Replaces characters that are problematic in file systems and shells."""
    return re.sub(r"[^\w.,+-]+", "-", name.replace(":", "_").replace("=", ""))


SHARING = {"ps": "ps", "nps": "nps", "mtl": "mtl", "seps": "seps", "lora": "lora", "seps_lora": "seps-lora"}
"""Value of --sharing (as in `TeamConfig.sharing`) -> name of the method."""


def _method(sharing: str, schedule: str, adapter_key: str) -> str:
    """The method described by --sharing, --schedule and --adapter-key."""
    parts = ["role"] * (adapter_key == "role") + ["joint"] * (schedule == "joint") if sharing == "lora" else []
    return "-".join([SHARING[sharing], *parts])


def _steps(text: str) -> int:
    """An argparse type for numbers of environment steps: 12000, 500k, 0.5M."""
    try:
        steps = steps_of(text)
    except ValueError:
        steps = 0.5
    if isinstance(steps, float):
        raise argparse.ArgumentTypeError(f"{text} must be a number of steps, such as 12000, 500k or 0.5M")
    return steps


def _seeds(p: argparse.ArgumentParser, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        p.error(f"--seeds={text} must be a count (3) or a list (1,4,5, or 4, with a comma for one)")
    seeds = numbers if "," in text else tuple(range(1, numbers[0] + 1))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        p.error(f"--seeds={text} must give at least one seed, none twice and none negative")
    return seeds


def _fork_at(p: argparse.ArgumentParser, text: str, budget: int) -> tuple[int, ...]:
    try:
        numbers = [steps_of(part) for part in text.split(",")] if text else []
    except ValueError:
        p.error(f"--fork-at={text} must list numbers of steps (0.5M,1M) or shares of the budget (0.1,0.3)")
    steps = [round(n * budget) if isinstance(n, float) else n for n in numbers]
    if any(not 0 < step < budget for step in steps):
        p.error(f"--fork-at={text} must lie within the budget of --total-env-steps={budget}")
    return tuple(sorted(set(steps)))


def _switch(p: argparse.ArgumentParser, text: str | None, budget: int) -> int | float | str | None:
    if text is None:
        return None
    if text == "auto":
        return text
    try:
        switch = steps_of(text)
    except ValueError:
        p.error(f"--phase-switch={text} must be a number of steps (12000, 0.5M), a share of the budget (0.3) or auto")
    if switch < 0 or (switch >= 1 if isinstance(switch, float) else switch >= budget):
        p.error(f"--phase-switch={text} must lie within the budget of --total-env-steps={budget}")
    return switch
