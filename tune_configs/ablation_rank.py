"""Which rank do adapters need? Compares LoRASA with --ranks, and PS (or --methods).

    python tune_configs/ablation_rank.py --scenario HalfCheetah-2x3 --ranks 2 4 8 16 64 --seeds 3
    python tune_configs/ablation_rank.py --suite smax --map 3s5z --base lora-joint

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
import os
import sys

# One thread per process: trials, env runners and learners run side by side and would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A line per trial (lorasa_rllib.studies.progress) instead of Tune's own tables and hints.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0")
os.environ.setdefault("PYTHONWARNINGS", "ignore")


def main() -> int:
    """Exit status: 0 done, 1 a trial failed, 2 bad options or something not installed, 130 interrupted."""
    from lorasa_rllib.studies.local import protect_local_start
    from lorasa_rllib.studies.options import read_options

    protect_local_start()
    description = (__doc__ or "").splitlines()[0]
    options = read_options(None, description, None, ["ps"], add_options, variants)
    from lorasa_rllib.studies.run import run  # imports Ray, which takes seconds
    from lorasa_rllib.studies.terminal import exit_status_of

    return exit_status_of("ablation_rank.py", lambda: run(options))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 8, 16, 64], help="64 is dense in layers of 64")
    parser.add_argument("--base", default="lora", help="the method whose rank is varied")


def variants(options: argparse.Namespace) -> list[str]:
    return [f"{options.base}{',' if ':' in options.base else ':'}r={rank}" for rank in options.ranks]


if __name__ == "__main__":
    sys.exit(main())
