"""Trains teams on SMAC and SMACv2 (StarCraft II) with MAPPO or A2PO: a trial per map, method and seed.

    python tune_configs/starcraft.py --map 3s5z --smoke
    python tune_configs/starcraft.py --map terran_5_vs_5 --methods ps lora-role --seeds 3
    python tune_configs/starcraft.py --map MMM2 --algorithm a2po
    ray submit cluster/aws.yaml tune_configs/starcraft.py -- --map 3s5z --num-env-runners 8

Needs the game and its Python packages: bash cluster/install_starcraft.sh. Ends with a table of win rates, a figure of
the learning curves and a checkpoint per trial; --resume continues an interrupted run. Hyper-parameters:
lorasa_rllib/studies/presets.py.
"""

from __future__ import annotations

import sys

from lorasa_rllib.studies.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, "smac"))
