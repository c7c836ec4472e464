"""Which of HalfCheetah's two gaits has a team learnt: running on its feet or on its back?

Returns of HalfCheetah form two clusters. This benchmark classifies runs by behaviour rather than by return.

Method     greedy episodes of a trial's last checkpoint; upright: share of steps with the torso's pitch below a right
           angle
Run        python benchmarks/gaits.py FOLDER ...     folders of studies, those of benchmarks/studies.py in
           results/runs; then `make results`. Gaits at the switch after 0.3 M steps:
           tune_configs/mamujoco.py --scenario HalfCheetah-2x3 --methods ps lora --seeds 6 --total-env-steps 304000
           --phase-switch 300000 --name trunks, which starts like the runs of the study "ablations"
Recorded   results/gaits/gaits.csv, one row per run; existing rows of the same runs are replaced
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.studies import STUDIES
from lorasa_rllib.envs.base import VectorTeamEnv
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.rllib.checkpoints import read_trained
from lorasa_rllib.studies.curves import write_csv
from lorasa_rllib.studies.methods import label_of
from lorasa_rllib.studies.options import in_files
from lorasa_rllib.studies.playing import environment_of
from lorasa_rllib.studies.provenance import provenance
from lorasa_rllib.studies.trained import find_trials

RECORDED = Path(__file__).parents[1] / "results" / "gaits" / "gaits.csv"
EPISODES = 8
PITCH = 1
"""Index of the pitch in the global state, which is Gymnasium's observation of HalfCheetah: height, pitch, ..."""
RUNS = ["scenario", "env_steps", "algorithm"]
RUN = ["scenario", "obs", "algorithm", "method", "env_steps", "seed"]


def gait(env: VectorTeamEnv, policy: LoadedPolicy) -> dict[str, float]:
    """Return and share of upright steps, averaged over one greedy episode per copy of the environment."""
    step, memory = env.reset(0), None
    returns, upright = np.zeros(env.num_envs), []
    while True:
        upright.append(np.cos(step.state[:, PITCH]) > 0)
        actions, memory = policy.act(step.obs, memory, greedy=True)
        step = env.step(actions)
        returns += step.rewards.sum(-1)
        if step.ended.any():  # all at once: HalfCheetah's episodes end only by the time limit
            return {"return": returns.mean(), "upright": np.mean(upright)}


def measure(folder: Path) -> list[dict[str, Any]]:
    """The rows of one study's folder."""
    curves, rows = pd.read_csv(folder / "curves.csv"), []
    ends = {in_files(f"{r['scenario']}_{r['method']}_seed{r['seed']}"): r for _, r in curves.iterrows()}  # the last one
    if others := sorted({name for name in curves["scenario"] if not name.startswith("HalfCheetah")}):
        raise ValueError(f"{folder} holds runs on {others}; only HalfCheetah has these gaits.")
    for trial in find_trials(folder):
        saved = read_trained(trial.last)
        env = environment_of(saved, EPISODES, {})
        try:
            rows.append({name: ends[trial.name][name] for name in RUN} | gait(env, LoadedPolicy(saved)) | provenance())
        finally:
            env.close()
    return rows


def table() -> str:
    """Markdown table per method: number of seeds that run upright, and mean returns of those that do and do not."""
    runs = pd.read_csv(RECORDED)
    order = list(dict.fromkeys(method for study in STUDIES.values() for method in study.methods))
    order += sorted(set(runs["method"]) - set(order))
    runs = runs.sort_values([*RUNS, "method"], key=lambda x: x.map(order.index) if x.name == "method" else x)
    lines = [
        "| scenario | steps | method | seeds upright | their greedy returns | upside down | theirs |",
        "|" + " --- |" * 7,
    ]
    for (scenario, steps, algorithm, method), seeds in runs.groupby([*RUNS, "method"], sort=False):
        up = seeds["upright"] > 0.5
        cells = [scenario, f"{steps / 1e6:g} M", f"{algorithm.upper()}, {label_of(method)}"]
        for some in (seeds[up], seeds[~up]):
            low, high = some["return"].min(), some["return"].max()
            spread = f"{low:,.0f} to {high:,.0f}" if len(some) > 1 else f"{low:,.0f}" if len(some) else ""
            cells += [str(len(some)), spread]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="with a trial and its curves.csv")
    rows = pd.DataFrame([row for folder in parser.parse_args().folders for row in measure(folder)])
    if RECORDED.is_file():
        rows = pd.concat([pd.read_csv(RECORDED), rows]).drop_duplicates(RUN, keep="last")
    write_csv(rows.sort_values(RUN), RECORDED)
    print(table())


if __name__ == "__main__":
    main()
