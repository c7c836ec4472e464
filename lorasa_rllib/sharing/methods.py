"""Sharing methods as data: a method is a function from a team to an owner table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lorasa_rllib.spec import Owners, TeamSpec

AdapterKey = Literal["agent", "role"] | Sequence[int] | Mapping[str, int]


def shared(spec: TeamSpec) -> Owners:
    """PS: one policy for all agents, told apart by their id features only."""
    return Owners("ps", (0,) * spec.num_agents)


def adapted(spec: TeamSpec, adapter_key: AdapterKey = "agent", num_adapters: int | None = None) -> Owners:
    """LoRASA: one shared backbone, and low-rank adapters.

    adapter_key: "agent": each agent its own. "role": that of the role which a row of data names. A table: one adapter
        (from 0) for every agent, as a sequence in the team's order or by name.
    num_adapters: size of the bank; None: as many as are in use.
    """
    one, adapters = (0,) * spec.num_agents, num_adapters or 0
    if adapter_key == "role":
        if not spec.num_roles:
            raise ValueError(
                "adapter_key='role' needs an environment with roles; this team has none. Use adapter_key='agent', a "
                "function of what agents see, or a table."
            )
        return Owners("lora", one, routed_by="role", num_adapters=max(adapters, spec.num_roles))
    if adapter_key == "agent":
        return Owners("lora", one, adapter_of=tuple(range(spec.num_agents)), num_adapters=adapters)
    return Owners("lora", one, adapter_of=_table(spec, adapter_key), num_adapters=adapters)


def _table(spec: TeamSpec, adapter_key: Any) -> tuple[int, ...]:
    wrong = f"adapter_key={adapter_key!r} must be 'agent', 'role', a function, or a table with an adapter (from 0) for "
    if isinstance(adapter_key, str) or not isinstance(adapter_key, Sequence | Mapping):
        raise ValueError(f"{wrong}each agent.")
    if isinstance(adapter_key, Mapping):
        if set(adapter_key) != set(spec.agents):
            raise ValueError(f"{wrong}each of {list(spec.agents)}.")
        adapter_key = [adapter_key[agent] for agent in spec.agents]
    table = tuple(adapter_key)
    if len(table) != spec.num_agents or any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in table):
        raise ValueError(f"{wrong}each of the {spec.num_agents} agents.")
    return table


METHODS: dict[str, Callable[..., Owners]] = {"ps": shared, "lora": adapted}
"""Names of sharing methods, as `.sharing(method)` takes them."""


def owners_of(method: str, spec: TeamSpec, **options: object) -> Owners:
    """The owner table of a sharing method. Raises ValueError for unknown methods."""
    if method not in METHODS:
        raise ValueError(f"sharing method {method!r} is unknown; choose one of {sorted(METHODS)}.")
    return METHODS[method](spec, **options)
