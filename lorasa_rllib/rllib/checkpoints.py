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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.names import name_of
from lorasa_rllib.learning.phases import PhaseSchedule
from lorasa_rllib.nn.encoder_classes import complete
from lorasa_rllib.nn.obs_norm import for_more_agents
from lorasa_rllib.nn.policy import PHASES, Phase, PolicyConfig, TeamPolicy
from lorasa_rllib.policies.adapters import transplant
from lorasa_rllib.policies.files import PolicyFileError, json_bytes, read_json, write_file
from lorasa_rllib.policies.folder import INSIDE, policy_files, read_document, read_policy, save_policy
from lorasa_rllib.policies.saved import Origin, SavedPolicy, is_adapters, is_statistics, names_of_adapters, saved
from lorasa_rllib.rllib.module import MODULE_ID, check_state
from lorasa_rllib.rllib.storage import on_this_machine
from lorasa_rllib.spec import Owners

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


def check_same_owners(path: str | Path, theirs: Owners, own: Owners) -> None:
    """Raises ValueError if a checkpoint's weights would be assigned to agents that did not train them."""
    check_groups(path, theirs, own)
    if theirs.num_adapters == own.num_adapters and theirs.adapter_of != own.adapter_of:
        raise ValueError(
            f"the checkpoint {path} has adapters of agents {list(theirs.adapter_of)} (routed by {theirs.routed_by}), "
            f"this algorithm {list(own.adapter_of)} (routed by {own.routed_by}). Build it with the same adapter_key, "
            "or with from_checkpoint."
        )


def check_phase(path: str | Path, theirs: Phase, schedule: PhaseSchedule) -> None:
    """Raises ValueError if a two-phase run would continue a jointly trained checkpoint: it would stay joint."""
    if theirs == "joint" and schedule.schedule != "joint":
        raise ValueError(
            f"the checkpoint {path} was trained jointly, but this algorithm has schedule={schedule.schedule!r}. Build "
            "it with .sharing(schedule='joint'), or with from_checkpoint; to train the adapters alone, begin "
            "a new run with .sharing(backbone=..., adapters=..., phase_switch=0)."
        )


def check_same_network(whose: str, theirs: PolicyConfig, own: PolicyConfig, adapters: bool = True) -> None:
    """Raises ValueError if weights that fit would mean something else here.

    Compares activation, continuous head, settings of the encoder, normalisation by statistics and the adapters' scale.

    whose: the weights, for the message. adapters: False if the adapters have no effect yet, or are not used.
    """
    names = ["activation", *(["distribution"] if own.spec.continuous else [])]
    names += ["obs_norm", "obs_clip"] if theirs.keeps_statistics and own.keeps_statistics else []
    settings = [("network", name, getattr(theirs.network, name), getattr(own.network, name)) for name in names]
    if theirs.network.encoder and own.network.encoder:
        before, now = (complete(one.encoder or "", one.encoder_settings) for one in (theirs.network, own.network))
        settings.append(("network", "encoder_settings", before, now))
    if adapters and own.owners.num_adapters:
        scales = ("lora_alpha", "use_rslora")
        settings += [("sharing", name, getattr(theirs.lora, name), getattr(own.lora, name)) for name in scales]
    for setter, name, before, now in settings:
        if before != now:
            raise ValueError(
                f"{whose} was trained with {name}={before!r}, and here it is {now!r}: its weights would mean something "
                f"else. Set .{setter}({name}={before!r})."
            )


def check_groups(path: str | Path, theirs: Owners, own: Owners) -> None:
    """Raises ValueError if a checkpoint has other groups, whose weights would be assigned to the wrong agents."""
    if theirs.num_backbones == own.num_backbones > 1 and theirs.backbone_of != own.backbone_of:
        raise ValueError(
            f"the checkpoint {path} has groups={list(theirs.backbone_of)}, this algorithm {list(own.backbone_of)}. "
            f"Build it with .sharing(groups={list(theirs.backbone_of)}), or with from_checkpoint."
        )


