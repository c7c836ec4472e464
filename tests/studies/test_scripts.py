"""Every script of tune_configs as a process of its own, started from its folder and from another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasa_rllib.cli.machine import PACKAGES

FOLDER = Path(__file__).parents[2] / "tune_configs"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

CHALLENGE = {  # the package `smac` as far as a name of a map is looked up
    "smac/env/starcraft2/starcraft2.py": "class StarCraft2Env: ...",
    "smac/env/starcraft2/maps/smac_maps.py": "def get_smac_map_registry(): return {'3m': {}}",
}
SMAC3 = {
    "smac/facade.py": "",
    "smac-2.3.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: smac\nVersion: 2.3.1\nRequires-Dist: ConfigSpace\n",
}
A_FILE = {"smac.py": ""}


def packages(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files, every one below `smac` in packages."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for parent in file.relative_to(folder).parents:
            if parent.parts and parent.parts[0] == "smac":
                (folder / parent / "__init__.py").touch()
    return folder


def start(script: str, *arguments: str, cwd: Path, path: Path | None = None) -> subprocess.Popen:
    """path: a folder that comes before installed packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, FOLDER.parent))))}
    return subprocess.Popen(
        [sys.executable, script, *arguments], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_no_script_hides_a_package_that_environments_import():
    imported = {module.partition(".")[0] for modules in PACKAGES.values() for module in modules}
    assert not imported & {Path(script).stem for script in SCRIPTS}


def test_every_script_starts_in_its_own_folder_and_in_another(tmp_path):
    started = {
        (script, cwd): start(script if cwd == FOLDER else str(FOLDER / script), "--help", cwd=cwd)
        for script in SCRIPTS for cwd in (FOLDER, tmp_path)
    }  # fmt: skip
    for (script, _), process in started.items():
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0 and f"usage: {script}" in output and "--total-env-steps" in output, output


@pytest.mark.parametrize(
    ("script", "arguments", "inside"),
    [("starcraft.py", ["--map"], True), ("compare_methods.py", ["--suite", "smac", "--map"], False)],
)
def test_scripts_import_the_challenge_and_not_a_file_of_their_folder(script, arguments, inside, tmp_path):
    path = packages(tmp_path, CHALLENGE)
    called, cwd = (script, FOLDER) if inside else (str(FOLDER / script), tmp_path)
    output, _ = start(called, *arguments, "5x5", cwd=cwd, path=path).communicate(timeout=100)
    assert "map_name='5x5' is not a map of SMAC; choose one of ['3m']" in output


LOOK = """
from lorasa_rllib.envs.starcraft_package import import_package
from lorasa_rllib.cli import main
from lorasa_rllib.studies.provenance import provenance
main(["envs", "--json"])
print(provenance()["versions"])
import_package("smac", "smac.env.starcraft2")
"""


@pytest.mark.parametrize(
    ("files", "why"), [(SMAC3, "'smac' is SMAC3, a tool for"), (A_FILE, "smac.py, which has no 'smac.env")]
)
def test_another_package_of_that_name_is_told_apart(files, why, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages(tmp_path, files)), str(FOLDER.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert why in done.stdout and "smac 2.3.1" not in done.stdout
    assert why in done.stderr and "install_starcraft.sh" in done.stderr
