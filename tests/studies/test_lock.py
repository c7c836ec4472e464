"""One start of an experiment at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lorasa_rllib.studies.lock import FILE, STALE, locked
from lorasa_rllib.studies.options import read_options

HOLD = """
import sys
from lorasa_rllib.studies.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_second_start_is_refused_and_a_killed_ones_lock_is_taken_over(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/experiment"
    first = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=-1, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=rf"another start of this experiment \(process {first.pid} on .*, for 0:"):
        locked(folder).__enter__()
    first.kill()
    first.wait()
    with locked(folder):
        assert json.loads((tmp_path / "experiment" / FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "experiment" / FILE).exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_start_that_is_killed_while_it_creates_the_lock_is_taken_over_at_once(tmp_path, when):
    killed = f"""
import os, signal
link = os.link
def dies(*names):
    if {when == "after"}:
        link(*names)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = dies
{HOLD}"""
    first = subprocess.run([sys.executable, "-c", killed, str(tmp_path)], stdin=subprocess.DEVNULL, check=False)
    assert first.returncode == -signal.SIGKILL
    with locked(str(tmp_path)):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(("age", "free"), [(STALE - 10, False), (STALE + 10, True)])
@pytest.mark.parametrize("text", ["", "{}", '{"host": "elsewhere", "pid": 1, "renewed": %s}', '{"pid": "x"}', "[1]"])
def test_a_lock_of_another_machine_is_stale_when_nobody_renews_it(tmp_path, text, age, free):
    file, then = tmp_path / FILE, time.time() - age
    file.parent.mkdir()
    file.write_text(text % then if "%s" in text else text)
    os.utime(file, (then, then))
    if free:
        with locked(str(tmp_path)):
            pass
    else:
        with pytest.raises(ValueError, match="another start of this experiment"):
            locked(str(tmp_path)).__enter__()


@pytest.mark.parametrize("name", ["../x", ".", "..", "", "a/b", "a\\b", "a\nb", "\x1b[31m", "x" * 201])
def test_names_that_are_no_folder_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        read_options([f"--name={name}"], "a study")
    told = capsys.readouterr().err
    assert "--name=" in told and told.count("\n") == 1 and "\x1b" not in told


def test_a_storage_that_is_gone_at_the_end_does_not_hide_how_the_study_ended(tmp_path):
    folder = tmp_path / "experiment"
    with pytest.raises(SystemExit, match="130"), locked(str(folder)):
        (folder / FILE).unlink()
        (folder / FILE).mkdir()  # reading it fails
        raise SystemExit(130)
