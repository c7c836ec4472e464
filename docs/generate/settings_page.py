"""The page of settings, from docstrings (what), `rllib.ranges` (what is allowed) and `advice` (usual range, when)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from advice import ADVICE

from lorasa_rllib.nn.network import PRESETS, NetworkConfig
from lorasa_rllib.rllib import A2POConfig
from lorasa_rllib.rllib.keywords import _keywords
from lorasa_rllib.rllib.ranges import SETTINGS
from lorasa_rllib.rllib.validation import WHY_NOT
from lorasa_rllib.sharing.methods import METHODS

SETTERS = ("sharing", "network", "training", "env_runners")
INTRODUCTION = """# Settings

Every setting of the four setters of `MAPPOConfig` and `A2POConfig`: what it does, what is allowed, what is usual, and
when to change it. What lies outside is refused by `config.validate()`, unknown names at the call. Usual ranges are
advice, not measured for your task. RLlib's other setters (`.learners`, `.evaluation`, `.fault_tolerance`, `.reporting`,
`.debugging`, `.resources`, `.callbacks`) work as in RLlib; what does not is refused.
"""


@dataclass(frozen=True)
class Row:
    name: str
    default: str
    what: str
    allowed: str
    usual: str
    when: str


def page() -> str:
    return "\n".join([INTRODUCTION, *(part for setter in SETTERS for part in _section(setter))])


def rows(setter: str) -> list[Row]:
    """Every setting of a setter that works. KeyError names one that `advice.ADVICE` lacks, with what to add."""
    told = _told(setter)
    return [_row(setter, name, told) for name in names(setter) if name in ADVICE[setter]]


def names(setter: str) -> list[str]:
    """All keywords of a setter, of both algorithms."""
    current, _ = _keywords(A2POConfig, setter)
    return [*current, *inspect.signature(NetworkConfig).parameters] if setter == "network" else list(current)


def refused(setter: str) -> list[str]:
    """Keywords of RLlib's setter that team algorithms have no use for."""
    return [name for name in names(setter) if name not in ADVICE[setter]]


def _section(setter: str) -> Iterator[str]:
    yield f"## .{setter}\n"
    for row in sorted(rows(setter), key=lambda row: list(ADVICE[setter]).index(row.name)):
        yield f"### {row.name} {{ #{setter}-{row.name.strip('_')} }}\n\n{row.what}\n"
        yield "| default | allowed | usual | when to change it |\n|---|---|---|---|"
        yield f"| {row.default} | {row.allowed} | {row.usual} | {row.when} |\n"
    if left := refused(setter):
        yield f"Keywords of RLlib's `.{setter}` that are refused or have no effect here:\n"
        yield "\n".join(f"* `{name}`{_why(name)}" for name in left) + "\n"


def _why(name: str) -> str:
    reason = WHY_NOT.get(name) or WHY_NOT.get(f"_{name}")
    return f": {reason}" if reason else ""


def _row(setter: str, name: str, told: dict[str, str]) -> Row:
    advice = ADVICE[setter][name]
    setting = next((s for s in SETTINGS if (s.setter, s.name) == (setter, name)), None)
    allowed = advice.allowed or (str(setting) if setting else _choices(setter, name))
    what = advice.what or told.get(name, "")
    what = what[:1].upper() + what[1:]
    return Row(name, _default(setter, name), _cell(what), _cell(allowed), _cell(advice.usual), _cell(advice.when))


def _choices(setter: str, name: str) -> str:
    if (setter, name) == ("sharing", "method"):
        return ", ".join(f"`{method}`" for method in METHODS)
    if (setter, name) == ("network", "preset"):
        return ", ".join(f"`{preset}`" for preset in PRESETS) + ", or None"
    if (setter, name) == ("sharing", "schedule"):
        return "`two_phase`, `joint` or None"
    if setter == "network":
        return ", ".join(
            f"`{value}`" if value is not None else "None" for value in _literals(get_type_hints(NetworkConfig)[name])
        )
    return ""


def _literals(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in ([None] if part is type(None) else _literals(part))]


def _default(setter: str, name: str) -> str:
    if setter == "network":
        started = {"preset": None, **vars(NetworkConfig()), **A2POConfig().network_settings}
        return "None" if started[name] is None else f"`{started[name]!r}`"
    fresh = A2POConfig()
    setting = next((s for s in SETTINGS if (s.setter, s.name) == (setter, name)), None)
    value = getattr(fresh, setting.attribute if setting and setting.attribute else name)
    return f"`{value.__name__ if isinstance(value, type) else repr(value)}`"


def _told(setter: str) -> dict[str, str]:
    """What docstrings say of each argument; those of subclasses win."""
    if setter == "network":
        found = _entries(inspect.cleandoc(NetworkConfig.__doc__ or ""), indent=0)
        return found | _args(A2POConfig.network.__doc__ or "")
    told: dict[str, str] = {}
    for base in reversed(A2POConfig.__mro__):
        if setter in vars(base) and base.__module__.startswith("lorasa_rllib"):
            told |= _args(vars(base)[setter].__doc__ or "")
    return told


def _args(docstring: str) -> dict[str, str]:
    _, _, block = inspect.cleandoc(docstring).partition("Args:\n")
    return _entries(block, indent=4)


def _entries(text: str, indent: int) -> dict[str, str]:
    """Of "name: what" and "one, other: what", with lines that go on further in."""
    found: dict[str, str] = {}
    current: tuple[str, ...] = ()
    for line in text.splitlines():
        start = re.match(rf" {{{indent}}}(\w+(?:, \w+)*):\s+(.*)", line)
        if start:
            current = tuple(start[1].split(", "))
            found |= dict.fromkeys(current, start[2])
        elif line.startswith(" " * (indent + 1)) and current:
            found |= {name: f"{found[name]} {line.strip()}" for name in current}
        else:
            current = ()
    return found


def _cell(text: str) -> str:
    return re.sub(r"\[\[(.*?)\]\]", r"`[[\1]]`", " ".join(text.split())).replace("|", "\\|")
