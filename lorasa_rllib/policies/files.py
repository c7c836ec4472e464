"""Safe reading of untrusted files, and atomic writes.

Any problem with a file raises a `PolicyFileError` that names it. Nothing here unpickles.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lorasa_rllib.printable import printable

JSON_LIMIT = 8 * 2**20
PARTS_LIMIT = 600_000
"""Most values in a JSON file: empty lists take forty times more memory than disk space."""
HEADER_LIMIT, HEADER_OF_TENSOR = 2**16, 2**10
"""Maximum bytes of a safetensors header, plus bytes per expected tensor: parsing a million names takes minutes."""
NUMBER_LIMIT = 2**31
"""Whole numbers in a description must be smaller; nothing in a policy is as large."""
MANY = 100
"""Above this number of files, one `os.sync` replaces an fsync per file, which takes milliseconds each."""


class PolicyFileError(ValueError):
    """A file is missing, damaged, or belongs to something else. The message is safe to print, whoever wrote it."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def read_json(path: Path) -> Any:
    """The contents of a JSON file. Raises PolicyFileError for duplicate names, NaN and numbers out of range."""
    try:
        too_large = "too large to be a description of a policy"
        contents = contents_of(path, JSON_LIMIT, too_large)
        if sum(contents.count(sign) for sign in (b"[", b"{", b",")) > PARTS_LIMIT:
            raise PolicyFileError(f"{path} is {too_large}.")
        data = json.loads(contents, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        _check_numbers(data)
    except OSError as error:
        raise PolicyFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, PolicyFileError):
            raise
        raise PolicyFileError(f"{path} is damaged: {error}.") from error
    return data


def read_tensors(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file. Raises PolicyFileError unless they match `expected` and are finite."""
    payload = 4 * sum(math.prod(shape) for shape in expected.values())
    try:
        too_large = f"larger than the policy it belongs to ({payload:,} bytes)"
        most = HEADER_LIMIT + HEADER_OF_TENSOR * len(expected)
        contents = contents_of(path, payload + most, too_large)
        if int.from_bytes(contents[:8], "little") > most:
            raise PolicyFileError(f"{path} is damaged, or names more tensors than the policy it belongs to.")
        found = dict(safetensors.deserialize(contents))
    except OSError as error:
        raise PolicyFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except safetensors.SafetensorError as error:
        raise PolicyFileError(f"{path} is damaged: {error}.") from error
    facts = [f"{name} is missing" for name in sorted(set(expected) - set(found))]
    facts += [f"{name} is unknown" for name in sorted(set(found) - set(expected))]
    for name in sorted(set(found) & set(expected)):
        if found[name]["dtype"] != "F32":
            facts.append(f"{name} has type {found[name]['dtype']}, not F32")
        elif tuple(found[name]["shape"]) != expected[name]:
            facts.append(f"{name} has shape {list(found[name]['shape'])}, not {list(expected[name])}")
    if facts:
        more = f" (and {len(facts) - 3} more)" if len(facts) > 3 else ""
        raise PolicyFileError(f"{path} belongs to another policy: {'; '.join(facts[:3])}{more}.")
    arrays = {name: np.frombuffer(found[name]["data"], "<f4").reshape(shape) for name, shape in expected.items()}
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise PolicyFileError(f"{path} holds NaN or infinite numbers, in {wrong[0]}.")
    return {name: torch.tensor(array) for name, array in arrays.items()}


def contents_of(path: Path, limit: int, too_large: str, links: bool = True) -> bytes:
    """The bytes of a regular file; devices and pipes, which may never end, are refused. links: follow a symlink."""
    ways = ("O_NONBLOCK", "O_NOCTTY", *(() if links else ("O_NOFOLLOW",)))
    flags = os.O_RDONLY | functools.reduce(operator.or_, (getattr(os, way, 0) for way in ways))
    with open(os.open(path, flags), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise PolicyFileError(f"{path} is not a regular file.")
        if about.st_size > limit:
            raise PolicyFileError(f"{path} is {too_large}.")
        return file.read(about.st_size)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a safetensors file. Raises ValueError for NaN and infinite numbers, which reading rejects."""
    data = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    if wrong := [name for name, tensor in data.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{wrong[0]} holds NaN or infinite numbers, which no policy may have: nothing was written.")
    return safetensors.torch.save(data, metadata={"format": "pt"})


def json_bytes(data: Any) -> bytes:
    """The contents of a JSON file, indented."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def write_file(path: Path, data: bytes) -> None:
    """Writes a file atomically: readers see the old or the new contents, even after a power failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block succeeds. Raises ValueError unless `path` is new or empty.

    If the process is killed, `path` is complete or does not exist.
    """
    path = Path(path)
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    temporary.mkdir()
    try:
        yield temporary
        written = [temporary, *temporary.rglob("*")]
        if len(written) > MANY:
            os.sync()
        else:
            for one in written:
                _sync(one)
        _check_free(path)
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: Path) -> None:
    if path.is_file() or path.is_symlink() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} exists already, and nothing is overwritten: give another path, or remove it first.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name appears twice")
    return dict(pairs)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _check_numbers(data: Any) -> None:
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            _check_numbers(value)
    elif isinstance(data, int | float) and not abs(data) < NUMBER_LIMIT * (1 if isinstance(data, int) else 1e6):
        raise ValueError(f"{data} is out of range")
