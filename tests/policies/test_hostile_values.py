"""Every value that the files of a policy hold, replaced by hostile ones; and files that change while they are read."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.policies.acting import load_policy
from lorasa_rllib.policies.files import PolicyFileError
from lorasa_rllib.policies.folder import BACKBONE, CONFIG, CRITIC, in_folders
from lorasa_rllib.studies.playing import check_settings
from tests.policies.test_files import written

FILES = (
    CONFIG, BACKBONE, CRITIC, "adapters/agent_0/adapter_config.json", "adapters/agent_0/adapter_model.safetensors"
)  # fmt: skip
LONG = 15_000
VALUES: dict[str, Any] = {
    "a number": 2**31 - 1, "negative": -(2**31) + 1, "zero": 0, "tiny": 5e-324, "huge": 1e15, "bool": True,
    "null": None, "control": "\x1b]0;x\x07\x9b2J\r\u202e", "half": "\ud800", "list": [[[]]],
    "deep": json.loads("[" * 150 + "]" * 150),
}  # fmt: skip
LARGE: dict[type, list[Any]] = {
    str: ["*x" * 100_000], list: [[1] * LONG, ["mlp.*"] * LONG, [f"m*{k}" for k in range(LONG)]],
    dict: [{f"*{k}": 1 for k in range(LONG)}],
}  # fmt: skip

READ = """
import json, resource, sys, time
import numpy as np, torch
from pathlib import Path
from lorasa_rllib.policies.acting import load_policy
from lorasa_rllib.policies.files import PolicyFileError
torch.set_num_threads(1)
folder, rows = Path(sys.argv[1]), np.zeros((3, 3), np.float32)
load_policy(folder).act(rows)
before, taken, sound, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [], 0, []
for line in open(sys.argv[2], "rb"):
    name, _, contents = line.partition(b" ")
    file = folder / name.decode()
    whole, began = file.read_bytes(), time.process_time()
    file.write_bytes(bytes.fromhex(contents.decode()))
    try:
        load_policy(folder).act(rows)
        sound += 1
    except PolicyFileError as error:
        told.append(str(error))
    finally:
        taken.append(time.process_time() - began)
        file.write_bytes(whole)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shown = max(told, key=len)
