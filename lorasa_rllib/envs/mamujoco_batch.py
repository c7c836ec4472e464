"""MuJoCo simulations stepped by one native call, `mujoco.batch.Batch.step`: for tasks with a formula.

`mujoco.batch` came with mujoco 4. Older versions stay supported: they step the library's environments one after another
(`mamujoco_loop`), with the same results. That loop is needed anyway, for tasks without a formula, and other packages
may keep mujoco below 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lorasa_rllib.envs.mamujoco_formulas import Formula, formula_of
from lorasa_rllib.envs.mamujoco_gather import DERIVED, RawEntries, find_origins
from lorasa_rllib.envs.mamujoco_loop import local_observations

if TYPE_CHECKING:
    from gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi import MultiAgentMujocoEnv


class CannotBatchError(Exception):
    """These simulations have to be stepped by the library; the message says why."""


class NativeBatch:
    """E simulations in one `Batch`, with rewards, ends and observations computed for all of them at once.

    Equal to `LibraryLoop`, whose arrays these are, step by step and across resets. One library environment serves all
    simulations: it draws the first state of each episode, from the random generator of the simulation concerned.

    library:    a library environment.
    width:      padded size of local observations; None: agents observe the global state.
    threads:    number of threads that step simulations, the caller's included.

    `mj_step` does not compute the contact forces on bodies, `cfrc_ext`: the library calls `mj_rnePostConstraint` after
    it. So does this class, on a copy of each simulation that has contacts; forces of the others are zero.

    Raises CannotBatchError.
    """

    def __init__(
        self, library: MultiAgentMujocoEnv, num_envs: int, width: int | None, state_size: int, threads: int = 1
    ):
        import mujoco

        task = library.single_agent_env.unwrapped
        formula = formula_of(task)
        if formula is None:
            raise CannotBatchError(f"rewards of {type(task).__name__} can only be computed by its own step")
        if task.render_mode == "human":
            raise CannotBatchError('render_mode="human" shows each step of the library')
        try:
            from mujoco.batch import Batch
        except ImportError:
            raise CannotBatchError(
                f'mujoco {mujoco.__version__} has no mujoco.batch; pip install "mujoco>=4"'
            ) from None

        self._library, self._task, self._mujoco = library, task, mujoco
        self._frames, self._seconds = task.frame_skip, task.dt
        self._batch = Batch(task.model, num_envs, threads, persistent=True)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._forces = np.zeros((num_envs, task.model.nbody, 6))
        self._contacts = self._batch.bind("ncon")
        self._arrays = {name: self._bound(name) for name in ("qpos", "qvel", "ctrl", *formula.reads)}
        self._controls = self._arrays["ctrl"]
        self._formula: Formula = formula(task, self._arrays)
        self._position = np.zeros(num_envs)

        groups = [find_origins(lambda: [task._get_obs()], task.data, self._formula.derive)]
        if width is not None:
            groups.append(find_origins(lambda: local_observations(library, task.data), task.data, self._formula.derive))
        mujoco.mj_resetData(task.model, task.data)
        if any(len(group.computed) for group in groups):
            raise CannotBatchError("some observations have entries that only the library can compute")
        self._raw = RawEntries(groups, num_envs)
        self._sources = [
            (self._raw.values[:, columns], self._bound(name).reshape(num_envs, -1))
            for name, columns in self._raw.columns.items()
            if name != DERIVED
        ]
        self._derived = self._raw.columns.get(DERIVED)
        self._state_gather = self._raw.gather(groups[0], state_size)
        self._obs_gather = None if width is None else self._raw.gather(groups[1], width)
        read = {*formula.reads, *self._raw.columns}
        self._reads_forces = "cfrc_ext" in read
        # New episodes need a forward pass only if something is read that the state does not hold.
        self._needs_forward = bool(read - {"qpos", "qvel", "cfrc_ext"}) or task.render_mode is not None

        self.state = np.zeros((num_envs, state_size), np.float32)
        self.obs = np.zeros((num_envs, len(library.possible_agents), width or state_size), np.float32)
        self.rewards = np.zeros((num_envs, 1), np.float32)
        self.terminated = np.zeros(num_envs, bool)

    def begin(self, which: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Starts new episodes in the simulations `which`, in ascending order."""
        from gymnasium.utils.seeding import np_random

        task, whole_state = self._task, self._mujoco.mjtState.mjSTATE_INTEGRATION
        for e, seed in zip(which, seeds, strict=True):
            generator = self._generators[e]
            if generator is None or seed is not None:
                generator = self._generators[e] = np_random(seed)[0]
            task.np_random = generator
            task.reset()
            self._mujoco.mj_getState(task.model, task.data, self._batch.state[e], whole_state)
            self._forces[e] = task.data.cfrc_ext
        ids = np.asarray(which, np.int32)
        if self._needs_forward:
            self._batch.forward(ids)
        self._position[ids] = self._formula.position()[ids]
        self._observe(ids)

    def step(self, controls: np.ndarray) -> None:
        """Steps all simulations. controls: [E, nu] in the library's dtype."""
        self._controls[...] = controls
        self._batch.step(nstep=self._frames)
        if self._reads_forces:
            self._compute_forces()
        position = self._formula.position()
        velocity = (position - self._position) / self._seconds
        self._position[:] = position
        self.rewards[:, 0] = self._formula.rewards(controls, velocity)
        self.terminated[:] = self._formula.fallen()
        self._observe(None)

    def render(self) -> np.ndarray:
        self._batch.get_data(0, self._task.data)
        return self._task.render()

    def close(self) -> None:
        self._library.close()

    def _bound(self, name: str) -> np.ndarray:
        """A live array of MjData, float64 [E, ...]."""
        return self._forces if name == "cfrc_ext" else self._batch.bind(name)

    def _compute_forces(self) -> None:
        task, forces = self._task, self._forces
        forces[:] = 0.0
        some = self._contacts > 0
        for e in range(len(forces)) if task.model.neq else np.flatnonzero(some).tolist():
            self._batch.get_data(e, task.data)
            self._mujoco.mj_rnePostConstraint(task.model, task.data)
            forces[e] = task.data.cfrc_ext

    def _observe(self, only: np.ndarray | None) -> None:
        rows = slice(None) if only is None else only
        for entries, source in self._sources:
            entries[rows] = source[rows]
        if self._derived is not None:
            self._raw.values[:, self._derived] = self._formula.derive(self._arrays)
        self._state_gather.write(self.state, only)
        if self._obs_gather is None:
            self.obs[rows] = self.state[rows, None]
        else:
            self._obs_gather.write(self.obs, only)
