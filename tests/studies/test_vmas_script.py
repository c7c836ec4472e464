"""The script for VMAS as a user runs it."""

from __future__ import annotations

import pytest

from tests.studies.test_mamujoco_script import start

pytest.importorskip("vmas", reason="needs the extra [vmas]")


def test_a_smoke_run_ends_with_a_table_and_a_checkpoint(tmp_path, ray_address):
    options = ["--smoke", "--storage-path", tmp_path, "--name", "smoke"]
    process = start(*options, script="vmas_scenarios", address=ray_address)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0 and "final return" in output, output
    assert list(tmp_path.glob("smoke/navigation_lora_seed1/checkpoint_*/algorithm_state.pkl"))


def test_an_unknown_scenario_ends_with_one_line(tmp_path):
    process = start("--scenario", "navigaton", "--storage-path", tmp_path, script="vmas_scenarios")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "did you mean 'navigation'" in output and "Traceback" not in output, output
