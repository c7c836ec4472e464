"""Reads checkpoints of algorithms, and policies as files.

Checkpoints are pickles, which run code when they are read; they are only for continuing one's own runs. Everything else
reads the policy files that every checkpoint contains.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lorasa_rllib.envs.names import name_of
from lorasa_rllib.nn.policy import PHASES, Phase, PolicyConfig, TeamPolicy
from lorasa_rllib.policies.files import PolicyFileError, json_bytes, read_json, write_file
from lorasa_rllib.policies.folder import INSIDE, policy_files, read_document, read_policy, save_policy
from lorasa_rllib.policies.saved import Origin, SavedPolicy, saved
from lorasa_rllib.rllib.module import MODULE_ID, check_state
from lorasa_rllib.rllib.storage import on_this_machine

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

MODULE = Path("learner_group/learner/rl_module") / MODULE_ID
STATE, BUILT_FROM, ALGORITHM = "module_state.pkl", "class_and_ctor_args.pkl", "algorithm_state.pkl"
FILES = "files.json"
"""Lists sizes and checksums of all other files of a checkpoint; written last."""

ALL = (
    BUILT_FROM, ALGORITHM, "rllib_checkpoint.json", f"learner_group/{BUILT_FROM}", "learner_group/state.pkl",
    f"learner_group/learner/{BUILT_FROM}", "learner_group/learner/state.pkl", MODULE / BUILT_FROM, MODULE / STATE,
)  # fmt: skip
"""Files that every complete checkpoint contains."""

ENV_STEPS = "env_runners--num_env_steps_sampled_lifetime"


class MissingCode(ValueError):
    """A checkpoint refers to user code that cannot be imported."""


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Converts errors from reading a damaged or foreign checkpoint into a ValueError that names it."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        raise MissingCode(
            f"the checkpoint {path} needs code that Python does not find here ({error}). Start in the folder that has "
            "it, or put that on PYTHONPATH."
        ) from error
    except (EOFError, pickle.UnpicklingError, OSError, LookupError, TypeError) as error:
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}). It is incomplete, damaged or not "
            "a checkpoint of this package; restore an earlier one."
        ) from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether a folder is an algorithm checkpoint of this package."""
    return (Path(path) / MODULE / STATE).is_file()


def seal(folder: Path, policy: SavedPolicy) -> None:
    """Completes a checkpoint in a local folder: adds the policy files, and checksums that reveal damage."""
    (folder / FILES).unlink(missing_ok=True)
    shutil.rmtree(folder / INSIDE, ignore_errors=True)
    save_policy(policy, folder / INSIDE)
    write_file(folder / FILES, json_bytes({"files": _contents_of(folder)}))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is complete and undamaged, as far as can be checked without unpickling."""
    if not all((path / name).is_file() for name in ALL):
        return False
    if (path / FILES).exists() or (path / INSIDE).exists():
        try:
            return bool(read_json(path / FILES)["files"] == _contents_of(path))
        except (PolicyFileError, OSError, LookupError, TypeError):
            return False
    return all(_ends(file) for file in path.rglob("*.pkl"))  # written by an older version


def _contents_of(folder: Path) -> dict[str, list[object]]:
    """Size and checksum of every file of a checkpoint except `FILES` and hidden ones, which other tools may add."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and str(name) != FILES and not any(part.startswith(".") for part in name.parts):
            data = file.read_bytes()
            found[str(name)] = [len(data), f"{zlib.crc32(data):08x}"]
    return found


def _ends(file: Path) -> bool:
    """Whether a pickle ends with its stop opcode, so is not truncated."""
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END) if file.stat().st_size else None
        return opened.read(1) == pickle.STOP


def last_checkpoint(trial: Path) -> Path | None:
    """The last checkpoint in the folder of a trial; None if there is none."""
    return max((p for p in trial.glob("checkpoint_*") if policy_files(p) or is_checkpoint(p)), default=None)


def checkpoint_at(path: Path) -> Path:
    """The algorithm checkpoint at a path: the path itself, or the last checkpoint of a trial.

    Raises ValueError, saying what is there instead, if there is none.
    """
    found = path if (path / BUILT_FROM).is_file() else last_checkpoint(path)
    if found is None:
        raise ValueError(f"{path} is not a checkpoint of an algorithm: {_what_is_there(path)}")
    return found


def _what_is_there(path: Path) -> str:
    if not path.exists():
        return "it does not exist."
    if policy_files(path):
        return "it holds a policy's files. load_policy acts with them, .sharing(backbone=...) starts from them."
    if trials := sorted({p.parent.name for p in path.glob("*/checkpoint_*") if is_checkpoint(p)}):
        return f"it holds trials. Give one of {trials[:10]}."
    return f"it holds no {MODULE / STATE}."


