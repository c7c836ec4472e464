"""Trains teams on SMAX, StarCraft-like battles from PyPI alone, with MAPPO or A2PO: a trial per map, method and seed.

    python tune_configs/smax.py --map 3s5z --smoke
    python tune_configs/smax.py --map smacv2_5_units --methods ps lora lora-role --seeds 3 --total-env-steps 2000000
    python tune_configs/smax.py --map 3s5z --algorithm a2po
    ray submit cluster/aws.yaml tune_configs/smax.py -- --map smacv2_10_units --num-env-runners 8

Needs: pip install -e ".[smax]" -c constraints.txt. Ends with a table of win rates, a figure of the learning curves and
a checkpoint per trial; --resume continues an interrupted run. Hyper-parameters: lorasa_rllib/studies/presets.py.
"""

from __future__ import annotations

import sys

from lorasa_rllib.studies.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, "smax"))
