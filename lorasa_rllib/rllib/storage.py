"""Remote checkpoints: copies a URI such as s3://bucket/checkpoint to this machine for reading."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileSystem, LocalFileSystem, copy_files


@contextmanager
def on_this_machine(path: str | Path, filesystem: FileSystem | None = None) -> Iterator[Path]:
    """Yields a local folder as it is, or a temporary copy of a remote one, deleted when the context ends.

    path: a path, a URI, or a path in `filesystem` (pyarrow). Raises ValueError if it cannot be read.
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
