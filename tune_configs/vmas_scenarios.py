"""Trains teams in VMAS, physics in PyTorch on CPU or GPU, with MAPPO or A2PO: a trial per scenario, method and seed.

    python tune_configs/vmas_scenarios.py --scenario navigation --smoke
    python tune_configs/vmas_scenarios.py --scenario dispersion --methods ps nps lora lora-joint --seeds 3
    python tune_configs/vmas_scenarios.py --scenario navigation --env-set device=cuda --num-gpus-per-learner 1
    ray submit cluster/aws.yaml tune_configs/vmas_scenarios.py -- --scenario flocking --num-env-runners 8

Needs: pip install -e ".[vmas]" -c constraints.txt. Ends with a table of returns, a figure of the learning curves and a
checkpoint per trial; --resume continues an interrupted run. Hyper-parameters: lorasa_rllib/studies/presets.py. (A file
named vmas.py would hide the package.)
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
    from lorasa_rllib.studies.options import read_options

    protect_local_start()
    options = read_options(None, (__doc__ or "").splitlines()[0], "vmas")
    from lorasa_rllib.studies.run import run  # imports Ray, which takes seconds
    from lorasa_rllib.studies.terminal import exit_status_of

    return exit_status_of("vmas_scenarios.py", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
