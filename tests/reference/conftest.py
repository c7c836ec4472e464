"""Where the reference vectors lie, and tests over single and double precision."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.reference.vectors import Vectors

VARIABLE = "LORASA_REFERENCE_VECTORS"
DEFAULT = Path(__file__).parents[3] / "shared" / "reference_vectors"


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder that LORASA_REFERENCE_VECTORS names, or the default. Missing vectors fail where they are expected."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else DEFAULT
    if path.is_dir():
        return path
    problem = f"no reference vectors in {path}; set {VARIABLE} to their folder."
    if named or os.environ.get("CI"):
        pytest.fail(problem)
    pytest.skip(problem)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def load(folder, dtype):
    """load(name) -> the arrays of a file as tensors of the precision under test."""
    return lambda name: Vectors(folder / f"{name}.npz", dtype)
