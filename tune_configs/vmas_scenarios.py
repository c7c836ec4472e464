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

import sys

from lorasa_rllib.studies.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, "vmas"))
