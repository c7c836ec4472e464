"""Sharing methods as data: a method is a function from a team to an owner table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lorasa_rllib.spec import Owners, TeamSpec

Keyed = Literal["agent", "role"]


def shared(spec: TeamSpec) -> Owners:
    """PS: one policy for all agents, told apart by their id features only."""
    return Owners("ps", (0,) * spec.num_agents)


def adapted(spec: TeamSpec, keyed_by: Keyed = "agent") -> Owners:
    """LoRASA: one shared backbone and one adapter for each agent (or role)."""
    one = (0,) * spec.num_agents
    if keyed_by == "role":
        if not spec.num_roles:
            raise ValueError(
                "keyed_by='role' needs an environment with roles; this team has none. Use keyed_by='agent'."
            )
        return Owners("lora", one, routed_by="role", num_adapters=spec.num_roles)
    return Owners("lora", one, adapter_of=tuple(range(spec.num_agents)))


METHODS: dict[str, Callable[..., Owners]] = {"ps": shared, "lora": adapted}
"""Names of sharing methods, as `.sharing(method)` takes them."""


def owners_of(method: str, spec: TeamSpec, **options: object) -> Owners:
    """The owner table of a sharing method. Raises ValueError for unknown methods."""
    if method not in METHODS:
        raise ValueError(f"sharing method {method!r} is unknown; choose one of {sorted(METHODS)}.")
    return METHODS[method](spec, **options)
