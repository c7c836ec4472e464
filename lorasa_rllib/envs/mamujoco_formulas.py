"""Rewards and ends of Gymnasium's MuJoCo tasks, version 5, for E simulations at once.

Each class repeats the arithmetic of its task's `step` in the same order, so that results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

Task: TypeAlias = Any
"""An environment of Gymnasium's: every formula reads constants of its own task, which the base class lacks."""


def _squares(values: np.ndarray) -> np.ndarray:
    """Sum of squares of each simulation's values [E, ...], in the dtype of `values`."""
    return np.add.reduce(np.square(values).reshape(len(values), -1), axis=1)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Euclidean norm of each row [E, 3]; a dot product of BLAS, as in `np.linalg.norm` of one vector."""
    return np.sqrt(np.matmul(vectors[:, None, :], vectors[:, :, None])[:, 0, 0])


class Formula:
    """Rewards and ends of a task.

    task:    the Gymnasium environment, for its constants.
    arrays:  MjData's arrays of E simulations [E, ...], by name, updated by the code that steps them.
    """

    reads: ClassVar[tuple[str, ...]] = ()  # derived arrays of MjData that are needed; state arrays always exist

    def __init__(self, task: Task, arrays: Mapping[str, np.ndarray]):
        self.task = task
        self.arrays = arrays
        self.qpos, self.qvel = arrays["qpos"], arrays["qvel"]

    def derive(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Numbers float64 [E, D] that observations contain although they are no entries of `raw`, arrays [E, ...]."""
        return np.zeros((len(raw["qpos"]), 0))

    def position(self) -> np.ndarray:
        """Positions float64 [E] along x; some tasks reward their velocity."""
        return self.qpos[:, 0]

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Rewards float64 [E] of a step; `controls` [E, nu] in the dtype in which the library gets actions."""
        raise NotImplementedError

    def fallen(self) -> np.ndarray | bool:
        """bool [E]: episodes that ended with this step; False: none ever does."""
        return False


class Crawler(Formula):
    """HalfCheetah and Swimmer, also with many segments."""

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        task = self.task
        return task._forward_reward_weight * velocity - task._ctrl_cost_weight * _squares(controls)


class Walker(Formula):
    """A body that ends its episode when it is not upright."""

    def healthy(self) -> np.ndarray:
        """bool [E]."""
        task = self.task
        (low, high), (least, most) = task._healthy_z_range, task._healthy_angle_range
        z, angle = self.qpos[:, 1], self.qpos[:, 2]
        return (low < z) & (z < high) & (least < angle) & (angle < most)

    def costs(self, controls: np.ndarray) -> np.ndarray:
        return self.task._ctrl_cost_weight * _squares(controls)

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        task = self.task
        self._healthy = self.healthy()
        return task._forward_reward_weight * velocity + self._healthy * task._healthy_reward - self.costs(controls)

    def fallen(self) -> np.ndarray | bool:
        return ~self._healthy if self.task._terminate_when_unhealthy else False


class Hopper(Walker):
    def healthy(self) -> np.ndarray:
        low, high = self.task._healthy_state_range
        rest, qvel = self.qpos[:, 2:], self.qvel
        within = ((low < rest) & (rest < high)).all(axis=1) & ((low < qvel) & (qvel < high)).all(axis=1)
        return within & super().healthy()


class Ant(Walker):
    """Ants, also with many segments."""

    reads = ("xpos", "cfrc_ext")

    def __init__(self, task: Task, arrays: Mapping[str, np.ndarray]):
        super().__init__(task, arrays)
        self._x = arrays["xpos"][:, task.data.body(task._main_body).id, 0]

    def position(self) -> np.ndarray:
        return self._x

    def healthy(self) -> np.ndarray:
        low, high = self.task._healthy_z_range
        z = self.qpos[:, 2]
        finite = np.isfinite(self.qpos).all(axis=1) & np.isfinite(self.qvel).all(axis=1)
        return finite & (low <= z) & (z <= high)

    def costs(self, controls: np.ndarray) -> np.ndarray:
        task = self.task
        contact = task._contact_cost_weight * _squares(np.clip(self.arrays["cfrc_ext"], *task._contact_force_range))
        return super().costs(controls) + contact


class Humanoid(Walker):
    reads = ("xipos", "cfrc_ext")

    def position(self) -> np.ndarray:
        mass = self.task.model.body_mass
        return np.einsum("b,ebj->ej", mass, self.arrays["xipos"])[:, 0] / mass.sum()

    def healthy(self) -> np.ndarray:
        low, high = self.task._healthy_z_range
        z = self.qpos[:, 2]
        return (low < z) & (z < high)

    def costs(self, controls: np.ndarray) -> np.ndarray:
        task = self.task
        contact = task._contact_cost_weight * _squares(self.arrays["cfrc_ext"])
        return super().costs(self.arrays["ctrl"]) + np.clip(contact, *task._contact_cost_range)


class Standup(Formula):
    reads = ("cfrc_ext",)

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        task = self.task
        control = task._ctrl_cost_weight * _squares(self.arrays["ctrl"])
        impact = np.clip(task._impact_cost_weight * _squares(self.arrays["cfrc_ext"]), *task._impact_cost_range)
        return self.qpos[:, 2] / task.model.opt.timestep - control - impact + 1


class Reacher(Formula):
    reads = ("xpos",)

    def __init__(self, task: Task, arrays: Mapping[str, np.ndarray]):
        super().__init__(task, arrays)
        self._tip, self._target = (task.data.body(name).id for name in ("fingertip", "target"))

    def derive(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        angles = raw["qpos"][:, :2]
        return np.concatenate([np.cos(angles), np.sin(angles), self._to_target(raw["xpos"])], axis=1)

    def _to_target(self, xpos: np.ndarray) -> np.ndarray:
        """float64 [E, 3]."""
        return xpos[:, self._tip] - xpos[:, self._target]

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        task = self.task
        distance = -_lengths(self._to_target(self.arrays["xpos"])) * task._reward_dist_weight
        return distance + -_squares(controls) * task._reward_control_weight


class Pusher(Formula):
    reads = ("xpos",)

    def __init__(self, task: Task, arrays: Mapping[str, np.ndarray]):
        super().__init__(task, arrays)
        self._object, self._tips, self._goal = (task.data.body(name).id for name in ("object", "tips_arm", "goal"))

    def rewards(self, controls: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        xpos, task = self.arrays["xpos"], self.task
        thing = xpos[:, self._object]
        near = -_lengths(thing - xpos[:, self._tips]) * task._reward_near_weight
        distance = -_lengths(thing - xpos[:, self._goal]) * task._reward_dist_weight
        return distance + -_squares(controls) * task._reward_control_weight + near


_OF_TASK: dict[str, type[Formula]] = {
    "half_cheetah_v5:HalfCheetahEnv": Crawler,
    "swimmer_v5:SwimmerEnv": Crawler,
    "walker2d_v5:Walker2dEnv": Walker,
    "hopper_v5:HopperEnv": Hopper,
    "ant_v5:AntEnv": Ant,
    "humanoid_v5:HumanoidEnv": Humanoid,
    "humanoidstandup_v5:HumanoidStandupEnv": Standup,
    "reacher_v5:ReacherEnv": Reacher,
    "pusher_v5:PusherEnv": Pusher,
}


def formula_of(task: Task) -> type[Formula] | None:
    """The formula of a task; None for a class other than Gymnasium's own, whose `step` may do anything."""
    kind = type(task)
    module, _, name = kind.__module__.rpartition(".")
    return _OF_TASK.get(f"{name}:{kind.__name__}") if module == "gymnasium.envs.mujoco" else None
