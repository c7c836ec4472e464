"""Compares sharing methods side by side: PS, NPS, MTL, SePS, LoRASA, SePS+LoRA, unless --methods says otherwise.

    python tune_configs/compare_methods.py --scenario HalfCheetah-2x3 --seeds 3 --total-env-steps 1000000
    python tune_configs/compare_methods.py --suite smax --map 2s3z --methods ps nps lora lora-joint lora-role-joint

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

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
    from lorasa_rllib.studies.methods import PAPERS
    from lorasa_rllib.studies.options import read_options

    protect_local_start()
    description = (__doc__ or "").splitlines()[0]
    options = read_options(None, description, None, PAPERS)
    from lorasa_rllib.studies.run import run  # imports Ray, which takes seconds
    from lorasa_rllib.studies.terminal import exit_status_of

    return exit_status_of("compare_methods.py", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
