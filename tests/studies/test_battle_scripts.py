"""The scripts for battles as a user runs them."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.studies.test_mamujoco_script import start


def test_the_smoke_run_of_smax_ends_with_win_rates(tmp_path, ray_address):
    pytest.importorskip("jaxmarl", reason="needs the extra [smax]")
    process = start(
        "--map", "3s5z", "--smoke", "--adapter-key", "role", "--storage-path", tmp_path, "--name", "smoke",
        script="smax", address=ray_address,
    )  # fmt: skip
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    curves = pd.read_csv(tmp_path / "smoke" / "curves.csv")
    assert curves["phase"].drop_duplicates().tolist() == ["backbone", "adapters"]
    assert curves["win_rate"].between(0, 1).all() and curves["evaluation_win_rate"].notna().any()
    assert "win rate" in output and "JAX is multithreaded" not in output
    assert list(tmp_path.glob("smoke/3s5z_lora-role_seed1/checkpoint_*/algorithm_state.pkl"))


@pytest.mark.parametrize("script", ["smax", "starcraft"])
def test_an_unknown_map_ends_with_one_line(tmp_path, script):
    process = start("--map", "5x5", "--storage-path", tmp_path, script=script)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "Traceback" not in output
    assert "map_name='5x5' is unknown to SMAX" in output or "install_starcraft.sh" in output


def test_without_the_game_or_its_packages_starcraft_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    process = start("--map", "3s5z", "--smoke", "--storage-path", tmp_path, script="starcraft")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and "bash cluster/install_starcraft.sh" in output and "Traceback" not in output
