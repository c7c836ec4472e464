"""VMAS: two-dimensional physics of teams in PyTorch (package `vmas`); one call steps all E worlds of a runner.

The package is GPL-3, so it is optional and none of its code is here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.devices import checked_device
from lorasa_rllib.envs.random_stream import RandomStream
from lorasa_rllib.envs.settings import flag, whole_number
from lorasa_rllib.envs.vmas_renewal import Renewal
from lorasa_rllib.envs.vmas_worlds import Worlds, import_vmas
from lorasa_rllib.spec import TeamSpec

NOTHING = np.zeros(0, np.int64)


class VMASTeam(VectorTeamEnv[Tensor]):
    """E worlds of a scenario of VMAS, as one batch of tensors.

    scenario: a name, such as "navigation", "balance", "simple_spread" or "het_mass"; or a class of your own, a
              `vmas.simulator.scenario.BaseScenario`.
    device:   where the worlds are computed, "cpu" or "cuda"; observations and everything else stay there.
    continuous_actions: False: discrete actions, each component "stay, back, forth" unless the scenario says otherwise,
              and one choice for each combination of components.
    multidiscrete_actions: with discrete actions, one choice per component instead.
    max_episode_steps: time limit in steps.
    id_capacity: see `TeamSpec`.
    options:  of the scenario, such as `n_agents`, `shared_rew` or `collisions`.

    Agents are those of the scenario that are not scripted. Each has its own reward, as in the package; where the
    scenario gives all the same one, so do these. The global state is the agents' observations in a row.

    All worlds draw from one random stream, as in the package: `reset(seed)` begins the episodes that
    `vmas.make_env(seed=seed)` begins. The worlds of later episodes come from a second batch, which is reset as a whole
    whenever all of its worlds are used (`vmas_renewal.Renewal`): a world at a time costs the package as much as all.
    """

    device: torch.device

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scenario: object = "navigation",
        device: str | torch.device = "cpu",
        continuous_actions: bool = True,
        multidiscrete_actions: bool = False,
        max_episode_steps: int = 100,
        id_capacity: int = 0,
        **options: object,
    ):
        self.device, self.num_envs = checked_device(device), num_envs
        self._limit = whole_number("max_episode_steps", max_episode_steps, 1)
        kind = _kind_of_actions(continuous_actions, multidiscrete_actions)
        self._stream = RandomStream(self.device)

        def worlds(number: int) -> Worlds:
            self._stream.seed(0)  # what a scenario draws for all worlds, such as colours, is the same in both batches
            with self._stream, torch.inference_mode():
                return Worlds(scenario, number, self.device, kind, options)

        self._worlds = worlds(num_envs)
        self._renewal = Renewal(self._worlds, worlds(num_envs + 1))  # the extra one tells the axis of worlds apart
        self.spec = self._worlds.spec(whole_number("id_capacity", id_capacity))
        self._is_new = True
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._active = torch.ones(num_envs, self.spec.num_agents, dtype=torch.bool, device=self.device)
        real = torch.from_numpy(self.spec.obs_mask()).to(self.device).flatten()
        self._shown = None if bool(real.all()) else real.nonzero().squeeze(1)  # entries of the global state

    @classmethod
    def team_spec(  # type: ignore[override]
        cls,
        scenario: object = "navigation",
        device: str | torch.device = "cpu",
        continuous_actions: bool = True,
        multidiscrete_actions: bool = False,
        max_episode_steps: int = 100,
        id_capacity: int = 0,
        **options: object,
    ) -> TeamSpec:
        whole_number("max_episode_steps", max_episode_steps, 1)
        ids = whole_number("id_capacity", id_capacity)
        kind, stream = _kind_of_actions(continuous_actions, multidiscrete_actions), RandomStream(torch.device("cpu"))
        with stream, torch.inference_mode():
            return Worlds(scenario, 1, torch.device("cpu"), kind, options).spec(ids)

    @classmethod
    def check_machine(cls) -> None:
        import_vmas()

    @torch.inference_mode()
    def reset(self, seed: int | None = None) -> TeamStep[Tensor]:
        if seed is not None or self._is_new:
            self._stream.seed(int(np.random.default_rng().integers(2**31)) if seed is None else seed)
            self._renewal.discard()
        self._is_new = False
        with self._stream:
            obs = self._worlds.reset()
        self._steps.zero_()
        none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return self._answer(obs, torch.zeros_like(self._active, dtype=torch.float32), none, none, NOTHING, obs[:0])

    @torch.inference_mode()
    def step(self, actions: Tensor) -> TeamStep[Tensor]:
        """Steps every world once. actions: tensors on the device; arrays, such as `spec.to_environment` gives, too."""
        actions = torch.as_tensor(actions, device=self.device)
        with self._stream:
            obs, rewards, terminated = self._worlds.step(actions)
            self._steps += 1
            truncated = (self._steps >= self._limit) & ~terminated
            which = (terminated | truncated).nonzero().squeeze(1)
            if not len(which):
                return self._answer(obs, rewards, terminated, truncated, NOTHING, obs[:0])
            final_obs = obs[which]
            obs.index_copy_(0, which, self._renewal.renew(which))
            self._steps[which] = 0
        return self._answer(obs, rewards, terminated, truncated, which.cpu().numpy(), final_obs)

    def render(self) -> np.ndarray:
        """Draws the first world; needs no display."""
        from lorasa_rllib.envs.vmas_drawing import picture

        return picture(self._worlds.world, self._worlds.scenario)

    def _answer(
        self,
        obs: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        ended: np.ndarray,
        final_obs: Tensor,
    ) -> TeamStep[Tensor]:
        return TeamStep(
            obs=obs,
            state=self._global_state(obs),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            active=self._active,
            ended=ended,
            final_obs=final_obs,
            final_state=self._global_state(final_obs),
        )

    def _global_state(self, obs: Tensor) -> Tensor:
        """[E, N, o] -> [E, S], without padding."""
        flat = obs.flatten(1)
        return flat if self._shown is None else flat.index_select(1, self._shown)


def _kind_of_actions(continuous: bool, several: bool) -> str:
    continuous, several = flag("continuous_actions", continuous), flag("multidiscrete_actions", several)
    if several and continuous:
        raise ValueError("multidiscrete_actions=True is for discrete actions: set continuous_actions=False, too.")
    return "continuous" if continuous else "components" if several else "discrete"
