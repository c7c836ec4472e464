"""When should adapters begin? One backbone per seed; adapter phases fork from its checkpoints at --fork-at.

    python tune_configs/ablation_switch.py --scenario HalfCheetah-2x3 --fork-at 0.1M,0.3M,0.5M --total-env-steps 1000000
    python tune_configs/ablation_switch.py --suite smax --map smacv2_5_units --fork-at 0.5M,1M,2M

Every fork has the same total budget as a full run. Also runs --methods, by default PS and joint training.

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
    options = read_options(None, description, None, ["ps", "lora-joint"], add_options)
    from lorasa_rllib.studies.run import run  # imports Ray, which takes seconds
    from lorasa_rllib.studies.terminal import exit_status_of

    return exit_status_of("ablation_switch.py", lambda: run(options))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fork-at", default="0.1,0.3,0.5", help="steps (0.5M,1M) or shares of the budget at which adapters begin"
    )
    parser.add_argument(
        "--base", default="lora", help="the method whose switch is varied: lora, lora-role, lora:r=4 ..."
    )


if __name__ == "__main__":
    sys.exit(main())
