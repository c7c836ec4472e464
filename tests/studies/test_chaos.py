"""benchmarks/chaos.py in short: a study that is killed as it writes a file ends with every step counted once."""

from __future__ import annotations

import random

from benchmarks.chaos import BATCH, STEPS, judged, killed


def test_a_study_that_is_killed_ends_with_every_step_counted_once(tmp_path):
    study, kills = killed(random.Random(3), tmp_path, 1)
    outcome, line = judged(study, *study.finish("--resume"))
    assert (kills, outcome) == (1, "exact"), line
    assert study.steps() == list(range(BATCH, STEPS + 1, BATCH))
