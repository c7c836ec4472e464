"""The files of a policy: safetensors and JSON, safe to open.

policy/
  policy_config.json            team, sharing method, network, phase, origin
  backbone.safetensors          all actor weights except adapters, and statistics: mlp.0.weight [G, out, in] ...
  critic.safetensors            critic and value normaliser, to resume training; optional, not needed for acting
  adapters/<name>/              one folder per adapter, laid out like PEFT's
    adapter_config.json         rank, scale, layers, name
    adapter_model.safetensors   mlp.0.lora_A [r, in], mlp.0.lora_B [out, r] ...
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pydantic
import torch
from torch import Tensor

from lorasa_rllib.nn import encoder_classes
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import completed
from lorasa_rllib.nn.policy import Phase, PolicyConfig
from lorasa_rllib.policies.files import (
    PolicyFileError,
    json_bytes,
    new_folder,
    read_json,
    read_tensors,
    tensor_bytes,
)
from lorasa_rllib.policies.saved import Origin, SavedPolicy, expected_shapes, is_adapters, names_of_adapters
from lorasa_rllib.printable import CELL, printable

CONFIG, BACKBONE, CRITIC = "policy_config.json", "backbone.safetensors", "critic.safetensors"
ADAPTERS, ADAPTER_CONFIG, ADAPTER = "adapters", "adapter_config.json", "adapter_model.safetensors"
LONGEST = 255
"""Longest file name in characters."""

TABLE_LIMIT = 2**25
"""Entries of a table over agents and their observations or actions: the largest teams need a tenth of that."""

INSIDE = "policy"
"""The folder of these files within an algorithm checkpoint."""


@dataclasses.dataclass(frozen=True)
class PolicyDocument:
    """Contents of policy_config.json."""

    policy: PolicyConfig
    phase: Phase
    origin: Origin
    format: Literal["lorasa_policy"] = "lorasa_policy"
    format_version: Literal[1] = 1


@dataclasses.dataclass(frozen=True)
class AdapterDocument(LoRAConfig):
    """Contents of adapter_config.json, flat like PEFT's. adapter: its name in the policy."""

    adapter: str = ""
    peft_type: Literal["LORA"] = "LORA"
    format_version: Literal[1] = 1

    @property
    def lora(self) -> LoRAConfig:
        return LoRAConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(LoRAConfig)})


def policy_files(path: str | Path) -> Path | None:
    """The folder of policy files at a path or in a checkpoint there; None if there is none. Files are not checked."""
    path = Path(path).expanduser()
    if os.path.lexists(path / CONFIG):
        return path
    return path / INSIDE if os.path.lexists(path / INSIDE) else None


def save_policy(saved: SavedPolicy, folder: str | Path) -> Path:
    """Writes a policy to a folder. Returns its path. Raises ValueError unless it is new or empty."""
    folder = Path(folder).expanduser()
    with new_folder(folder) as part:
        (part / CONFIG).write_bytes(
            json_bytes(dataclasses.asdict(PolicyDocument(saved.config, saved.phase, saved.origin)))
        )
        (part / BACKBONE).write_bytes(tensor_bytes(saved.backbone()))
        if saved.critic is not None:
            (part / CRITIC).write_bytes(tensor_bytes(saved.critic))
        adapters = saved.adapters()
        for k, name in enumerate(names_of_adapters(saved.config)):
            _write_adapter(part / ADAPTERS / in_folders(name), name, saved.config.lora, adapters, k)
    return folder


def save_adapter(saved: SavedPolicy, name: str, folder: str | Path) -> Path:
    """Writes one adapter to a new folder, for `transplant` into other policies. Returns its path."""
    k, folder = index_of_adapter(saved.config, name), Path(folder).expanduser()
    with new_folder(folder) as part:
        _write_adapter(part, name, saved.config.lora, saved.adapters(), k)
    return folder


def read_policy(folder: str | Path, trust: bool = False) -> SavedPolicy:
    """Reads a policy from its folder or from a checkpoint that contains one.

    trust: whether an encoder's module may be imported, which runs its code. Raises PolicyFileError if files are
    missing, damaged or inconsistent.
    """
    found = policy_files(folder)
    if found is None:
        what = "a checkpoint without policy files: lorasa adapters export CHECKPOINT -o FOLDER --trust  makes them"
        looks_like = (Path(folder).expanduser() / "rllib_checkpoint.json").is_file()
        raise PolicyFileError(f"{folder} is {what if looks_like else f'no policy: it holds no {CONFIG}'}.")
    folder = found
    document = read_document(folder)
    config = document.policy
    _check_encoder(config.network.encoder, folder / CONFIG, trust)
    _check_sizes(config, folder)
    actor, critic = _shapes(config, folder / CONFIG)
    if document.phase != "backbone" and not config.owners.num_adapters:
        raise PolicyFileError(f"{folder / CONFIG} names phase {document.phase!r}, but the policy has no adapters.")
    weights = read_tensors(folder / BACKBONE, {name: s for name, s in actor.items() if not is_adapters(name)})
    one = {name: shape[1:] for name, shape in actor.items() if is_adapters(name)}
    bank = []
    for name in names_of_adapters(config):
        path = folder / ADAPTERS / in_folders(name)
        about: AdapterDocument = _document(path / ADAPTER_CONFIG, AdapterDocument)
        if about.lora != config.lora:
            raise PolicyFileError(f"{path / ADAPTER_CONFIG} has other settings than the policy: transplant it instead.")
        bank.append(read_tensors(path / ADAPTER, one))
    for name in one:
        weights[name] = torch.stack([adapter[name] for adapter in bank])
    rest = read_tensors(folder / CRITIC, critic) if os.path.lexists(folder / CRITIC) else None
    return SavedPolicy(config, document.phase, weights, rest, document.origin)


