"""Locks an experiment so that only one process writes to it: a lock file that its owner renews regularly."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem, FileType

from lorasa_rllib.studies.settings import FOLDER
from lorasa_rllib.studies.storage import local_folder, storage_of
from lorasa_rllib.studies.terminal import duration

FILE = f"{FOLDER}/lock.json"
RENEWED, STALE = 15.0, 90.0
"""Seconds between two renewals, and seconds without renewal after which a lock counts as abandoned."""


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Holds the lock of an experiment's folder, a path or URI, while the body runs.

    Raises ValueError, naming the owner, if another process holds it. A lock is taken over if its process has ended or
    has not renewed it for `STALE` seconds.
    """
    filesystem, path = storage_of(folder)
    filesystem.create_dir(f"{path}/{FOLDER}", recursive=True)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex, "since": time.time()}
    _take(folder, filesystem, f"{path}/{FILE}", mine)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(filesystem, f"{path}/{FILE}", mine, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join(timeout=RENEWED)
        with suppress(OSError):  # if the storage is full or gone: the lock soon becomes stale
            if _read(filesystem, f"{path}/{FILE}").get("token") == mine["token"]:
                filesystem.delete_file(f"{path}/{FILE}")


def _take(folder: str, filesystem: FileSystem, file: str, mine: dict[str, Any]) -> None:
    if (here := local_folder(folder)) is not None and _created(here / FILE, mine):
        return
    _check_free(folder, _read(filesystem, file))
    _write(filesystem, file, mine)
    time.sleep(0.2)  # if two processes take over a stale lock, the later writer wins
    if (owner := _read(filesystem, file)).get("token") != mine["token"]:
        raise ValueError(_refused(folder, owner))


def _created(file: Path, mine: dict[str, Any]) -> bool:
    """Creates the lock, unless there is one, together with its content: a process may be killed at any time."""
    own = file.with_name(f"{file.name}.{mine['token']}")
    try:
        own.write_bytes(_content(mine))
        os.link(own, file)  # fails if there is one
    except OSError:  # or there are no links: the later writer will win
        return False
    finally:
        with suppress(OSError):
            own.unlink()
    return True


def _check_free(folder: str, owner: dict[str, Any]) -> None:
    age = time.time() - float(owner.get("renewed", 0))
    gone = owner.get("host") == socket.gethostname() and not _lives(int(owner.get("pid", 0)))
    if age < STALE and not gone:
        raise ValueError(_refused(folder, owner))


def _refused(folder: str, owner: dict[str, Any]) -> str:
    age = duration(max(0.0, time.time() - float(owner.get("since", time.time()))))
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, for {age} now"
    return (
        f"{folder} is being written by another start of this experiment ({who}). Wait for it, or give another --name."
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0


def _renew(filesystem: FileSystem, file: str, mine: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(RENEWED):
        try:
            _write(filesystem, file, mine)
        except OSError:
            continue  # the study itself reports storage faults


def _write(filesystem: FileSystem, file: str, mine: dict[str, Any]) -> None:
    with filesystem.open_output_stream(file) as stream:
        stream.write(_content(mine))


def _content(mine: dict[str, Any]) -> bytes:
    return json.dumps(mine | {"renewed": time.time()}).encode()


def _read(filesystem: FileSystem, file: str) -> dict[str, Any]:
    """The contents of a lock; {} if there is none. A new or damaged one only has its file's time as `renewed`."""
    info = filesystem.get_file_info(file)
    if info.type == FileType.NotFound:
        return {}
    try:
        with filesystem.open_input_stream(file) as stream:
            found = dict(json.loads(stream.read()))
            return found | {"renewed": float(found["renewed"]), "pid": int(found["pid"])}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError):
        return {"renewed": info.mtime.timestamp() if info.mtime else 0.0}
