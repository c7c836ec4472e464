"""`lorasa analyze`: a page on how policies differ between agents in finished trials."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lorasa_rllib.analysis.adapters import WORDS, adapter_names, adapter_statistics, draw_relative_norms
from lorasa_rllib.analysis.distances import (
    draw_distances_over_training,
    draw_heat_map,
    mean_over_pairs,
    measure_of,
    policy_distances,
)
from lorasa_rllib.analysis.layers import draw_layers, layer_distances, mean_per_layer
from lorasa_rllib.analysis.observations import ObservationBank, names_of
from lorasa_rllib.analysis.report import Part, write_report
from lorasa_rllib.analysis.resources import counts
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.files import PolicyFileError, contents_of
from lorasa_rllib.printable import printable
from lorasa_rllib.studies.curves import read_text, read_trial
from lorasa_rllib.studies.run import COMMAND
from lorasa_rllib.studies.trained import Trial, find_trials, load_policy_of, play

ENVS, ENV_STEPS = 8, 2000
"""Environments, and environment steps in all, that provide the common bank of observations."""

TRIALS = 12
"""Maximum number of trials in a report."""

CHECKPOINTS = 3
"""Minimum number of checkpoints for a curve of distances over training."""

SEES = (
    "Every policy is shown the same observations, from episodes of the trained team, all agents' pooled, and each with "
    "its own id and adapter. Definitions are ours."
)

OVERVIEW = "Return: mean of the last tenth of training. Distance: mean over pairs of agents."
RESOURCES = (
    "Numbers in actor and critic, those that the last phase trains, bytes of weights in a checkpoint and of Adam's two "
    "moments. Exact, counted on the networks."
)


def analyze(
    folder: Path,
    out: Path,
    env_steps: int = ENV_STEPS,
    every_seed: bool = False,
    command: str | None = None,
    shown: Callable[[int, int], None] = lambda done, of: None,
    trust: bool = False,
) -> Path:
    """Writes the report of an experiment's or a trial's folder to `out`. Returns its path.

    Shows one trial per method, the one with the lowest seed, unless every_seed. command: shown in the report next to
    the study's command. shown: called after every trial with the number done and the total. Ctrl-C ends with a report
    of the finished trials. trust: whether code in the folder may run: pickles of checkpoints without policy files, and
    environment modules. Raises ValueError if the folder holds no trained policies.
    """
    trials = find_trials(folder, trust)
    if not every_seed:
        trials = list({trial.arm: trial for trial in reversed(trials)}.values())[::-1]
    left_out = [trial.name for trial in trials[TRIALS:]]
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as temporary:
        sizes: list[dict[str, Any]] = []
        overview: list[dict[str, object]] = []
        chosen, interrupted = trials[:TRIALS], False
        for k, trial in enumerate(chosen):
            try:
                about, facts = _trial(trial, Path(temporary) / str(k), env_steps, trust)
            except KeyboardInterrupt:
                if not overview:
                    raise
                left_out, interrupted = [trial.name for trial in trials[k:]], True
                break
            overview.append(facts)
            sizes.append({"trial": trial.name, **_sizes(load_policy_of(trial.last, trust))})
            parts += about
            shown(k + 1, len(chosen))
        first = [
            Part("Overview", OVERVIEW, table=pd.DataFrame(overview), level=2),
            Part("Resources", RESOURCES, table=pd.DataFrame(sizes), level=2),
        ]
        if left_out:
            first.append(Part("Left out", f"Analyse these by their own folders: {', '.join(left_out)}.", level=2))
        facts = {
            "folder": folder.name,
            "trials shown": len(trials) - len(left_out),
            "observations": f"{env_steps:,} environment steps of {ENVS} environments per trial, sampled actions",
            **{name: version(name) for name in ("lorasa-rllib", "ray", "torch")},
        }
        write_report(
            out,
            f"Agents' policies: {folder.name}",
            facts,
            [*first, *parts],
            [*commands_of(folder), command or f"lorasa analyze {folder}"],
        )
    if interrupted:
        raise KeyboardInterrupt
    return out


def commands_of(folder: Path) -> list[str]:
    """The command line that ran an experiment or trial, as a list of one line; empty if unknown."""
    for file in (place / COMMAND for place in (folder, folder.parent)):
        with suppress(OSError, PolicyFileError):  # links are not followed, as they may point anywhere
            return [printable(contents_of(file, 2**16, "no command", links=False).decode(errors="replace").strip())]
    return []


def _trial(trial: Trial, temporary: Path, env_steps: int, trust: bool) -> tuple[list[Part], dict[str, object]]:
    """The sections about one trial and its row of the overview."""
    policy = load_policy_of(trial.last, trust)
    bank = play(trial.last, ENVS, env_steps, trust=trust)
    owners = policy.config.owners
    groups = f", groups {list(owners.backbone_of)}" if 1 < owners.num_backbones < len(owners.backbone_of) else ""
    parts = [Part(trial.name, f"Sharing method {owners.method}, phase {policy.phase}{groups}.", level=2)]
    names, measure = names_of(policy), measure_of(policy)
    distances, layers = policy_distances(policy, bank), layer_distances(policy, bank)
    file = temporary / "distances.png"
    draw_heat_map(distances, names, file, trial.name, label=measure)
    parts.append(Part("How differently do they act?", f"{measure[0].upper()}{measure[1:]}. {SEES}", file))
    parts.append(_over_training(trial, bank, names, measure, temporary / "training.png", trust))
    file = temporary / "layers.png"
    draw_layers(layers, file, trial.name)
    text = (
        "One-dimensional Wasserstein distance between two agents' activations of every unit, in units of its standard "
        "deviation, averaged over units: 0 where a layer answers alike."
    )
    parts.append(Part("Where in the network do they differ?", f"{text} {SEES}", file))
    parts += _adapters(policy, trial.name, temporary / "adapters.png")
    means = mean_per_layer(layers)
    return parts, {
        "trial": trial.name,
        "environment steps": f"{max(trial.checkpoints):,}",
        "return": _final_return(trial),
        "mean distance": mean_over_pairs(distances),
        "layer that differs most": max(means, key=means.__getitem__),
    }


def _over_training(
    trial: Trial, bank: ObservationBank, names: Sequence[str], measure: str, file: Path, trust: bool
) -> Part:
    if len(trial.checkpoints) < CHECKPOINTS:
        text = (
            f"Only {len(trial.checkpoints)} checkpoints were kept, too few for a curve. --keep-checkpoints 10 of the "
            "study's script keeps more of them."
        )
        return Part("When did they part?", text)
    matrices = [policy_distances(load_policy_of(path, trust), bank) for path in trial.checkpoints.values()]
    draw_distances_over_training(list(trial.checkpoints), matrices, list(names), file, trial.name, label=measure)
    text = (
        f"{len(matrices)} checkpoints, all on the observations of the last one: 0 where agents act alike. "
        "--keep-checkpoints 10 of the study's script keeps more of them."
    )
    return Part("When did they part?", text, file)


def _adapters(policy: TeamPolicy, title: str, file: Path) -> list[Part]:
    statistics = adapter_statistics(policy)
    if statistics.empty:
        return []
    draw_relative_norms(statistics, file, title, adapter_names(policy))
    text = (
        "Size of each adapter relative to the weights it is added to (Frobenius norms): at 0.3 a layer is mostly the "
        "backbone's, from 1 on mostly the adapter's. The log-std is in the table alone: its weights may lie near 0, "
        "where any change is large beside them. The table has means over adapters. Entries below 0.05 deviations: the "
        "share of an update's entries smaller than 0.05 standard deviations of the weights, so near 1 for a sparse "
        "update. Stable rank: how many directions the update really uses, at most r. Energy: the share of its squared "
        "singular values that the largest ones hold, so near 1 where a smaller r would do."
    )
    means = statistics.drop(columns="adapter").groupby("layer", sort=False).mean().reset_index()
    return [Part("What have adapters become?", text, file, means.rename(columns=WORDS))]


def _sizes(policy: TeamPolicy) -> dict[str, int]:
    found = counts(policy.config)
    return {
        "backbone": found.backbone,
        "adapters": found.adapters,
        "critic": found.critic,
        "trained last": found.trained,
        "weights, bytes": found.weight_bytes,
        "Adam, bytes": found.optimiser_bytes,
    }


def _final_return(trial: Trial) -> float | None:
    file = trial.path / "result.json"
    if not os.path.lexists(file):
        return None
    curve = read_trial(read_text(file).splitlines(), {})
    return curve["episode_return"][curve["env_steps"] > 0.9 * curve["env_steps"].max()].mean()