def read_document(folder: Path) -> PolicyDocument:
    """The description of a saved policy, without its weights."""
    document: PolicyDocument = _document(folder / CONFIG, PolicyDocument, _of_this_version)
    return document


def read_adapter(folder: str | Path, config: PolicyConfig) -> tuple[LoRAConfig, dict[str, Tensor]]:
    """Reads one adapter for a policy with this network: its settings, and its weights without the adapter axis."""
    folder = Path(folder).expanduser()
    about: AdapterDocument = _document(folder / ADAPTER_CONFIG, AdapterDocument)
    try:
        like = dataclasses.replace(config, lora=about.lora)
    except ValueError as error:
        raise PolicyFileError(f"{folder} belongs to another network: {error}") from error
    actor, _ = _shapes(like, folder / ADAPTER_CONFIG)
    one = {name: shape[1:] for name, shape in actor.items() if is_adapters(name)}
    return about.lora, read_tensors(folder / ADAPTER, one)


def index_of_adapter(config: PolicyConfig, name: str) -> int:
    """The index of an adapter in the bank. Raises ValueError that lists the known names."""
    names = names_of_adapters(config)
    if name not in names:
        shown = ", ".join(printable(one, CELL) for one in names[:20])
        there = f"it has {shown}{' ...' if len(names) > 20 else ''}" if names else "it has none"
        raise ValueError(f"the policy has no adapter {name!r}; {there}.")
    return names.index(name)


def in_folders(name: str) -> str:
    """The folder name of an adapter: a single path component for any agent name."""
    safe = quote(name, safe="").replace(".", "%2E") if name.startswith(".") or not name else quote(name, safe="")
    safe = safe or "%00"
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return safe if len(safe) <= LONGEST else f"{safe[:100]}-{digest}"


def _write_adapter(folder: Path, name: str, lora: LoRAConfig, adapters: Mapping[str, Tensor], k: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER_CONFIG).write_bytes(json_bytes(dataclasses.asdict(AdapterDocument(**vars(lora), adapter=name))))
    (folder / ADAPTER).write_bytes(tensor_bytes({layer: bank[k] for layer, bank in adapters.items()}))


def _of_this_version(data: Any) -> Any:
    """Upgrades policy_config.json of older versions. Damaged data passes through to the checks that follow."""
    policy = data.get("policy") if isinstance(data, dict) else None
    if not isinstance(policy, dict):
        return data
    if isinstance(network := policy.get("network"), dict):
        policy = policy | {"network": completed(network)}
    if isinstance(spec := policy.get("spec"), dict):
        policy = policy | {"spec": {"views": [], "choices": [], "state_parts": []} | spec}
    return data | {"policy": {"absent_forget": True} | policy}


@functools.cache
def _reader(kind: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _document(path: Path, kind: type, upgrade: Callable[[Any], Any] = lambda data: data) -> Any:
    """A JSON file as a dataclass, with exactly its fields and types. upgrade: converts data of older versions."""
    data = read_json(path)
    try:
        data = upgrade(data)
        document: Any = _reader(kind).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PolicyFileError(f"{path} is damaged, or of another version: {where}: {first['msg']}.") from error
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise PolicyFileError(f"{path} is damaged, or of another version: {error}.") from error
    if json.loads(json.dumps(dataclasses.asdict(document))) != data:
        raise PolicyFileError(f"{path} is damaged, or of another version: it does not have just the fields of one.")
    return document


def _check_encoder(name: str | None, path: Path, trust: bool) -> None:
    """Imports the class of an encoder if that is allowed and needed."""
    if name is None or encoder_classes.is_known(name):
        return
    if not trust:
        raise PolicyFileError(
            f"{path} names the encoder {name!r}, a class of somebody's own, and importing it runs code. If you trust "
            "where the files come from: load_policy(path, trust=True), --trust on the command line."
        )
    try:
        encoder_classes.learn(name)
    except ValueError as error:
        raise PolicyFileError(f"{path}: {error}") from error


def _check_sizes(config: PolicyConfig, folder: Path) -> None:
    """Rejects descriptions of networks too large for the files, before anything is allocated."""
    spec = config.spec
    try:
        held = (folder / BACKBONE).stat().st_size // 4
        adapters = len(list((folder / ADAPTERS).iterdir())) if config.owners.num_adapters else 0
    except OSError as error:
        raise PolicyFileError(f"{error.filename} cannot be read: {error.strerror}.") from error
    read = 0 if config.network.encoder else spec.obs_size  # convolutions have fewer weights than their images entries
    if max(read, spec.action_size, spec.id_capacity, config.network.hidden_size) > held:
        raise PolicyFileError(f"{folder / CONFIG} describes a larger network than {BACKBONE} holds.")
    if spec.num_agents * max(spec.obs_size, spec.action_size, 8 * spec.action_dims * spec.component_size) > TABLE_LIMIT:
        raise PolicyFileError(f"{folder / CONFIG} describes a larger team than can be: {spec.num_agents:,} agents.")
    if config.owners.num_adapters > adapters:
        raise PolicyFileError(
            f"{folder / CONFIG} names {config.owners.num_adapters} adapters, but {ADAPTERS} holds {adapters}."
        )


def _shapes(config: PolicyConfig, path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    try:
        return expected_shapes(config)
    except (ValueError, TypeError, RuntimeError, OverflowError, IndexError) as error:
        raise PolicyFileError(f"{path} describes no policy: {error}.") from error
