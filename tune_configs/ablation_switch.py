"""When should adapters begin? One backbone per seed; adapter phases fork from its checkpoints at --fork-at.

    python tune_configs/ablation_switch.py --scenario HalfCheetah-2x3 --fork-at 0.1M,0.3M,0.5M --total-env-steps 1000000
    python tune_configs/ablation_switch.py --suite smax --map smacv2_5_units --fork-at 0.5M,1M,2M

Every fork has the same total budget as a full run. Also runs --methods, by default PS and joint training.

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
import sys

from lorasa_rllib.studies.script import run_script


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fork-at", default="0.1,0.3,0.5", help="steps (0.5M,1M) or shares of the budget at which adapters begin"
    )
    parser.add_argument(
        "--base", default="lora", help="the method whose switch is varied: lora, lora-role, lora:r=4 ..."
    )


if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, methods=["ps", "lora-joint"], more=add_options))
