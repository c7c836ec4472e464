"""Methods that studies compare: sharing methods by name, and variants such as "lora:r=16"."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Method:
    """One arm of a study.

    sharing, schedule, adapter_key: arguments of `TeamConfig.sharing`. settings: further arguments of it, which take
    precedence over the command-line options. label, colour: for figures; without a colour, the next unused one.
    """

    sharing: str
    label: str
    colour: str | None = None
    schedule: str = "two_phase"
    adapter_key: str = "agent"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def adapts(self) -> bool:
        return "lora" in self.sharing


METHODS = {
    "ps": Method("ps", "PS (one shared policy)", "#4477aa"),
    "nps": Method("nps", "NPS (separate policies)", "#222222"),
    "mtl": Method("mtl", "MTL (heads of their own)", "#66ccee"),
    "seps": Method("seps", "SePS (groups share)", "#ee7733"),
    "lora": Method("lora", "LoRASA, two phases", "#ee6677"),
    "seps-lora": Method("seps_lora", "SePS+LoRA, two phases", "#997700"),
    "lora-joint": Method("lora", "LoRASA, joint", "#228833", schedule="joint"),
    "lora-role": Method("lora", "LoRASA by role, two phases", "#aa3377", adapter_key="role"),
    "lora-role-joint": Method("lora", "LoRASA by role, joint", "#ccbb44", "joint", "role"),
}
"""Methods by name. Variants: a name, a colon and settings: "lora:r=16", "lora-joint:on=head,r=4". See `method_of`."""

PAPERS = ("ps", "nps", "mtl", "seps", "lora", "seps-lora")
"""The six methods of the paper."""

PLACEMENTS = {
    "all": ("*",),
    "head": ("head", "log_std"),
    "first": ("mlp.0", "log_std"),
    "hidden": ("mlp.*", "gru.*", "post.*", "log_std"),
}
"""Placements of adapters: all layers, the last, the first, all but the last. The log-std always has one, as
published."""

OTHER_COLOURS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499")
"""Colours of variants, in this order (Tol's "muted" scheme, safe for colour-blind readers)."""


def steps_of(text: str) -> int | float:
    """Parses a number of steps ("500000", "500k", "0.5M") or a share ("0.3", with a decimal point and no suffix).

    Raises ValueError for anything else.
    """
    for suffix, times in (("M", 1_000_000), ("k", 1_000)):
        if text.endswith(suffix):
            steps = float(text.removesuffix(suffix)) * times
            if not math.isfinite(steps):
                raise ValueError(f"{text} is not finite")
            return round(steps)
    return float(text) if "." in text else int(text)


def _placement(text: str) -> tuple[str, ...]:
    return PLACEMENTS.get(text) or tuple(text.split("+"))


def key_of_blocks(blocks: int, num_agents: int) -> tuple[int, ...]:
    """The adapter of every agent, [N]: `blocks` groups of neighbouring agents, as equal in size as possible."""
    if not 1 <= blocks <= num_agents:
        raise ValueError(f"blocks={blocks} must lie between 1 and the number of agents, {num_agents}.")
    return tuple(n * blocks // num_agents for n in range(num_agents))


def _flag(text: str) -> bool:
    return {"yes": True, "no": False}[text]


BLOCKS = "blocks"
"""Not an argument of `TeamConfig.sharing`: converted to an `adapter_key` once the team is known."""

SETTINGS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "r": ("r", "r = {}", int),
    "alpha": ("lora_alpha", "alpha = {}", float),
    "on": ("target_modules", "adapters on {}", _placement),
    "switch": ("phase_switch", "switch at {}", lambda text: text if text == "auto" else steps_of(text)),
    "lr": ("adapter_lr_scale", "adapters' lr x {}", float),
    "init": ("init_lora_weights", "init {}", str),
    "rslora": ("use_rslora", "rank-stabilised: {}", _flag),
    "bias": ("adapt_bias", "biases: {}", _flag),
    "norm": ("adapt_norm", "LayerNorms: {}", _flag),
    "blocks": (BLOCKS, "{} adapters, each of neighbours", int),
}
"""Settings of variants: argument of `TeamConfig.sharing`, label, parser. "on" takes a placement or layer patterns
joined by +; "blocks" the number of adapters, each shared by a block of neighbouring agents."""


def method_of(name: str) -> Method:
    """The method with this name, or variant of one. Raises ValueError, listing the choices, if it is unknown."""
    base, _, variant = name.partition(":")
    if base not in METHODS:
        raise ValueError(
            f"method {name!r} is unknown; choose from {', '.join(METHODS)}, or a variant such as lora:r=16"
        )
    method = METHODS[base]
    if not variant:
        return method
    if not method.adapts:
        raise ValueError(f"method {name!r}: variants are of methods with adapters")
    settings, told = dict(method.settings), []
    for part in variant.split(","):
        key, _, text = part.partition("=")
        if key not in SETTINGS:
            raise ValueError(f"method {name!r}: {key!r} is not a setting of a variant; use {', '.join(SETTINGS)}")
        argument, label, read = SETTINGS[key]
        try:
            settings[argument] = read(text)
        except (ValueError, KeyError):
            raise ValueError(f"method {name!r}: {text!r} is not a value of {key}") from None
        told.append(label.format(text))
    return replace(method, label=f"{method.label}, {', '.join(told)}", colour=None, settings=settings)


NO_METHODS = {"stock": ("RLlib stock PPO", "#888888")}
"""Labels and colours of baselines that are not sharing methods."""


def colours_of(names: list[str]) -> dict[str, str]:
    """A colour per method: its own, or the next one of `OTHER_COLOURS`, also for unknown names."""
    free = iter(OTHER_COLOURS * (1 + len(names) // len(OTHER_COLOURS)))
    own = {name: method_of(name).colour if _known(name) else NO_METHODS.get(name, ("", None))[1] for name in names}
    return {name: colour or next(free) for name, colour in own.items()}


def label_of(name: str) -> str:
    """Display name of a method; unknown names are returned unchanged."""
    return method_of(name).label if _known(name) else NO_METHODS.get(name, (name, ""))[0]


def _known(name: str) -> bool:
    return name.partition(":")[0] in METHODS
