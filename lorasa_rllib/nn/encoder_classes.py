"""Which class an encoder's name stands for: one of this package's, or a user's own, "module:qualname".

Importing a module runs its code, so a name in a file is not imported: the class must have been given in this process,
by a config or by someone who trusts the file.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import reduce

from torch import nn

from lorasa_rllib.nn.image_encoder import ImageEncoder

Value = bool | int | float | str | None
EncoderSettings = Mapping[str, Value | Sequence[Value]]
"""Keyword arguments of an encoder's class; plain data, as they are stored in files."""

OURS: dict[str, type[nn.Module]] = {"cnn": ImageEncoder}
"""Encoders of this package."""

_given: dict[str, type[nn.Module]] = {}


def name_of(encoder: str | type[nn.Module] | None) -> str | None:
    """The name of an encoder. A class is remembered under its name. Raises ValueError for anything else."""
    if encoder is None or (isinstance(encoder, str) and (encoder in OURS or ":" in encoder)):
        return encoder
    if not (isinstance(encoder, type) and issubclass(encoder, nn.Module)):
        hint = f"; hand over its class, {type(encoder).__name__}" if isinstance(encoder, nn.Module) else ""
        raise ValueError(
            f"encoder={encoder!r} must be a subclass of torch.nn.Module, its 'module:name', one of {sorted(OURS)} or "
            f"None{hint}."
        )
    if "<" in encoder.__qualname__:
        raise ValueError(
            f"encoder={encoder.__qualname__} is defined inside a function, where nobody who loads the policy finds it; "
            "define it at the top level of a module."
        )
    name = f"{encoder.__module__}:{encoder.__qualname__}"
    _given[name] = encoder
    return name


def check_settings(settings: EncoderSettings) -> None:
    """Raises ValueError unless the settings can be written to a file: numbers, words and lists of them by name."""
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not all(one is None or isinstance(one, bool | int | float | str) for one in values):
            raise ValueError(
                f"encoder_settings: {name}={value!r} must be a number, a word, True, False, None or a list of these: "
                "checkpoints store it."
            )


def complete(encoder: str, settings: EncoderSettings) -> dict[str, Value | list[Value]]:
    """Settings as files store them, with the defaults of the encoder's class if it is known."""
    parameters = inspect.signature(class_of(encoder)).parameters if is_known(encoder) else {}
    defaults = {name: one.default for name, one in parameters.items() if one.default is not one.empty}
    stored: dict[str, Value | list[Value]] = json.loads(json.dumps({**defaults, **settings}, default=str))
    return stored


def is_known(name: str) -> bool:
    """Whether the class of this name is ours or was given in this process."""
    return name in OURS or name in _given


def learn(name: str | None) -> None:
    """Imports a user's class, which runs the code of its module, unless it is known. Raises ValueError if it cannot."""
    if name is None or is_known(name):
        return
    module, _, path = name.partition(":")
    try:
        found = reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        script = "Define the class in a module: this one was defined in the script or notebook that trained it."
        where = "Put the module where Python finds it, on every machine."
        raise ValueError(
            f"encoder={name!r} cannot be imported ({error}). {script if module == '__main__' else where}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"encoder={name!r} must be a subclass of torch.nn.Module, not {found!r}.")
    _given[name] = found


def class_of(name: str) -> type[nn.Module]:
    """The class of a known name. Raises ValueError for others."""
    if not is_known(name):
        raise ValueError(f"encoder={name!r} has not been imported; give its class to .network(encoder=...).")
    return OURS[name] if name in OURS else _given[name]
