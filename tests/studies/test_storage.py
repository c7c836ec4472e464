"""Files of studies have their old contents until the new ones are complete, and what could not be written is noted."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from pyarrow.fs import FileSelector, FileType, copy_files

from lorasa_rllib.studies.storage import PARTIAL, local_folder, storage_of

LIMITED = """
import resource, signal, sys
from pyarrow.fs import copy_files
from lorasa_rllib.studies.full import explained
from lorasa_rllib.studies.storage import storage_fault, storage_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
filesystem, path = storage_of(sys.argv[1])
try:
    with explained(sys.argv[1], "mine"):
        copy_files(sys.argv[2], path + "/there", destination_filesystem=filesystem)
except RuntimeError as error:
    print(type(storage_fault()).__name__, error)
"""
WRITER = """
import sys
from lorasa_rllib.studies.storage import storage_of
filesystem, path = storage_of(sys.argv[1])
number = 0
print("ready", flush=True)
while True:
    number += 1
    with filesystem.open_output_stream(path + "/file") as stream:
        for _ in range(30):
            stream.write(bytes([number % 256]) * 100_000)
"""


def test_a_file_that_does_not_fit_leaves_the_old_one_and_one_line(tmp_path):
    for name, size in (("there", 1000), ("new", 50_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(name[:1].encode() * size)
    (tmp_path / "new" / "b").write_bytes(b"n" * 500_000)
    (tmp_path / "there" / "b").write_bytes(b"t" * 1000)
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path, tmp_path / "new"], capture_output=True, text=True,
                          timeout=120, check=True)  # fmt: skip
    assert done.stdout.startswith(f"OSError {tmp_path}: ") and done.stdout.count("\n") == 1, done.stderr
    assert "--resume --name mine continues" in done.stdout
    assert (tmp_path / "there" / "b").read_bytes() == b"t" * 1000
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["a", "b"]


def test_a_kill_at_any_moment_leaves_whole_files(tmp_path):
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        data = (tmp_path / "file").read_bytes()
        assert len(data) == 3_000_000 and len(set(data)) == 1
        assert all(path.name == "file" or path.name.endswith(PARTIAL) for path in tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_it_is_a_file_system_as_tune_uses_them(tmp_path, scheme):
    filesystem, path = storage_of(f"{scheme}{tmp_path}/store")
    filesystem = pickle.loads(pickle.dumps(filesystem))
    assert filesystem == storage_of(str(tmp_path))[0] and local_folder(f"{scheme}{tmp_path}") == tmp_path
    filesystem.create_dir(f"{path}/deep/er")
    for name, text in (("a", b""), ("deep/b", b"x" * 100), ("deep/er/c", b"y" * 3_000_000)):
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(text)
    copy_files(path, f"{path}2", source_filesystem=filesystem, destination_filesystem=filesystem)
    found = filesystem.get_file_info(FileSelector(f"{path}2", recursive=True))
    assert sorted((info.base_name, info.size) for info in found if info.type == FileType.File) == [
        ("a", 0), ("b", 100), ("c", 3_000_000)
    ]  # fmt: skip
    filesystem.move(f"{path}2", f"{path}3")
    filesystem.delete_file(f"{path}3/a")
    filesystem.delete_dir(f"{path}3/deep")
    assert [info.base_name for info in filesystem.get_file_info(FileSelector(f"{path}3"))] == []
    assert filesystem.get_file_info(f"{path}/nothing").type == FileType.NotFound
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream(f"{path}/nothing")
