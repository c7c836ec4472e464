"""What studies compare: sharing methods by name, and variants of them such as "lora:r=16"."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Method:
    """One arm of a study.

    sharing, schedule, adapter_key: as `TeamConfig.sharing` takes them. settings: more of its arguments, which come
    before those of the options. label, colour: in figures; without a colour, the next free one.
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
"""By name. Variants: a name, a colon, and settings: "lora:r=16", "lora-joint:on=head,r=4". See `method_of`."""

PAPERS = ("ps", "nps", "mtl", "seps", "lora", "seps-lora")
"""The six methods of the paper."""

PLACEMENTS = {
    "all": ("*",),
    "head": ("head", "log_std"),
    "first": ("mlp.0", "log_std"),
    "hidden": ("mlp.*", "gru.*", "post.*", "log_std"),
}
"""Where adapters may go: every layer, the last one, the first one, all but the last. The log-std always has one, as
published."""

OTHER_COLOURS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499")
"""Of variants, in this order (Tol's "muted" scheme, told apart with any colour vision)."""


def steps_of(text: str) -> int | float:
    """A number of steps (500000, "500k", "0.5M") or, with a point alone, a share (0.3). Else ValueError."""
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
    """[N] the adapter of every agent: `blocks` runs of neighbours, as equal as they can be."""
    if not 1 <= blocks <= num_agents:
        raise ValueError(f"blocks={blocks} must lie between 1 and the number of agents, {num_agents}.")
    return tuple(n * blocks // num_agents for n in range(num_agents))


def _flag(text: str) -> bool:
    return {"yes": True, "no": False}[text]


BLOCKS = "blocks"
"""Not an argument: becomes an `adapter_key` once the team is known."""

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
"""Settings of variants: argument of `TeamConfig.sharing`, label, and how the text is read. "on" takes a placement or
patterns of layers joined by +; "blocks" a number of adapters, which as many blocks of neighbouring agents share."""


def method_of(name: str) -> Method:
    """The method behind a name or a variant of one. Raises ValueError that lists what there is."""
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
            raise ValueError(f"method {name!r}: {key!r} is no setting of a variant; use {', '.join(SETTINGS)}")
        argument, label, read = SETTINGS[key]
        try:
            settings[argument] = read(text)
        except (ValueError, KeyError):
            raise ValueError(f"method {name!r}: {text!r} is no value of {key}") from None
        told.append(label.format(text))
    return replace(method, label=f"{method.label}, {', '.join(told)}", colour=None, settings=settings)


NO_METHODS = {"stock": ("RLlib stock PPO", "#888888")}
"""Label and colour of what is compared with our methods but is none."""


def colours_of(names: list[str]) -> dict[str, str]:
    """A colour for every method: its own, or the next one of `OTHER_COLOURS`. Names nobody knows get one, too."""
    free = iter(OTHER_COLOURS * (1 + len(names) // len(OTHER_COLOURS)))
    own = {name: method_of(name).colour if _known(name) else NO_METHODS.get(name, ("", None))[1] for name in names}
    return {name: colour or next(free) for name, colour in own.items()}


def label_of(name: str) -> str:
    """What figures call a method; names nobody knows stay as they are."""
    return method_of(name).label if _known(name) else NO_METHODS.get(name, (name, ""))[0]


def _known(name: str) -> bool:
    return name.partition(":")[0] in METHODS
