"""SMAX: StarCraft-like battles in JAX (package `jaxmarl`); one call steps all E battles of a runner.

Differs from StarCraft: six unit types without shields, healing or splash damage, no no-op (the dead may only "stop"),
walls kill, the reward is the fraction of enemy health removed plus 1 for a won battle (at most 2), and the time limit
is 101 steps (`max_steps=100` of the package, which counts from 0). Win rates are not comparable with those on SMAC's
maps of the same name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lorasa_rllib.envs.agent_states import StateKind, check_state_kind, is_death_masked
from lorasa_rllib.envs.base import Array, TeamStep, VectorTeamEnv
from lorasa_rllib.envs.jax_setup import import_jax
from lorasa_rllib.envs.settings import whole_number
from lorasa_rllib.envs.smax_arrays import BattleArrays, arrays_of_battles
from lorasa_rllib.envs.smax_options import Value, checked_options, for_package
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    import jax
    import torch

    from lorasa_rllib.envs.smax_battles import Battles, Carry

logger = logging.getLogger(__name__)

OURS = ("map_name", "state", "death_mask", "max_episode_steps", "id_capacity")
"""Settings of `SMAXTeam` that are not options of the package."""

RENEWED = 8
"""Each call that starts new battles starts max(1, E / RENEWED) of them, as few battles end in the same step."""


class SMAXTeam(VectorTeamEnv[Array]):
    """E battles against the scripted enemy of SMAX.

    map_name:   a scenario of the package: 3m, 2s3z, 3s5z, 5m_vs_6m, ..., or smacv2_5_units, smacv2_10_units,
                smacv2_20_units, which draw new unit types and positions for every battle.
    state:      the global state.
                "global": health, position, cooldown and type of all units, [E, S].
                "agent":  per agent, the same with its own observation and one-hot id appended, [E, N, S].
                "pruned": per agent, all units with positions relative to it, their last actions, whether it sees them,
                          its own position and its id: like "agent" without features that occur in both observation and
                          global state ("feature-pruned" in MAPPO, Yu et al. 2022), [E, N, S].
    death_mask: for "agent" and "pruned": dead agents have zeros and their id (MAPPO's death masking); the default.
    max_episode_steps: time limit of a battle in steps; by default the package's own.
    id_capacity: see `TeamSpec`.
    device:     where the battles are computed and stay, "cpu" or "cuda", as tensors; None, the default: NumPy arrays.
    options:    of the package's `HeuristicEnemySMAX`, such as `attack_mode`, `see_enemy_actions`,
                `walls_cause_death`, `won_battle_bonus`, or `unit_type_health` (six numbers). Options determined by the
                map, such as `num_allies`, are rejected.

    Agents are the allied units. Roles are their unit types (marine, marauder, stalker, zealot, zergling, hydralisk);
    dead agents keep theirs. The first reset for each map and number of battles compiles, which takes a few seconds;
    later runs use JAX's cache on disk.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        map_name: str = "3s5z",
        state: StateKind = "global",
        death_mask: bool | None = None,
        max_episode_steps: int = 101,
        id_capacity: int = 0,
        device: str | torch.device | None = None,
        **options: object,
    ):
        self.spec = self.team_spec(map_name, state, death_mask, max_episode_steps, id_capacity, device, **options)
        self.num_envs = num_envs
        masked = is_death_masked(state, death_mask)
        self._battles: Battles = _battles(map_name, int(max_episode_steps), state, masked, options, device)
        self._arrays: BattleArrays[Array] = arrays_of_battles(device)
        self.device = None if device is None else self._arrays.device
        self._carry: Carry | None = None
        self._called: tuple[str, int] = (map_name, num_envs)
        self._at_once: int = max(1, num_envs // RENEWED)
        spec: TeamSpec = self.spec
        shape: tuple[int, int] = (num_envs, spec.num_agents)
        zeros = self._arrays.zeros
        self._obs: Array = zeros((*shape, spec.obs_size), np.float32)
        self._state: Array = zeros((num_envs, *spec.state_shape), np.float32)
        self._masks: Array = zeros((*shape, spec.action_size), bool)
        self._active: Array = zeros(shape, bool)
        self._roles: Array = zeros(shape, np.int64)

    @classmethod
    def team_spec(  # type: ignore[override]
        cls,
        map_name: str = "3s5z",
        state: StateKind = "global",
        death_mask: bool | None = None,
        max_episode_steps: int = 101,
        id_capacity: int = 0,
        device: str | torch.device | None = None,
        **options: object,
    ) -> TeamSpec:
        check_state_kind(state)
        steps = whole_number("max_episode_steps", max_episode_steps, 1)
        battles = _battles(map_name, steps, state, is_death_masked(state, death_mask), options, device)
        library = battles.library
        agents = tuple(library.agents)
        return TeamSpec(
            agents=agents,
            obs_sizes=(int(library.obs_size),) * len(agents),
            action_kind="discrete",
            action_sizes=(int(library.num_ally_actions),) * len(agents),
            state_size=battles.state_size,
            state_per_agent=state != "global",
            num_roles=len(library.unit_type_names),
            has_masks=True,
            id_capacity=whole_number("id_capacity", id_capacity),
        )

    def reset(self, seed: int | None = None) -> TeamStep[Array]:
        first = self._carry is None
        if first:
            logger.warning("SMAX %s: compiling for %d battles, a few seconds the first time.", *self._called)
        began = time.perf_counter()
        if seed is None and not first:
            self._renew(np.arange(self.num_envs))
        else:
            seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
            seeds = (seed + np.arange(self.num_envs)) % 2**32
            self._carry, seen = self._battles.begin(self._arrays.seeds(seeds.astype(np.uint32)))
            self._look(slice(None), seen)
        if first:  # compile the other two functions now, covered by the log message, not during a round
            self._battles.step(self._carry, self._arrays.to_jax(self._roles))
            self._battles.renew(self._carry, np.full(self._at_once, self.num_envs, np.int32))
            logger.warning("SMAX %s, %d battles: compiled in %.0f s.", *self._called, time.perf_counter() - began)
        none = self._arrays.zeros((self.num_envs,), bool)
        rewards = self._arrays.zeros((self.num_envs, 1), np.float32)
        nobody = np.zeros(0, np.int64)
        return self._answer(rewards, none, none, nobody, nobody.astype(bool), self._obs[:0], self._state[:0])

    def step(self, actions: Array) -> TeamStep[Array]:
        arrays = self._arrays
        self._carry, seen, *outcome = self._battles.step(self._carry, arrays.to_jax(actions))
        self._look(slice(None), seen)
        rewards, ended, cut, won = map(arrays.of_jax, outcome)
        over = np.flatnonzero(arrays.host(ended))
        which = arrays.of_host(over)
        final_obs, final_state = self._obs[which], self._state[which]  # copies
        if len(over):
            self._renew(over)
        return self._answer(rewards[:, None], ended, cut, over, arrays.host(won)[over], final_obs, final_state)

    def render(self) -> np.ndarray:
        """Draws the first battle with the package's renderer: allies blue, enemies green, lighter when under attack."""
        import jax
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if self._carry is None:
            raise ValueError("there is no battle yet: call reset() first.")
        game = self._battles.library._env
        units = jax.device_get(jax.tree.map(lambda x: x[0], self._carry[1]))
        figure = Figure(figsize=(4.8, 4.8), layout="constrained")
        canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
        shots = dict(zip(game.agents, units.prev_attack_actions.tolist(), strict=True))
        with jax.disable_jit():  # otherwise its conditionals would be recompiled for every image
            picture = game.init_render(axes, (None, units, shots), 0, int(units.step))
        picture.remove()  # duplicates everything drawn on top of it
        axes.set(xlim=(0, game.map_width), ylim=(0, game.map_height), aspect="equal")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _renew(self, which: np.ndarray) -> None:
        """Starts new battles, a fixed number per call, since every other number would be compiled separately."""
        for start in range(0, len(which), self._at_once):
            some = which[start : start + self._at_once]
            places = np.full(self._at_once, self.num_envs, np.int32)  # out of range: ignored
            places[: len(some)] = some
            self._carry, seen = self._battles.renew(self._carry, places)
            self._look(self._arrays.of_host(some), seen)

    def _look(self, which: slice | Array, seen: Sequence[jax.Array]) -> None:
        """Copies what is seen of the battles `which`, rows first, to this environment's own arrays."""
        rows = slice(None) if isinstance(which, slice) else slice(len(which))
        mine: list[Array] = [self._obs, self._state, self._active, self._masks, self._roles]
        for own, shown in zip(mine, map(self._arrays.of_jax, seen), strict=True):
            own[which] = shown[rows]

    def _answer(
        self,
        rewards: Array,
        ended: Array,
        cut: Array,
        over: np.ndarray,
        won: np.ndarray,
        final_obs: Array,
        final_state: Array,
    ) -> TeamStep[Array]:
        return TeamStep(
            obs=self._obs,
            state=self._state,
            rewards=rewards,
            terminated=ended & ~cut,
            truncated=cut,
            active=self._active,
            ended=over,
            final_obs=final_obs,
            final_state=final_state,
            masks=self._masks,
            roles=self._roles,
            won=won,
        )


def _battles(
    map_name: str,
    max_steps: int,
    state: str,
    death_mask: bool,
    options: dict[str, object],
    device: str | torch.device | None,
) -> Battles:
    """The compiled functions of a map, shared by all environments in a process."""
    if not isinstance(map_name, str):
        raise ValueError(f"map_name={map_name!r} must be the name of one map, such as '3s5z'.")
    import_jax(on_gpus=device is not None and str(device) != "cpu")
    return _made(map_name, max_steps, state, death_mask, checked_options(options, OURS))


@lru_cache(maxsize=32)
def _made(
    map_name: str, max_steps: int, state: str, death_mask: bool, options: tuple[tuple[str, Value], ...]
) -> Battles:
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    from lorasa_rllib.envs.smax_battles import Battles

    if map_name not in MAP_NAME_TO_SCENARIO:
        raise ValueError(
            f"map_name={map_name!r} is unknown to SMAX in this process; choose one of {sorted(MAP_NAME_TO_SCENARIO)}. "
            "A scenario of your own must be registered in every process, those of env runners too: call "
            "register_scenario in a module that also has a subclass of SMAXTeam, and use that class as the environment."
        )
    scenario = MAP_NAME_TO_SCENARIO[map_name]
    # The package compares with the number of steps before the current one: its battles last one step more.
    library = HeuristicEnemySMAX(scenario=scenario, max_steps=max_steps - 1, **for_package(options))
    return Battles(library, state, death_mask)
