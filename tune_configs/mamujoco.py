"""Trains teams on Multi-Agent MuJoCo with MAPPO or A2PO: a trial per scenario, method and seed, scheduled by Ray Tune.

    python tune_configs/mamujoco.py --smoke
    python tune_configs/mamujoco.py --scenario HalfCheetah-2x3 Ant-4x2 --methods ps lora lora-joint --seeds 3
    python tune_configs/mamujoco.py --scenario HalfCheetah-6x1 --algorithm a2po
    ray submit cluster/aws.yaml tune_configs/mamujoco.py -- --scenario Ant-4x2 --num-env-runners 8

Ends with a table, a figure of the learning curves and a checkpoint per trial; --resume continues an interrupted run.
Hyper-parameters of the scenarios: lorasa_rllib/studies/presets.py.
"""

from __future__ import annotations

import sys

from lorasa_rllib.studies.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__, __doc__, "mamujoco"))