def backbone_weights(path: str | Path, config: PolicyConfig) -> dict[str, Tensor]:
    """Initial weights that `backbone=` gives a policy of `config`: everything but the adapters, by parameter name.

    A policy saved without its critic provides only the actor. If it has fewer agents, missing id columns are set to the
    mean id, and missing observation statistics to those of all agents pooled. Raises ValueError if the architecture
    differs.
    """
    try:
        source = read_trained(path)
    except ValueError as error:
        raise ValueError(f"backbone={str(path)!r}: {error}") from error
    _check_agents(path, source, config)
    check_groups(path, source.config.owners, config.owners)
    check_same_network(f"backbone={str(path)!r}", source.config, config, adapters=False)
    if source.config.spec.obs_size != config.spec.obs_size:
        raise ValueError(
            f"backbone={str(path)!r} reads observations of {source.config.spec.obs_size} features, agents here have "
            f"{config.spec.obs_size}. Give it an environment with the same observations."
        )
    own = {name: w for name, w in TeamPolicy(config).state_dict().items() if not is_adapters(name) and name != "_phase"}
    weights = {f"actor.{name}": w for name, w in source.backbone().items()}
    first = "actor.mlp.0.weight"
    if config.network.uses_ids(config.owners) == source.config.network.uses_ids(source.config.owners):
        features = weights[first].shape[-1] - source.config.spec.id_capacity
        weights[first] = _with_ids(weights[first], own[first].shape[-1], features)
    if statistics := {name.partition(".")[2]: w for name, w in source.backbone().items() if is_statistics(name)}:
        filled = for_more_agents(statistics, config.spec.num_agents)
        weights |= {f"actor.obs_norm.{name}": w for name, w in filled.items()}
    if source.critic is None:
        own = {name: w for name, w in own.items() if name.startswith("actor.")}
    check_state(own, {**weights, **(source.critic or {})}, [])
    return {**weights, **(source.critic or {})}


def adapter_weights(given: str | Path | Mapping[str, str | Path], config: PolicyConfig) -> dict[str, Tensor]:
    """Initial weights that `adapters=` gives a policy of `config`: the whole bank, by parameter name.

    given: a policy or checkpoint, whose adapters are matched by name; or name -> folder of an adapter. Other adapters
    start with no effect. Raises ValueError if an adapter does not fit, or no name matches.
    """
    target = saved(TeamPolicy(config))
    if not config.owners.num_adapters:
        raise ValueError(f"adapters= needs a sharing method with adapters; {config.owners.method!r} has none.")
    try:
        if isinstance(given, Mapping):
            for name, folder in given.items():
                target = transplant(target, name, folder)
        else:
            source = read_trained(given)
            shared = [name for name in names_of_adapters(config) if name in names_of_adapters(source.config)]
            if not shared:
                raise ValueError(f"it has no adapter of any of the names {names_of_adapters(config)[:20]}.")
            for name in shared:
                target = transplant(target, name, source, name)
    except ValueError as error:
        raise ValueError(f"adapters={given!r}: {error}") from error
    return {f"actor.{name}": w for name, w in target.adapters().items()}


def _check_agents(path: str | Path, source: SavedPolicy, config: PolicyConfig) -> None:
    """Raises ValueError if ids, backbones or critics, which belong to positions, would go to the wrong agents."""
    theirs, owners = source.config, source.config.owners
    told_apart = theirs.network.uses_ids(owners) or owners.num_backbones > 1
    values = theirs.critic_input == "agent_state" and (owners.num_critics > 1 or not theirs.spec.state_per_agent)
    first = config.spec.agents[: theirs.spec.num_agents]
    if first != theirs.spec.agents and (told_apart or (values and source.critic is not None)):
        raise ValueError(
            f"backbone={str(path)!r} tells apart the agents {list(theirs.spec.agents)}, and this team is "
            f"{list(config.spec.agents)}. Use an environment in which all of them are, or say who begins as whom: "
            "lorasa_rllib.policies.teams.team_of."
        )


def _with_ids(weight: Tensor, width: int, features: int) -> Tensor:
    """The first layer's weight [G, out, features + ids], padded to `width` with the mean of its id columns."""
    missing = width - weight.shape[-1]
    if missing <= 0 or weight.shape[-1] == features:
        return weight
    return torch.cat([weight, weight[..., features:].mean(-1, keepdim=True).expand(-1, -1, missing)], -1)


def _module_of(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return path / MODULE if (path / MODULE).is_dir() else path


def _unpickled(file: Path) -> Any:
    with file.open("rb") as opened:
        return pickle.load(opened)
