"""Does it learn? Draws studies in one figure, with RLlib's stock PPO on the same task where it was measured.

Compared   our methods (a study of tune_configs/mamujoco.py) | RLlib's stock PPO with the same widths, batch, epochs,
           learning rate, discount and clipping (benchmarks/stock.py)
Run        python tune_configs/mamujoco.py --scenario HalfCheetah-2x3 --methods ps lora lora-joint --seeds 3
               --total-env-steps 1000000 --phase-switch 0.3 --evaluation-interval 50 --max-concurrent 2
               --storage-path results/runs --name halfcheetah_2x3
           the same with --seeds 4,5,6 --name halfcheetah_2x3_seeds456, and with --methods ps lora-joint
               --id-features none --name halfcheetah_2x3_no_ids
           PYTHONHASHSEED=0 python -m benchmarks.stock --what train --scenario HalfCheetah --agent-conf 2x3
               --total-env-steps 1000000 --seed 1 --csv results/learning/stock_seed1.csv       (and seeds 2, 3)
           python benchmarks/learning_curves.py results/runs/halfcheetah_2x3{,_seeds456}/curves.csv
               --without-ids results/runs/halfcheetah_2x3_no_ids/curves.csv
           MAPPO and A2PO: --scenario HalfCheetah-6x1 --methods ps lora --seeds 3 and the rest as above, once with
               --algorithm mappo --name halfcheetah_6x1_mappo and once with --algorithm a2po --name halfcheetah_6x1_a2po
           python benchmarks/learning_curves.py results/runs/halfcheetah_6x1_{mappo,a2po}/curves.csv
               --scenario HalfCheetah-6x1 --folder results/a2po
Recorded   results/{learning,a2po}/{curves.csv,table.csv,learning_curves.png} and README, "Results"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from lorasa_rllib.studies.curves import COLUMNS, write_csv
from lorasa_rllib.studies.figure import draw_curves
from lorasa_rllib.studies.table import rich_table, summary


def stock_curve(path: Path, scenario: str) -> pd.DataFrame:
    """A CSV of benchmarks/stock.py as rows of a study."""
    run = pd.read_csv(path)
    seed = int(path.stem.removeprefix("stock_seed"))
    columns = {"env_steps": run["env_steps"], "episode_return": run["episode_return_mean"], "seconds": run["seconds"]}
    what = {"scenario": scenario, "obs": "local k=1", "algorithm": "ppo", "method": "stock", "seed": seed}
    fixed = {"phase": "backbone", "episodes": 1, "evaluation_return": float("nan")}
    return pd.DataFrame({**columns, **what, **fixed})[COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, nargs="+", help="curves.csv of the study, or of its parts")
    parser.add_argument("--without-ids", type=Path, help="curves.csv of the study with --id-features none")
    parser.add_argument("--scenario", default="HalfCheetah-2x3")
    parser.add_argument("--title", default="gymnasium-robotics mamujoco_v1", help="of the figure: the environments")
    parser.add_argument("--folder", type=Path, default=Path("results/learning"), help="for figure, table and curves")
    options = parser.parse_args()
    ours = pd.concat([pd.read_csv(path) for path in options.curves])
    stock = [stock_curve(path, options.scenario) for path in sorted(options.folder.glob("stock_seed*.csv"))]
    studies = [*stock, ours[ours["scenario"] == options.scenario]]
    if options.without_ids:
        studies.append(pd.read_csv(options.without_ids).assign(scenario=f"{options.scenario}, without id features"))
    curves = pd.concat(studies, ignore_index=True)
    write_csv(curves, options.folder / "curves.csv")
    write_csv(summary(curves), options.folder / "table.csv")
    draw_curves(curves, options.folder / "learning_curves.png", options.title)
    Console(width=150).print(rich_table(summary(curves)))


if __name__ == "__main__":
    main()
