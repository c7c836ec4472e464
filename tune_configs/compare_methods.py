"""Compares sharing methods side by side: PS, NPS, MTL, SePS, LoRASA, SePS+LoRA, unless --methods says otherwise.

    python tune_configs/compare_methods.py --scenario HalfCheetah-2x3 --seeds 3 --total-env-steps 1000000
    python tune_configs/compare_methods.py --suite smax --map 2s3z --methods ps nps lora lora-joint lora-role-joint

Suites: mamujoco and vmas (--scenario), smax and smac (--map), pettingzoo (--env-name); all other options are those of
tune_configs/mamujoco.py. Ends with a table, a figure and their CSVs; --resume continues an interrupted run.
"""

from __future__ import annotations

import sys

from lorasa_rllib.studies.methods import PAPERS
from lorasa_rllib.studies.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, methods=PAPERS))
