"""What is published: a source archive and a wheel that work away from the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


@pytest.mark.slow
def test_the_wheel_made_from_the_source_archive_trains_in_a_clean_environment(tmp_path):
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
    run("-m", "twine", "check", "--strict", str(archive), str(wheel), cwd=tmp_path)
    place = tmp_path / "venv"
    clean_environment(place, re.findall(r"^Requires-Dist: ((?:(?!extra ==).)*)$", metadata, re.M))
    run("-m", "pip", "--python", place, "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path, PYTHONPATH="")
    assert lorasa_rllib.__version__ in installed(place, "--version", cwd=tmp_path)
    printed = installed(place, "train", "--smoke", "--storage-path", str(tmp_path / "results"), cwd=tmp_path)
    assert "1.2k/1.2k steps" in printed and list((tmp_path / "results").glob("*/*/checkpoint_*/policy"))
    assert "mujoco" in installed(place, "doctor", cwd=tmp_path)


def installed(place, *command, cwd):
    """What the installed `lorasa` prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory(prefix="lorasa", ignore_cleanup_errors=True) as sockets:
        answer = subprocess.run(
            [place / "bin/lorasa", *command],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=cwd,
            env={**environment, "RAY_TMPDIR": sockets, "PYTHONWARNINGS": "ignore"},
        )
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def clean_environment(place, requirements):
    """Makes a virtual environment that holds only what `requirements` need: links to packages of this one.

    Installing them from a registry would take minutes. Packages that share a folder (`google`) come together.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    left, seen = [Requirement(text) for text in requirements], set()
    while left:
        wanted = left.pop()
        if wanted.name in seen and not wanted.extras:
            continue
        seen.add(wanted.name)
        found = distribution(wanted.name)
        assert wanted.specifier.contains(found.version, prereleases=True), f"{wanted} and not {found.version}"
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        for needed in map(Requirement, found.requires or ()):
            extras = ("", *wanted.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                left.append(needed)


def test_the_container_runs_the_script_with_options_that_exist():
    text = (ROOT / "Dockerfile").read_text()
    known = {option for action in parser("", "mamujoco")._actions for option in action.option_strings}
    options = re.findall(r'"(--[a-z-]+)"', text)
    assert len(options) >= 6 and set(options) <= known
    for copied in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in copied.split())
