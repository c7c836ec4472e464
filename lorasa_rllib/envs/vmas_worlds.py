"""E worlds of a scenario of VMAS, stepped as one batch: the package's `Environment.step` without what training ignores.

That is its information dictionaries, copies, and checks of actions that are within their bounds. Everything else is the
package's, in its order: actions, scenario, physics, rewards, observations, ends.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasa_rllib.envs.vmas_actions import ActionTable
from lorasa_rllib.install import installing
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from types import ModuleType

    from vmas.simulator.scenario import BaseScenario

RENAMED = {
    "max_steps": "max_episode_steps",
    "num_envs": "num_envs_per_env_runner of .env_runners(...)",
    "seed": "the seed of .debugging(...)",
    "clamp_actions": "nothing: actions are always within their bounds",
    "dict_spaces": "nothing: agents have their names in any case",
    "terminated_truncated": "nothing: the two are always told apart",
    "grad_enabled": "the package itself: gradients through the simulator are not supported",
    "wrapper": "nothing",
}
"""Settings of `vmas.make_env` that are not options of scenarios -> what to use instead."""


class Worlds:
    """num_envs worlds of a scenario. actions: "continuous", "discrete", or "components" of discrete ones.

    Draws from the global random generators, see `random_stream`. Raises ValueError for unknown scenarios and options.
    """

    def __init__(
        self, scenario: object, num_envs: int, device: torch.device, actions: str, options: Mapping[str, object]
    ):
        self.scenario = loaded(scenario)
        for name in sorted(set(options) & set(RENAMED)):
            raise ValueError(f"{name}={options[name]!r} is not an option of a scenario; use {RENAMED[name]}.")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Scenario kwargs", UserWarning)  # options that it does not know
                self.world = self.scenario.env_make_world(num_envs, device, **options)
        except (UserWarning, AssertionError, TypeError) as error:
            reason = str(error).partition(". This will turn")[0] or type(error).__name__
            raise ValueError(f"scenario {scenario!r} of VMAS refuses these options: {reason}") from error
        self.agents = self.world.policy_agents
        self._table = ActionTable(self.world, self.agents, actions)
        self._reset()
        self._sizes = [entries.shape[1] for entries in self._observations()]
        self._padded = None
        if len(set(self._sizes)) > 1:
            self._padded = torch.zeros(num_envs, len(self.agents), max(self._sizes), device=device)

    def spec(self, id_capacity: int) -> TeamSpec:
        """The team of the scenario."""
        return TeamSpec(
            agents=tuple(agent.name for agent in self.agents),
            obs_sizes=tuple(self._sizes),
            state_size=sum(self._sizes),
            shared_reward=False,
            id_capacity=id_capacity,
            **self._table.spec(),
        )

    def reset(self) -> Tensor:
        """Starts new episodes everywhere. Returns observations [E, N, o]."""
        self._reset()
        return self._padded_observations()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions as for `VectorTeamEnv.step` -> observations [E, N, o], rewards [E, N], terminated bool [E]."""
        scenario, world = self.scenario, self.world
        self._table.act(actions)
        for agent in world.agents:
            scenario.env_process_action(agent)
        scenario.pre_step()
        world.step()
        scenario.post_step()
        rewards = torch.stack([scenario.reward(agent) for agent in self.agents], dim=1)
        return self._padded_observations(), rewards, scenario.done().clone()

    def _reset(self) -> None:
        self.scenario.env_reset_world_at(env_index=None)

    def _observations(self) -> list[Tensor]:
        return [_row(self.scenario.observation(agent)) for agent in self.agents]

    def _padded_observations(self) -> Tensor:
        seen = self._observations()
        if self._padded is None:
            return torch.stack(seen, dim=1)
        for n, entries in enumerate(seen):
            self._padded[:, n, : self._sizes[n]] = entries
        return self._padded


def _row(observation: Tensor | Mapping[str, Tensor]) -> Tensor:
    """An observation, a tensor or nested dictionaries of tensors [E, ...], as [E, o]."""
    if isinstance(observation, Mapping):
        return torch.cat([_row(part) for part in observation.values()], dim=1)
    return observation.flatten(1).float()


def loaded(scenario: object) -> BaseScenario:
    """A new scenario, of a name or class. Raises ValueError if it is unknown, ImportError without the package."""
    vmas = import_vmas()
    if isinstance(scenario, type):
        return scenario()
    known = sorted({*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios})
    if scenario not in known:
        nearest = difflib.get_close_matches(str(scenario), known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ValueError(f"scenario={scenario!r} is unknown to VMAS{hint} It has {known}.")
    return importlib.import_module("vmas.scenarios").load(f"{scenario}.py").Scenario()


def import_vmas() -> ModuleType:
    """The module `vmas`. Raises ImportError with a remedy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old gym, which the package needs for its spaces
            import vmas
    except ModuleNotFoundError as error:
        raise ImportError(
            f'environment "vmas" needs the package {error.name}, which is not installed. Run: {installing("vmas")}'
        ) from error
    return vmas
