"""Every row of a curve says what it came from."""

from __future__ import annotations

import re

from lorasa_rllib.studies.curves import read_trial
from lorasa_rllib.studies.provenance import Provenance, commit, provenance


def test_results_name_versions_and_commit():
    result = {"training_iteration": 1}
    Provenance().on_trial_result(result=result)
    assert {name: result[name] for name in ("versions", "commit")} == provenance()
    assert re.search(r"lorasa-rllib \S+, ray \S+, torch \S+", result["versions"])


def test_the_commit_is_a_hash_with_a_mark_for_changed_files_or_nothing_where_there_is_no_checkout():
    assert re.fullmatch(r"([0-9a-f]{7,}\+?)?", commit())


def test_curves_of_runs_from_before_have_neither():
    row = (
        '{"training_iteration": 1, "num_env_steps_sampled_lifetime": 8, "phase": "joint", "time_total_s": 1.0, '
        '"env_runners": {"episode_return_mean": 2.0, "num_episodes_lifetime": 1}}'
    )
    assert read_trial([row], {})[["versions", "commit"]].isna().all(axis=None)
