"""Reading checkpoints: backbones of other runs, and clear errors for files that cannot be read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorasa_rllib.nn.policy import ADAPTER_PARAMETERS, PolicyConfig, TeamPolicy
from lorasa_rllib.rllib.module import MODULE_ID, check_state

MODULE_FILE = Path("learner_group/learner/rl_module") / MODULE_ID / "module_state.pkl"


@contextmanager
def readable(path: Any) -> Iterator[None]:
    """Turns what goes wrong while reading a damaged or foreign checkpoint into one ValueError that names it."""
    try:
        yield
    except (EOFError, pickle.UnpicklingError, FileNotFoundError, IsADirectoryError, AttributeError, KeyError) as error:
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}). It is incomplete, damaged or not "
            "a checkpoint of this package; restore an earlier one."
        ) from error


def read_backbone(path: str | Path, config: PolicyConfig) -> dict[str, Any]:
    """Weights of everything but the adapters from an Algorithm checkpoint, or from the folder of its module.

    Checkpoints are pickles: only read those you trust. Raises ValueError if it is none, or of another architecture.
    """
    folder = Path(path).expanduser()
    found = next((f for f in (folder / MODULE_FILE, folder / MODULE_FILE.name) if f.is_file()), None)
    if found is None:
        raise ValueError(f"backbone={str(path)!r} is no checkpoint: it holds no {MODULE_FILE}.")
    with readable(found), found.open("rb") as file:
        state = pickle.load(file)
    prefix = "policy."
    weights = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.rpartition(".")[2] not in ADAPTER_PARAMETERS and not name.endswith("_phase")
    }
    own = {
        name: value
        for name, value in TeamPolicy(config).state_dict().items()
        if name.rpartition(".")[2] not in ADAPTER_PARAMETERS and not name.endswith("_phase")
    }
    check_state(own, weights, [])
    return weights
