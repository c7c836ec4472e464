"""Acting with a trained policy, without Ray and without an environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.nn.acting import acting_form
from lorasa_rllib.policies.folder import read_policy
from lorasa_rllib.policies.given import mask_of, row_of, rows_of
from lorasa_rllib.policies.saved import Origin, SavedPolicy
from lorasa_rllib.spaces import available
from lorasa_rllib.spec import TeamSpec


def load_policy(path: str | Path, device: str = "cpu", seed: int | None = None, trust: bool = False) -> LoadedPolicy:
    """Loads a policy from its folder (safetensors and JSON, no pickle), or from a checkpoint that contains one.

    device: "cpu", "cuda", "cuda:1" ... seed: for sampled actions. trust: whether an encoder of somebody's own that the
    files name may be imported, which runs its code; not needed if this process gave it to `.network(encoder=...)`.
    Raises PolicyFileError, a ValueError, for missing or damaged files. `lorasa adapters export` turns other checkpoints
    of RLlib into such folders.
    """
    return LoadedPolicy(read_policy(path, trust), device, seed)


class LoadedPolicy:
    """A team's policy for acting, one step at a time, in one environment or many. Adapters are merged once.

        policy = load_policy("policy")
        actions, _ = policy.act({"left": obs_of_left, "right": obs_of_right})      # by name: {"left": ..., ...}
        actions, _ = policy.act(obs)                                               # [N, obs_size] or [E, N, obs_size]

    Recurrent policies: pass the returned state to the next call, and None when an episode begins. Agents that were not
    in the last call begin without memory, as in training; in arrays, set the state of agents that were absent to 0.
    Policies trained with `Quirks(absent_memory=True)` (`saved.config.absent_forget` is False) act as they were trained,
    too: by name, the state has all agents, and that of absent ones moves on; in arrays, give all rows at every step,
    observations of zeros for absent agents, and pass the state on unchanged.

    acting: the actor behind `act`, for tensors: `acting.step(obs)` gives action distributions (`nn.acting.Acting`).
    """

    def __init__(self, saved: SavedPolicy, device: str = "cpu", seed: int | None = None):
        self.saved = saved
        try:
            self._device = torch.device(device)
            actor = saved.actor().to(self._device)
        except (RuntimeError, AssertionError) as error:  # the type depends on the torch build
            raise ValueError(f"device {device!r} cannot be used here: {error}") from error
        self.acting = acting_form(actor, saved.adapters_on)
        self._generator = torch.Generator(self._device)
        self.seed(seed)
        spec = self.spec
        self._index = {name: n for n, name in enumerate(spec.agents)}
        numbered = any(name.lstrip("-").isdecimal() for name in spec.agents)  # then a number is an id, not a position
        self._positions: dict[object, int] = {} if numbered else {n: n for n in range(len(spec.agents))}
        self._by_role = saved.config.owners.routed_by == "role" and saved.adapters_on
        self._hidden_size = saved.config.network.hidden_size
        self._whole_team = self.recurrent and not saved.config.absent_forget

    def __repr__(self) -> str:
        method, source = self.saved.config.owners.method, self.origin
        trained = f"{source.algorithm or 'unknown algorithm'} on {source.environment!r}, {source.env_steps:,} steps"
        return f"LoadedPolicy({method!r}, {len(self.agents)} agents, phase={self.saved.phase!r}, trained by {trained})"

    @property
    def spec(self) -> TeamSpec:
        """The team spec: names, sizes and bounds."""
        return self.saved.config.spec

    @property
    def agents(self) -> tuple[str, ...]:
        return self.spec.agents

    @property
    def origin(self) -> Origin:
        """Environment, training steps and package versions of the policy."""
        return self.saved.origin

    @property
    def recurrent(self) -> bool:
        return self.saved.config.network.recurrent

    @property
    def by_role(self) -> bool:
        """Whether `act` needs roles."""
        return self._by_role

    def seed(self, seed: int | None) -> None:
        """Seeds sampled actions; None: a seed from the operating system."""
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def act(
        self,
        observations: Any,
        state: Any = None,
        *,
        agents: Any = None,
        roles: Any = None,
        mask: Any = None,
        greedy: bool = True,
    ) -> tuple[Any, Any]:
        """Actions in the environment's units, and the state for the next call (None if feed-forward).

        observations: a mapping from agent names, or the environment's own ids (all or some of the team), to
            observations as the environment returns them; all other arguments and results are then by name, too. Or
            float [..., N, obs_size], rows of flattened observations with any leading axes.
        agents: names or indices of the agents of rows [..., n, obs_size] (numbers are names in teams that have such). A
            single name or index: `observations` is that agent's own observation, or rows [..., obs_size].
        state: [..., n, hidden_size], as returned by the last call; None: an episode begins.
        roles: int [..., n], needed if adapters are keyed by role; -1: the plain backbone.
        mask: bool [..., n, choices], available choices of discrete teams; needed if the environment reports them,
            unless the observations contain them. By name, None means all choices.
        greedy: True: the most likely action; False: a sampled one.

        Returns actions contained in the agents' spaces: by name, or for a single agent, with the space's shape and
        type (an int for Discrete). For rows, float32 [..., n, action_size] within the bounds, or int64 choices
        [..., n] ([..., n, components] if there are several). Raises ValueError for missing arguments, wrong shapes and
        NaN or infinite observations.
        """
        if isinstance(agents, str | int | np.integer):
            return self._one(observations, state, agents, roles, mask, greedy)
        if isinstance(observations, Mapping) and agents is None:
            return self._by_name(observations, state, roles, mask, greedy)
        actions, after = self.choose(observations, state, agents=agents, roles=roles, mask=mask, greedy=greedy)
        starts = self.spec.starts
        if starts is None:
            return actions, after
        return actions + (starts if agents is None else starts[list(self._indices(agents))]), after

    def choose(
        self,
        observations: Any,
        state: Any = None,
        *,
        agents: Any = None,
        roles: Any = None,
        mask: Any = None,
        greedy: bool = True,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `act` with rows, but choices are counted from 0, as in this package's team environments."""
        if isinstance(observations, Mapping):
            raise ValueError("observations by name already say whose they are: leave agents out.")
        who = None if agents is None else self._indices(agents)
        width = self.spec.num_agents if who is None else len(who)
        obs = self._rows(observations, "observations", (width, self.spec.obs_size), torch.float32)
        self._check_finite(obs, who)
        lead = obs.shape[:-2]
        of_rows = choices = hidden = None
        if self._by_role:
            if roles is None:
                raise ValueError("adapters are keyed by role: give roles, a whole number for each row.")
            of_rows = self._rows(roles, "roles", (*lead, width), torch.int64, whole=True)
        if mask is None:
            if self.spec.has_masks and not self.spec.continuous:
                raise ValueError("the environment says which choices are available: give mask, bool [..., n, choices].")
        elif not self.spec.continuous:
            given = mask if isinstance(mask, Tensor) else available(mask)
            choices = self._rows(given, "mask", (*lead, width, self.spec.action_size), torch.bool, whole=True)
        if self.recurrent and state is not None:
            hidden = self._rows(state, "state", (*lead, width, self._hidden_size), torch.float32, whole=True)
        with torch.inference_mode():
            distribution, after = self.acting.step(obs, roles=of_rows, available=choices, hidden=hidden, agents=who)
            drawn = distribution.mode() if greedy else distribution.sample(self._generator)
        actions = self.spec.to_environment(drawn.cpu().numpy(), who)
        return actions, None if after is None else after.cpu().numpy()

    def _rows(self, given: Any, name: str, last: tuple[int, ...], dtype: torch.dtype, whole: bool = False) -> Tensor:
        """An argument as a tensor on the device, with its last axes checked (whole: it must have no others)."""
        if not isinstance(given, Tensor):
            array = np.asarray(given)
            if array.dtype.kind not in "fiub":
                raise ValueError(f"{name} must be numbers, not {type(given).__name__} of {array.dtype}.")
            given = torch.from_numpy(array if array.flags.writeable else array.copy())
        tensor = given
        if tensor.dtype is not dtype or tensor.device != self._device:
            tensor = tensor.to(self._device, dtype)
        if tensor.shape[-len(last) :] != last or (whole and tensor.dim() > len(last)):
            be = "it must be" if whole else "its last axes must be"
            raise ValueError(f"{name} has shape {list(tensor.shape)}; {be} {list(last)}.")
        return tensor

    def _check_finite(self, obs: Tensor, who: tuple[int, ...] | None) -> None:
        """Raises ValueError with the agent's name for NaN and infinite observations [..., n, obs_size]."""
        if math.isfinite(obs.sum().item()) or (finite := obs.isfinite()).all():  # a finite sum has finite terms
            return
        row = int((~finite).nonzero()[0, -2])
        raise ValueError(
            f"the observation of agent {self.agents[row if who is None else who[row]]!r} has a NaN or infinite value "
            "(as float32). Look at the environment; agents that are absent are left out, or have zeros."
        )

    def _indices(self, agents: Sequence[Any]) -> tuple[int, ...]:
        """Agent indices of names, of the environment's own ids (whose `str` are the names), or of agent indices."""
        found = [self._index.get(str(agent), self._positions.get(agent)) for agent in agents]
        known = tuple(n for n in found if n is not None)
        if len(known) < len(found):
            unknown = [agent for agent, n in zip(agents, found, strict=True) if n is None]
            raise ValueError(f"the policy has no agents {unknown}; it has {list(self.agents[:20])}.")
        return known

    def _keys(self, given: Mapping[Any, Any], what: str) -> dict[int, Any]:
        """Agent index -> the key that names the agent in a mapping. Raises ValueError if two keys name one agent."""
        indices = self._indices(list(given))
        keys = dict(zip(indices, given, strict=True))
        if len(keys) < len(given):
            twice = next(n for n in keys if indices.count(n) > 1)
            names = [key for n, key in zip(indices, given, strict=True) if n == twice]
            raise ValueError(f"{what}: agent {self.agents[twice]!r} is named more than once, {names}. Name it once.")
        return keys

    def _one(self, obs: Any, state: Any, agent: Any, roles: Any, mask: Any, greedy: bool) -> tuple[Any, Any]:
        """`act` for one agent: no agent axis, and the agent's own sizes."""
        (n,) = self._indices([agent])
        own = rows_of(self.spec, n, obs)
        padded = np.zeros((*own.shape[:-1], 1, self.spec.obs_size), np.float32)
        padded[..., 0, : own.shape[-1]] = own
        rows: dict[str, Any] = {} if roles is None else {"roles": np.asarray(roles)[..., None]}
        if (choices := mask_of(self.spec, n, obs, mask)) is not None:
            rows["mask"] = np.broadcast_to(self._padded(choices), (*own.shape[:-1], 1, self.spec.action_size))
        carried = None if state is None else np.asarray(state)[..., None, :]
        actions, after = self.choose(padded, carried, agents=(n,), greedy=greedy, **rows)
        several = self.spec.continuous or bool(self.spec.choices)
        own_action = self.spec.action_of(n, actions[..., 0, :] if several else actions[..., 0])
        return own_action, None if after is None else after[..., 0, :]

    def _padded(self, mask: np.ndarray) -> np.ndarray:
        """Pads a mask: [..., choices of one agent] -> [..., 1, action_size]."""
        padded = np.zeros((*mask.shape[:-1], 1, self.spec.action_size), bool)
        padded[..., 0, : mask.shape[-1]] = mask
        return padded

    def _by_name(self, obs: Mapping[str, Any], state: Any, roles: Any, mask: Any, greedy: bool) -> Any:
        """`act` with observations, arguments and results by agent name."""
        present = self._keys(obs, "observations")
        who = tuple(range(len(self.agents))) if self._whole_team else tuple(present)
        if not who:
            return {}, {} if self.recurrent else None
        names = [present.get(n, self.agents[n]) for n in who]
        padded = np.zeros((len(who), self.spec.obs_size), np.float32)
        for row, n, name in zip(padded, who, names, strict=True):
            if n in present:
                row[: self.spec.obs_sizes[n]] = row_of(self.spec, n, obs[name])
        for what, values in (("roles", roles), ("mask", mask), ("state", state)):
            if values is not None and not isinstance(values, Mapping):
                raise ValueError(f"observations are by name, so {what} must be, too, not {type(values).__name__}.")
        rows: dict[str, Any] = {}
        if roles is not None:
            if missing := [name for name in names if name not in roles]:
                raise ValueError(f"roles of {missing} is missing.")
            rows["roles"] = np.array([roles[name] for name in names])
        if self.spec.has_masks or mask is not None:
            rows["mask"] = self._masks(dict(zip(who, names, strict=True)), obs, mask)
        carried = None
        if self.recurrent and state:
            nothing = np.zeros(self._hidden_size, np.float32)  # for agents without a previous state
            held = self._keys(state, "state")
            carried = np.stack([state[held[n]] if n in held else nothing for n in who])
        actions, after = self.choose(padded, carried, agents=who, greedy=greedy, **rows)
        row_of_agent = dict(zip(who, actions, strict=True))
        own = {name: self.spec.action_of(n, row_of_agent[n]) for n, name in present.items()}
        if not (self.spec.continuous or self.spec.views or self.spec.choices):
            own = {name: int(choice) for name, choice in own.items()}
        return own, None if after is None else dict(zip(names, after, strict=True))

    def _masks(self, names: Mapping[int, str], obs: Mapping[str, Any], given: Mapping[str, Any] | None) -> np.ndarray:
        """Masks of some agents, given by name or in their observations, as bool [n, action_size]; absent ones: all."""
        masks, missing = np.zeros((len(names), self.spec.action_size), bool), []
        for row, (n, name) in zip(masks, names.items(), strict=True):
            if name not in obs or (given is not None and name in given and given[name] is None):
                row[: self.spec.action_sizes[n]] = True
                continue
            own = mask_of(self.spec, n, obs[name], None if given is None else given.get(name))
            if own is None:
                missing.append(name)
            else:
                row[: len(own)] = own
        if missing:
            raise ValueError(
                f"mask of {missing} is missing: the environment says which choices are available. Give mask, bool "
                "[choices] of each agent by name (None: all choices)."
            )
        return masks
