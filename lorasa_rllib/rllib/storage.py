"""Checkpoints that lie elsewhere: a URI such as s3://bucket/checkpoint is copied here to be read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileSystem, LocalFileSystem, copy_files


@contextmanager
def on_this_machine(path: str | Path, filesystem: FileSystem | None = None) -> Iterator[Path]:
    """A folder of this machine as it is; of another file system, a copy that lasts as long as the body.

    path: a path, a URI, or with `filesystem` (pyarrow) a path in that. Raises ValueError if it cannot be read.
    """
    if filesystem is None and "://" not in str(path):
        yield Path(path).expanduser()
        return
    try:
        if filesystem is None:
            filesystem, path = FileSystem.from_uri(str(path))
        local = isinstance(filesystem, LocalFileSystem)
        copied = None if local else tempfile.TemporaryDirectory(prefix="lorasa_checkpoint_")
        if copied is not None:
            copy_files(str(path), copied.name, source_filesystem=filesystem)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error
    if copied is None:
        yield Path(path)
        return
    with copied as folder:
        yield Path(folder)