def policy_inside(path: Path, component: str | None) -> Path | None:
    """The policy's folder in a checkpoint, or in the part of one named `component`; None if there is none."""
    folder = path / (MODULE.relative_to(component) if component and MODULE.is_relative_to(component) else MODULE)
    return folder if (folder / STATE).is_file() else None


def phase_of(path: str | Path) -> Phase:
    """The phase that the policy of a checkpoint was saved in."""
    with readable(path):
        return PHASES[int(_unpickled(_module_of(path) / STATE)["policy._phase"])]


def policy_config_of(path: str | Path) -> PolicyConfig:
    """The config of a checkpoint's policy. Raises ValueError if the checkpoint is not from this package."""
    with readable(path):
        _, settings = _unpickled(_module_of(path) / BUILT_FROM)["ctor_args_and_kwargs"]
        return PolicyConfig.from_dict(settings["model_config"])


def config_of_checkpoint(path: str | Path) -> TeamConfig:
    """The algorithm config that a checkpoint was trained with."""
    with readable(path):
        built = _unpickled(Path(path) / BUILT_FROM)
        (state,), _ = built["ctor_args_and_kwargs"]
        return built["class"].get_default_config().from_state(state)


def env_steps_of(path: str | Path, trust: bool = False) -> int:
    """Environment steps sampled before a checkpoint was saved.

    trust: whether to unpickle them. False: reads the policy files, and raises ValueError if there are none.
    """
    if not trust:
        files = policy_files(path)
        if files is None:
            raise ValueError(f"{path} {OLD}")
        return read_document(files).origin.env_steps
    with readable(path):
        counted = _unpickled(Path(path) / ALGORITHM)["metrics_logger"]["stats"]
        return int(counted[ENV_STEPS]["lifetime_sum"]) if ENV_STEPS in counted else 0  # saved before any sampling


def read_checkpoint(path: str | Path) -> SavedPolicy:
    """The policy in an algorithm checkpoint, or in the folder of its module. Unpickles: use it only on your own files.

    Raises ValueError if the checkpoint is not from this package, or damaged.
    """
    path = Path(path).expanduser()
    module = _module_of(path)
    if not (module / STATE).is_file():
        raise ValueError(f"{path} is neither a policy's files nor a checkpoint: {_what_is_there(path)}")
    policy = TeamPolicy(policy_config_of(path))
    with readable(path):
        state = _unpickled(module / STATE)
    weights = {name.removeprefix("policy."): torch.as_tensor(np.array(value)) for name, value in state.items()}
    check_state(policy.state_dict(), weights, [])
    policy.load_state_dict(weights)
    return saved(policy, _origin(path) if (path / ALGORITHM).is_file() else None)


def _origin(path: Path) -> Origin:
    """Origin of a complete checkpoint; only the step count if its config needs code that cannot be imported."""
    steps = env_steps_of(path, trust=True)
    try:
        return origin_of(config_of_checkpoint(path), steps)
    except MissingCode:
        return Origin(env_steps=steps)


def origin_of(config: TeamConfig, env_steps: int) -> Origin:
    """Origin of a policy trained with `config`: algorithm, environment (if plain data), steps and versions."""
    name, env_config = config.env if isinstance(config.env, str) else name_of(config.env), dict(config.env_config)
    if callable(env_config.get("env")):
        env_config["env"] = name_of(env_config["env"])
        name = name if env_config["env"] else None
    try:
        plain = json.loads(json.dumps(env_config, allow_nan=False)) == env_config
    except (TypeError, ValueError):
        plain = False
    return Origin(
        algorithm=config.algo_class.__name__,
        environment=name if plain else None,
        env_config=env_config if plain and name else {},
        env_steps=env_steps,
        versions={package: version(package) for package in ("lorasa-rllib", "ray", "torch")},
    )


OLD = (
    "is a checkpoint without policy files, as older versions wrote them: a pickle, which runs code when it is read. If "
    "it is your own, give --trust, or make files of it: lorasa adapters export CHECKPOINT -o FOLDER --trust."
)


def read_trained(path: str | Path, trust: bool = False) -> SavedPolicy:
    """Reads the policy at a path or URI: policy files, a checkpoint, or a trial (its last checkpoint).

    trust: whether a checkpoint without policy files may be unpickled and an encoder of somebody's own imported;
    otherwise it raises ValueError, as do damaged files and anything else.
    """
    with on_this_machine(path) as here:
        place = here if policy_files(here) else last_checkpoint(here) or here
        if policy_files(place):
            return read_policy(place, trust)
        if trust or not place.exists():
            return read_checkpoint(place)
        if any((folder / name).is_file() for folder in (place, place / MODULE) for name in (STATE, BUILT_FROM)):
            raise ValueError(f"{path} {OLD}")
        raise ValueError(f"{path} is neither a policy's files nor a checkpoint: {_what_is_there(place)}")


def _module_of(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return path / MODULE if (path / MODULE).is_dir() else path


def _unpickled(file: Path) -> Any:
    with file.open("rb") as opened:
        return pickle.load(opened)
