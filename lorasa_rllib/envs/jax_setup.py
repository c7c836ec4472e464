"""Imports JAX into a process that mainly runs torch: one thread, by default CPU only, compiled programs on disk."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lorasa_rllib.install import installing

SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # JAX preallocates most of a GPU's memory
    "NPROC": "1",  # size of XLA's thread pool
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
"""Environment variables set while JAX starts. Existing values take precedence."""

ON_GPUS = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""The same where battles are computed on a GPU: all devices that JAX finds, memory as it is needed."""


def import_jax(on_gpus: bool = False) -> ModuleType:
    """The module `jax`, configured with `SETTINGS` unless it is already in use. Raises ImportError with a remedy.

    RLlib imports JAX where it is installed, without using it.

    on_gpus: with `ON_GPUS`, too.
    """
    if "jaxmarl.environments.smax" in sys.modules:
        return sys.modules["jax"]
    settings = SETTINGS | (ON_GPUS if on_gpus else {})
    ours = not _in_use()
    try:
        with _environment(settings if ours else {}), _silence():
            import jax

            if ours:
                jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"] or None)  # read when it was imported
                jax.config.update("jax_cpu_enable_async_dispatch", False)
                if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
                    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
                    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
                jax.devices()
            import jaxmarl.environments.smax  # noqa: F401
        # Starting a subprocess forks briefly; only a child that kept running Python code would be at risk.
        warnings.filterwarnings("ignore", "os.fork\\(\\) was called", RuntimeWarning)
    except ModuleNotFoundError as error:
        raise ImportError(
            f'environment "smax" needs the package {error.name}, which is not installed. Run: {installing("smax")}'
        ) from error
    return jax


def _in_use() -> bool:
    """Whether JAX has chosen its devices, which fixes most settings."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())


def cache_folder() -> Path:
    """Folder of compiled programs; one per machine, as they contain CPU-specific instructions."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lorasa_rllib" / "jax" / platform.node()


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Temporarily sets those environment variables that are not yet set."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses output while jaxmarl is imported; one of its modules resets `sys.stdout` and `sys.stderr`."""
    nowhere = io.StringIO()
    original, sys.__stdout__ = sys.__stdout__, nowhere  # type: ignore[assignment, misc]
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(sys.stderr):
            yield
    finally:
        sys.__stdout__ = original  # type: ignore[misc]
