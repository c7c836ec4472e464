"""A job on a cluster of several raylets, from a folder that holds nothing but the script: its results, the series it
writes for Prometheus, and its page on the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from lorasa_rllib.rllib.gauges import SERIES
from tests.cluster.processes import free_port

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
NOT_HERE = {"lorasa_win_rate", "lorasa_agent_return_mean"}  # HalfCheetah is not won, and shares its reward


@pytest.fixture(scope="module")
def dashboard():
    """Address of the dashboard of three raylets."""
    interval = "RAY_metrics_report_interval_ms"
    os.environ[interval] = "1000"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    port = free_port()
    own = "dashboard_agent_listen_port"  # any other Ray on this machine has taken the usual one
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": port, own: free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, **{own: free_port()})
    cluster.wait_for_nodes(timeout=60)
    yield f"http://127.0.0.1:{port}"
    cluster.shutdown()
    del os.environ[interval]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def series(dashboard: str) -> dict[str, set[str]]:
    """Names of our series on all endpoints that Prometheus is told of -> their labels."""
    found: dict[str, set[str]] = {}
    for group in json.loads(get(f"{dashboard}/api/prometheus/sd")):
        for target in group["targets"]:
            try:
                text = get(f"http://{target}/metrics")
            except OSError:  # told of, but not up yet: Prometheus would ask again later, too
                continue
            for name, labels in re.findall(r"^ray_(lorasa_\w+)\{(.*)\} ", text, re.M):
                found.setdefault(name, set()).add(labels)
    return found


def ray_job(dashboard: str, *arguments: str, limit: float = 120, **where: Path) -> str:
    command = [str(Path(sys.executable).parent / "ray"), "job", arguments[0], "--address", dashboard, *arguments[1:]]
    deadline = time.monotonic() + limit
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, **where)
        told = done.stdout + done.stderr
        if "No available agent" not in told or time.monotonic() > deadline:  # a young cluster: "try again later"
            assert done.returncode == 0, told
            return done.stdout
        time.sleep(2)


def screenshot(page: str, picture: Path) -> None:
    browser = [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    look = ["--window-size=1500,1100", "--virtual-time-budget=20000", f"--screenshot={picture}", page]
    subprocess.run([*browser, *look], check=True, capture_output=True, timeout=90)


def test_a_job_shows_itself_while_it_runs_and_leaves_its_results(dashboard, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(ROOT / "tune_configs" / "mamujoco.py", empty)
    script = f"python {empty}/mamujoco.py --num-env-runners 4 --total-env-steps 40000 --phase-switch 20000"
    options = f"--storage-path {tmp_path} --name job --evaluation-interval 1000"
    answer = ray_job(dashboard, "submit", "--no-wait", "--", *script.split(), *options.split(), cwd=empty)
    job = re.search(r"raysubmit_\w+", answer)[0]

    deadline, seen, shown = time.monotonic() + 200, {}, False
    while (status := json.loads(get(f"{dashboard}/api/jobs/{job}"))["status"]) != "SUCCEEDED":
        assert status in {"PENDING", "RUNNING"} and time.monotonic() < deadline, ray_job(dashboard, "logs", job)
        time.sleep(0.5)
        for name, labels in series(dashboard).items():
            seen.setdefault(name, set()).update(labels)
        if not shown and "lorasa_env_steps" in seen:
            picture = Path(os.environ.get("LORASA_SCREENSHOT", tmp_path / "job.png"))
            screenshot(f"{dashboard}/#/jobs/{job}", picture)
            shown = picture.stat().st_size > 40_000  # an empty page has less than 10,000 bytes
    assert shown
    assert set(seen) == set(SERIES) - NOT_HERE
    assert all('run="HalfCheetah-2x3_lora_seed1"' in labels for name in seen for labels in seen[name])
    assert {re.search(r'part="(\w+)"', labels)[1] for labels in seen["lorasa_split_seconds"]} == {
        "sample",
        "transfer",
        "learn",
        "sync",
    }
    output = ray_job(dashboard, "logs", job)
    assert "learning_curves.png" in output and "Traceback" not in output
    curves = pd.read_csv(tmp_path / "job" / "curves.csv")
    assert curves["env_steps"].max() == 40_000 and set(curves["phase"]) == {"backbone", "adapters"}


def test_the_grafana_dashboard_draws_series_that_exist():
    board = json.loads((ROOT / "cluster" / "grafana_dashboard.json").read_text())
    drawn = {name for panel in board["panels"] for target in panel["targets"]
             for name in re.findall(r"ray_(lorasa_\w+)", target["expr"])}  # fmt: skip
    assert drawn == set(SERIES)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and all(panel["title"] and panel["description"] for panel in board["panels"])
