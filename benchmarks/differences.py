"""How do the agents of a trained team differ? The data of `lorasa analyze` as CSV, for figures of results/README.md.

Method     every policy receives the same observations, from 2,000 environment steps of the trained team; definitions in
           lorasa_rllib/analysis/
Run        python benchmarks/differences.py TRIAL NAME     TRIAL: a folder below results/runs; then `make results`
Recorded   results/differences/NAME/{about.json,distances.csv,layers.csv,adapters.csv}
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from lorasa_rllib.analysis.adapters import adapter_names, adapter_statistics, draw_relative_norms
from lorasa_rllib.analysis.distances import draw_heat_map, measure_of, policy_distances
from lorasa_rllib.analysis.layers import draw_layers, layer_distances
from lorasa_rllib.analysis.observations import names_of
from lorasa_rllib.studies.analyze import ENV_STEPS, ENVS
from lorasa_rllib.studies.curves import write_csv
from lorasa_rllib.studies.provenance import provenance
from lorasa_rllib.studies.trained import find_trials, load_policy_of, play

FOLDER = Path(__file__).parents[1] / "results" / "differences"


def record(trial: Path, name: str) -> Path:
    (found,) = find_trials(trial)
    policy = load_policy_of(found.last)
    bank = play(found.last, ENVS, ENV_STEPS)
    names, folder = names_of(policy), FOLDER / name
    layers = layer_distances(policy, bank)
    rows = [
        {"layer": layer, "first": names[i], "second": names[j], "distance": matrix[i, j]}
        for layer, matrix in layers.items()
        for i in range(len(names))
        for j in range(len(names))
    ]
    write_csv(pd.DataFrame(policy_distances(policy, bank), columns=names), folder / "distances.csv")
    write_csv(pd.DataFrame(rows), folder / "layers.csv")
    write_csv(adapter_statistics(policy), folder / "adapters.csv")
    about = {
        "trial": found.name,
        "environment steps": max(found.checkpoints),
        "measure": measure_of(policy),
        "adapters": adapter_names(policy),
        **provenance(),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    return folder


def draw(folder: Path) -> None:
    """Draws the figures of one recorded team."""
    about = json.loads((folder / "about.json").read_text())
    distances = pd.read_csv(folder / "distances.csv")
    names = list(distances)
    draw_heat_map(distances.to_numpy(), names, folder / "distances.png", about["trial"], about["measure"])
    by_layer = pd.read_csv(folder / "layers.csv").groupby("layer", sort=False)["distance"]
    layers = {str(layer): np.reshape(values, (len(names), len(names))) for layer, values in by_layer}
    draw_layers(layers, folder / "layers.png", about["trial"])
    draw_relative_norms(
        pd.read_csv(folder / "adapters.csv"), folder / "adapters.png", about["trial"], about["adapters"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Path, help="folder of a trial with checkpoints")
    parser.add_argument("name", help="what the results page calls it")
    options = parser.parse_args()
    folder = record(options.trial, options.name)
    draw(folder)
    print(folder)


if __name__ == "__main__":
    main()
