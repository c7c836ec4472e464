"""Which rank do adapters need? Compares LoRASA with --ranks, and PS (or --methods).

    python tune_configs/ablation_rank.py --scenario HalfCheetah-2x3 --ranks 2 4 8 16 64 --seeds 3
    python tune_configs/ablation_rank.py --suite smax --map 3s5z --base lora-joint

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
import sys

from lorasa_rllib.studies.script import run_script


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 8, 16, 64], help="64 is dense in layers of 64")
    parser.add_argument("--base", default="lora", help="the method whose rank is varied")


def variants(options: argparse.Namespace) -> list[str]:
    return [f"{options.base}{',' if ':' in options.base else ':'}r={rank}" for rank in options.ranks]


if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, methods=["ps"], more=add_options, variants=variants))