print(json.dumps([max(taken), (after - before) / 1024, sound, len(told), all(map(str.isprintable, told)), shown]))
"""


def changed(data: Any) -> Iterator[None]:
    """Replaces every value of a document, one at a time, by every hostile one; as it was when that is done."""
    places = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for place, value in list(places):
        if not isinstance(data, list) or place == 0:  # entries of a list are alike
            for hostile in (*VALUES.values(), *LARGE.get(type(value), ())):
                data[place] = hostile
                yield
            data[place] = value
            yield from changed(value)
    if isinstance(data, dict):
        for name in ("\x1b[31m", "x" * 100_000):
            data[name] = 1
            yield
            del data[name]


def safetensors_of(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + payload


def hostile_tensors() -> Iterator[bytes]:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield safetensors_of(json.dumps({f"x{k}": one for k in range(100_000)}).encode())
    yield safetensors_of(json.dumps({"__metadata__": {f"x{k}": "" for k in range(300_000)}}).encode())
    yield safetensors_of(json.dumps({"\x1b[2J" + "x" * 50_000: one}).encode())
    yield safetensors_of(b"[" * 3_000_000)
    yield safetensors_of(json.dumps({"x": one | {"shape": [2**40, 2**40]}}).encode())
    yield struct.pack("<Q", 2**64 - 1)


@pytest.mark.parametrize("document", [CONFIG, "adapters/agent_0/adapter_config.json"])
def test_every_hostile_value_is_refused_or_harmless_in_little_time_and_memory(tmp_path, document):
    folder = written(tmp_path / "policy")
    with (tmp_path / "changes").open("w") as file:
        data = json.loads((folder / document).read_text())
        for _ in changed(data):
            file.write(f"{document} {json.dumps(data).encode().hex()}\n")
        for tensors in hostile_tensors():
            file.write(f"{BACKBONE} {tensors.hex()}\n")
    done = subprocess.run(
        [sys.executable, "-c", READ, folder, tmp_path / "changes"], capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, mebibytes, sound, refused, printable, longest = json.loads(done.stdout)
    assert seconds < 2 and mebibytes < 200, (seconds, mebibytes)
    assert printable and len(longest) <= 2000 and refused > 100 and refused > sound, (sound, refused)


def link_to(target: str | Path):
    return lambda path: path.symlink_to(target)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # paths of sockets are short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


KINDS = {
    "a device": link_to("/dev/zero"), "a terminal": link_to("/dev/tty"), "a link to nowhere": link_to("/nowhere/x"),
    "a link to itself": lambda path: path.symlink_to(path.name), "a folder": Path.mkdir, "a pipe": os.mkfifo,
    "a socket": socket_at, "a file of the system": link_to("/proc/self/mem"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_policy_may_be_anything_but_a_file(tmp_path, kind):
    folder = written(tmp_path / "policy")
    for name in FILES:
        file, kept = folder / name, tmp_path / "kept"
        file.rename(kept)
        KINDS[kind](file)
        began = time.monotonic()
        with pytest.raises(PolicyFileError):
            load_policy(folder)
        assert time.monotonic() - began < 5
        file.rename(tmp_path / f"{Path(name).name}.{kind}")
        kept.rename(file)
    load_policy(folder)


def test_files_that_are_exchanged_while_they_are_read_do_no_harm(tmp_path):
    folder = written(tmp_path / "policy")
    spares = tmp_path / "spares"
    spares.mkdir()
    others = []
    for name in FILES:
        whole = (folder / name).read_bytes()
        files = [lambda path, data=data: path.write_bytes(data) for data in (whole, whole[:-9])]
        for k, make in enumerate((KINDS["a device"], KINDS["a pipe"], *files)):
            make(spares / f"{k}{Path(name).name}")
            others.append((spares / f"{k}{Path(name).name}", folder / name))
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for spare, file in others:
                os.rename(file, held := spares / "held")
                os.rename(spare, file)
                os.rename(held, spare)

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    sound, refused, until = 0, 0, time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            try:
                assert np.isfinite(load_policy(folder).act(np.zeros((3, 3), np.float32))[0]).all()
                sound += 1
            except PolicyFileError:
                refused += 1
    finally:
        done.set()
        exchanging.join()
    assert refused > 5, (sound, refused)


@pytest.mark.parametrize(
    "settings",
    [
        {"N": 5000}, {"frame_skip": 10**6}, {"agent_conf": "100000x1"}, {"agent_conf": "99x99"}, {"map_name": "9999m"},
        {"parts": {"a": [[{"count": 10**5}]]}}, {"scale": 1e9},
    ],
)  # fmt: skip
def test_settings_that_build_or_simulate_too_much_are_refused(settings):
    with pytest.raises(ValueError, match="--trust"):
        check_settings(settings, 3)
    check_settings({"max_episode_steps": 10**6, "agent_conf": "6x1", "map_name": "27m_vs_30m", "seed": 99_999}, 3)


def test_json_has_strings_of_files_escaped_and_bounded(tmp_path, capsys):
    folder = written(tmp_path / "policy")
    text = (folder / CONFIG).read_text()
    name = "\x1b[2J\x7f\x9b\u202e" + "x" * 200_000
    (folder / CONFIG).write_text(text.replace('"agent_2"', json.dumps(name)))
    (folder / "adapters/agent_2").rename(folder / "adapters" / in_folders(name))
    assert main(["adapters", "list", str(folder), "--json"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii() and not set("\x1b\x7f") & set(shown) and len(shown) < 300_000
    assert json.loads(shown)["adapters"][2]["adapter"].startswith("\x1b[2J\x7f\x9b\u202exxx")


def test_patterns_of_layers_are_few_and_short():
    for setting in ({"target_modules": ("*",) * 101}, {"rank_pattern": {"x" * 101: 1}}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            LoRAConfig(**setting)
