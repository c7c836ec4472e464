"""A Ray that scripts start for themselves takes nobody in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lorasa_rllib.studies.local import protect_local_start

START = """
import logging, subprocess, sys
from lorasa_rllib.studies.local import protect_local_start
protect_local_start([])
import ray
begun = ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
print(ray.get(ray.remote(lambda: "works").remote()), begun.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('JOINED')"


@pytest.fixture
def short_folder():
    """Ray's sockets have paths of at most 103 characters, too few for `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_process_without_the_token_cannot_join(short_folder):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mine = plain | {"RAY_ADDRESS": "local", "RAY_TMPDIR": short_folder}
    begun = subprocess.Popen(
        [sys.executable, "-c", START], env=mine, cwd=Path(__file__).parents[2], stdin=-1, stdout=-1, text=True
    )
    works, address = begun.stdout.readline().split()
    assert works == "works"
    try:
        stranger = subprocess.run([sys.executable, "-c", JOIN, address], env=plain, capture_output=True, text=True,
                                  timeout=200, check=False)  # fmt: skip
        assert stranger.returncode != 0 and "JOINED" not in stranger.stdout and "InvalidAuthToken" in stranger.stderr
    finally:
        begun.communicate("\n", timeout=60)


@pytest.mark.parametrize(
    ("arguments", "environment", "protected"),
    [
        ([], {}, True),
        ([], {"RAY_ADDRESS": "local"}, True),
        (["--address", "auto"], {}, False),
        (["--address=ray://head:10001"], {}, False),
        ([], {"RAY_ADDRESS": "192.0.2.1:6379"}, False),
        ([], {"RAY_AUTH_MODE": "disabled"}, False),
    ],
)
def test_whoever_joins_a_cluster_keeps_its_settings(monkeypatch, tmp_path, arguments, environment, protected):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in {"RAY_TMPDIR": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    protect_local_start(arguments)
    assert ("RAY_AUTH_TOKEN" in os.environ) is protected
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if protected else environment.get("RAY_AUTH_MODE"))
