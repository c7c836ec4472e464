"""What is published: a source archive and a wheel that work away from the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import lorasa_rllib
from lorasa_rllib.studies.options import parser

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **environment):
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def test_the_wheel_made_from_the_source_archive_works_elsewhere(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lorasa_rllib", source / "lorasa_rllib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run("-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), ".", cwd=source)
    (archive,), (wheel,) = (list((tmp_path / "dist").glob(f"*.{kind}")) for kind in ("tar.gz", "whl"))
    with tarfile.open(archive) as packed:
        assert any(name.endswith("LICENSE") for name in packed.getnames())
    files = zipfile.ZipFile(wheel)
    inside = {name for name in files.namelist() if name.startswith("lorasa_rllib/")}
    sources = [path for kind in ("*.py", "*.typed") for path in (ROOT / "lorasa_rllib").rglob(kind)]
    ours = {path.relative_to(ROOT).as_posix() for path in sources}
    assert inside == ours, inside ^ ours
    (metadata,) = (files.read(name).decode() for name in files.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {lorasa_rllib.__version__}\n" in metadata and "\nRequires-Python: >=3.11\n" in metadata
    assert "# lorasa-rllib" in metadata  # README, for the page of the registry
    place = tmp_path / "installed"
    files.extractall(place)
    code = "import lorasa_rllib; from lorasa_rllib import MAPPOConfig; print(lorasa_rllib.__file__)"
    assert str(place) in run("-c", code, cwd=tmp_path, PYTHONPATH=str(place))
    assert lorasa_rllib.__version__ in run("-m", "lorasa_rllib.cli", "--version", cwd=tmp_path, PYTHONPATH=str(place))


def test_the_container_runs_the_script_with_options_that_exist():
    text = (ROOT / "Dockerfile").read_text()
    known = {option for action in parser("", "mamujoco")._actions for option in action.option_strings}
    options = re.findall(r'"(--[a-z-]+)"', text)
    assert len(options) >= 6 and set(options) <= known
    for copied in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in copied.split())
