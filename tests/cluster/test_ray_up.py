"""The way of a user with machines of their own: `ray up`, `ray submit`, results fetched; over a real sshd on loopback.

The file is cluster/local.yaml; what the test must change are addresses, and whatever would touch other Ray processes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.cluster.processes import MARK, end, free_port

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Machine:
    """This machine as one that ssh reaches, with a home folder and a mark of its own."""

    def __init__(self, folder: Path):
        self.home, self.client = folder / "home", folder / "client"
        for each in (self.home, self.client / "bin"):
            each.mkdir(parents=True)
        self.mark, port = folder.name + str(os.getpid()), free_port()
        for name in ("host_key", "user_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True, timeout=30)
        self.key = folder / "user_key"
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        settings = {
            "Port": port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PidFile": "none",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": f"HOME={self.home} {MARK}={self.mark} RAY_TMPDIR={self.home.parent}/r",
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        # Ray's launcher knows no port: an ssh in front of the real one does.
        (folder / "ssh_config").write_text(f"Host 127.0.0.1\n  Port {port}\n  UserKnownHostsFile /dev/null\n")
        shim = self.client / "bin" / "ssh"
        shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        shim.chmod(0o755)
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        self.log = (folder / "sshd.log").open("w")
        self.sshd = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=self.log)

    def ray(self, *arguments: object, limit: float = 120) -> str:
        """Runs a `ray` command as the user would, elsewhere; returns what it prints."""
        path = os.pathsep.join([str(self.client / "bin"), str(BIN), os.environ["PATH"]])
        environment = {**os.environ, "HOME": str(self.client), "PATH": path, "RAY_AUTH_MODE": "token"}
        done = subprocess.run(
            ["ray", *map(str, arguments)], env=environment, cwd=ROOT, timeout=limit,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def close(self) -> None:
        end(self.mark)
        self.sshd.terminate()
        self.sshd.wait(timeout=10)
        self.log.close()


@pytest.fixture
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("m"))
    yield machine
    machine.close()


def cluster_file(machine: Machine, path: Path) -> Path:
    config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    config["cluster_name"] += machine.mark
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": pwd.getpwuid(os.getuid()).pw_name, "ssh_private_key": str(machine.key)}
    config["min_workers"] = config["max_workers"] = 0
    # The tests' own environment stands in for the one that the second command would install, for minutes.
    (machine.home / "lorasa-venv").symlink_to(BIN.parent)
    config["setup_commands"] = [config["setup_commands"][0], config["setup_commands"][2]]
    ports = f"--port={free_port()} --dashboard-port={free_port()} --num-cpus=3 --include-dashboard=true"
    stop, start = config["head_start_ray_commands"]
    assert stop == "ray stop"  # never here: it would end every Ray process of the machine
    start = start.replace("--port=6379", f"--block {ports}").replace("ray start", "setsid nohup ray start")
    alive = "until test -s $RAY_TMPDIR/ray/ray_current_cluster && ray status > /dev/null 2>&1; do sleep 0.3; done"
    config["head_start_ray_commands"] = [f"{start} > ~/ray.log 2>&1 < /dev/null & timeout 60 bash -c '{alive}'"]
    path.write_text(yaml.safe_dump(config))
    return path


def test_up_submit_and_results(machine, tmp_path):
    token = machine.ray("get-auth-token", "--generate").split()[-1]
    file = cluster_file(machine, tmp_path / "cluster.yaml")
    machine.ray("up", file, "--yes", "--no-config-cache")
    assert (machine.home / ".ray" / "auth_token").read_text().strip() == token
    script = ["submit", file, "tune_configs/mamujoco.py", "--", "--smoke", "--num-env-runners", 2]
    output = machine.ray(*script, "--storage-path", "~/results", "--name", "submitted", limit=280)
    assert "learning_curves.png" in output and "Traceback" not in output
    machine.ray("rsync-down", file, "~/results/smoke_submitted/", f"{tmp_path}/fetched/")
    curves = pd.read_csv(tmp_path / "fetched" / "curves.csv")
    assert curves["env_steps"].max() == 1200
    # Without the token nobody gets in.
    status = machine.ray("exec", file, "mv ~/.ray/auth_token ~/.ray/hidden; ray status 2>&1 | tail -3; true")
    assert "authentication" in status.lower() or "token" in status.lower()
