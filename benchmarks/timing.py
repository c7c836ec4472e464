"""Shared code of the benchmarks: alternating measurements, and results as a table and as one JSON object."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("ray", "torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "jax", "jaxmarl")


def alternate(workloads: dict[str, Callable[[], Any]], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Seconds of every workload, measured alternately so that slow moments of the machine affect all of them. Each
    round starts one workload later, since the workload after the largest finds cold caches."""
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    order = list(workloads.items())
    for repeat in range(warmups + repeats):
        for name, work in order[repeat % len(order) :] + order[: repeat % len(order)]:
            began = time.perf_counter()
            work()
            if repeat >= warmups:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the common options. Also limits torch to one thread."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each workload")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser


def report(title: str, rows: list[dict[str, Any]], json_path: Path | None) -> None:
    """Prints rows as a table; writes them with versions as one JSON object."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:,.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=140).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps({"title": title, "machine": machine(), "rows": rows}, indent=2) + "\n")
