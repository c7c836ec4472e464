"""Which layers need adapters? Compares LoRASA with adapters in --placements, and PS (or --methods).

    python tune_configs/ablation_placement.py --scenario HalfCheetah-2x3 --seeds 3
    python tune_configs/ablation_placement.py --placements all head first hidden mlp.1+head --base lora-joint

A placement is all, head, first, hidden (lorasa_rllib/studies/methods.py) or layer patterns joined by +.

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
import sys

from lorasa_rllib.studies.script import run_script


def add_options(parser: argparse.ArgumentParser) -> None:
    what = "all, head, first, hidden, or patterns of layers joined by +, such as mlp.1+head"
    parser.add_argument("--placements", nargs="+", default=["all", "head", "first", "hidden"], help=what)
    parser.add_argument("--base", default="lora", help="the method whose adapters are placed")


def variants(options: argparse.Namespace) -> list[str]:
    return [f"{options.base}{',' if ':' in options.base else ':'}on={placement}" for placement in options.placements]


if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, methods=["ps"], more=add_options, variants=variants))
