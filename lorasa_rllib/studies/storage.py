"""Storage of studies: local folders with atomic writes, and other pyarrow file systems.

Tune repeatedly overwrites its files by copying. A kill or a full disk meanwhile would leave them truncated.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pyarrow import PythonFile
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, LocalFileSystem, PyFileSystem

PARTIAL = ".partial"
"""Suffix of files that are being written; a kill leaves them behind."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG)
"""Error numbers that mean a storage cannot be written to."""

_faults: list[OSError] = []


class WholeFiles(FileSystemHandler):
    """The local file system with atomic writes: a file keeps its old contents until the new ones are complete."""

    def __init__(self) -> None:
        self._local = LocalFileSystem()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WholeFiles)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[WholeFiles], tuple[()]]:
        return WholeFiles, ()

    def get_type_name(self) -> str:
        return "local, whole files"

    def normalize_path(self, path: str) -> str:
        return str(self._local.normalize_path(path))

    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return list(self._local.get_file_info(list(paths)))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return [info for info in self._local.get_file_info(selector) if not info.path.endswith(PARTIAL)]

    def create_dir(self, path: str, recursive: bool) -> None:
        self._local.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._local.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._local.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("the root of this machine's file system is not deleted")

    def delete_file(self, path: str) -> None:
        self._local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._local.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._local.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self._local.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self._local.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> PythonFile:
        return PythonFile(_Part(Path(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self._local.open_append_stream(path)


class _Part:
    """A temporary file for writing that replaces its target when closed, unless writing failed."""

    def __init__(self, path: Path):
        self._path, self._part = path, path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        self._failed = False
        try:
            self._file: BinaryIO = self._part.open("wb", buffering=0)
        except OSError as error:
            raise _noted(error)  # noqa: B904 - the same one

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._failed = True
            self.close()
            raise _noted(error)  # noqa: B904 - the same one
        return len(data)

    def flush(self) -> None:
        """Does nothing, as nothing is buffered."""

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.close()
        if self._failed:
            self._part.unlink(missing_ok=True)
            return
        try:
            os.replace(self._part, self._path)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise _noted(error)  # noqa: B904 - the same one


def _noted(error: OSError) -> OSError:
    tell_fault(error)
    return error


def tell_fault(error: OSError) -> None:
    """Records an error if it means that a storage cannot be written to (`FULL`)."""
    if error.errno in FULL:
        _faults.append(error)


def storage_fault() -> OSError | None:
    """The first storage fault of this process, or None."""
    return _faults[0] if _faults else None


def storage_of(folder: str) -> tuple[FileSystem, str]:
    """The file system of a path or URI, and the path within it."""
    filesystem, path = FileSystem.from_uri(folder)
    return (PyFileSystem(WholeFiles()) if isinstance(filesystem, LocalFileSystem) else filesystem), path


def local_folder(folder: str) -> Path | None:
    """The local folder of a path or file:// URI; None for other storages."""
    filesystem, path = FileSystem.from_uri(folder)
    return Path(path) if isinstance(filesystem, LocalFileSystem) else None
