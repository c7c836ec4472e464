"""Sharing methods as data: a method is a function from a team spec to an owner table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

from lorasa_rllib.spec import Owners, TeamSpec

Groups = Sequence[int] | Mapping[str, int]
AdapterKey = Literal["agent", "role"] | Groups


def shared(spec: TeamSpec) -> Owners:
    """PS: one policy for all agents, which differ only in their id features."""
    return Owners("ps", (0,) * spec.num_agents)


def independent(spec: TeamSpec) -> Owners:
    """NPS: every agent has its own actor and critic."""
    each = tuple(range(spec.num_agents))
    return Owners("nps", each, critic_of=each)


def multi_task(spec: TeamSpec) -> Owners:
    """MTL: one shared trunk, and one action head (with its log-std) per agent."""
    return Owners("mtl", tuple(range(spec.num_agents)), banked=("head", "log_std"))


def grouped(spec: TeamSpec, groups: Groups | None = None) -> Owners:
    """SePS (Christianos et al. 2021, arXiv 2102.07475): one actor per group of agents, and one shared critic."""
    return Owners("seps", _groups(spec, groups))


def adapted(spec: TeamSpec, adapter_key: AdapterKey = "agent", num_adapters: int | None = None) -> Owners:
    """LoRASA: one shared backbone with low-rank adapters.

    adapter_key: "agent": one adapter per agent. "role": one per role; the role column of the data selects it. A table:
        each agent's adapter (from 0), as a sequence in team order or a mapping by name.
    num_adapters: size of the bank; None: as many as are in use, and by role always at least one per role.
    """
    one, adapters = (0,) * spec.num_agents, num_adapters or 0
    if adapter_key == "role":
        if not spec.num_roles:
            raise ValueError(
                "adapter_key='role' needs an environment with roles; this team has none. Use adapter_key='agent', a "
                "function of what agents see, or a table."
            )
        return Owners("lora", one, routed_by="role", num_adapters=max(adapters, spec.num_roles))
    return Owners("lora", one, adapter_of=_adapters(spec, adapter_key), num_adapters=adapters)


def grouped_and_adapted(
    spec: TeamSpec,
    groups: Groups | None = None,
    adapter_key: AdapterKey = "agent",
    num_adapters: int | None = None,
) -> Owners:
    """SePS+LoRA: one backbone per group of agents, with low-rank adapters as in `adapted` (not by role)."""
    if adapter_key == "role":
        raise ValueError(
            "sharing method 'seps_lora' has a backbone for every group of agents; adapters by role need one for all. "
            "Use adapter_key='agent' or a table, or method 'lora'."
        )
    adapters = _adapters(spec, adapter_key)
    return Owners("seps_lora", _groups(spec, groups), adapter_of=adapters, num_adapters=num_adapters or 0)


def _adapters(spec: TeamSpec, adapter_key: Any) -> tuple[int, ...]:
    if adapter_key == "agent":
        return tuple(range(spec.num_agents))
    wrong = f"adapter_key={adapter_key!r} must be 'agent', 'role', a function, or a table with an adapter (from 0) for "
    return _table(spec, adapter_key, wrong)


def _groups(spec: TeamSpec, groups: Any) -> tuple[int, ...]:
    if groups is None:
        raise ValueError(
            "the groups of SePS are not known yet: algorithms find them when they are built, from a short random "
            "rollout. To build something else, give .sharing(groups=...)."
        )
    table = _table(spec, groups, f"groups={groups!r} must be a table with a group (from 0) for ")
    known = sorted(set(table))
    return tuple(known.index(group) for group in table)


def _table(spec: TeamSpec, given: Any, wrong: str) -> tuple[int, ...]:
    """[N] indices from 0, from a sequence or a mapping by agent name. wrong: beginning of the error message."""
    if isinstance(given, str) or not isinstance(given, Sequence | Mapping):
        raise ValueError(f"{wrong}each agent.")
    if isinstance(given, Mapping):
        if set(given) != set(spec.agents):
            raise ValueError(f"{wrong}each of {list(spec.agents)}.")
        given = [given[agent] for agent in spec.agents]
    table = tuple(given)
    if len(table) != spec.num_agents or any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in table):
        raise ValueError(f"{wrong}each of the {spec.num_agents} agents.")
    return table


METHODS: dict[str, Callable[..., Owners]] = {
    "ps": shared,
    "nps": independent,
    "mtl": multi_task,
    "seps": grouped,
    "lora": adapted,
    "seps_lora": grouped_and_adapted,
}
"""Sharing methods by the name that `.sharing(method)` takes."""


def owners_of(method: str, spec: TeamSpec, **settings: Any) -> Owners:
    """The owner table of a sharing method.

    settings: of this method; those of other methods must be None. Raises ValueError for unknown methods and settings.
    """
    taken = takes(method)
    given = {name: value for name, value in settings.items() if value is not None}
    if ignored := sorted(set(given) - taken):
        having = {name: [m for m in METHODS if name in takes(m)] for name in ignored}
        facts = [f"{name}={given[name]!r} (methods {methods})" for name, methods in having.items()]
        raise ValueError(f"sharing method {method!r} does not know {', '.join(facts)}; leave it out.")
    return METHODS[method](spec, **given)


def takes(method: str) -> set[str]:
    """Names of a method's settings among "adapter_key", "num_adapters", "groups". Raises ValueError if unknown."""
    if method not in METHODS:
        raise ValueError(f"sharing method {method!r} is unknown; choose one of {sorted(METHODS)}.")
    return set(signature(METHODS[method]).parameters) - {"spec"}
