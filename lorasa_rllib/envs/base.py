"""Interface of vectorised team environments: E copies stepped together, arrays in and out.

Arrays are NumPy's, or tensors on the device where the environment computes (`VectorTeamEnv.device`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Generic, Self

import numpy as np
from typing_extensions import TypeVar

from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from torch import Tensor, device

Array = TypeVar("Array", np.ndarray, "Tensor", default=np.ndarray)
"""What an environment computes with."""


class TeamEnvError(ValueError):
    """Raised when an environment fails or returns data that cannot be used for training.

    Env runners discard the round and rebuild their environments; if the error persists, the run ends. An error raised
    by the environment itself is attached as `__cause__`.
    """


@dataclass(frozen=True)
class Worker:
    """The env runner that owns a copy; lets constructors choose ports, files or licences per runner.

    worker_index: 0 in the driver's process, 1 .. num_workers for remote env runners.
    num_workers:  number of remote env runners.
    num_envs:     copies per env runner.
    recreated_worker: whether the env runner or its environments were restarted after a failure.
    in_evaluation: whether this is an evaluation env runner; these are numbered separately, also from 0 or 1.
    """

    worker_index: int = 0
    num_workers: int = 0
    num_envs: int = 1
    recreated_worker: bool = False
    in_evaluation: bool = False


@dataclass
class TeamStep(Generic[Array]):
    """Result of one step (or reset) of E environments. Buffers are reused: copy what must outlive the next call.

    All fields are arrays of the environment's kind, on its device, but for `ended`, `won` and `metrics`, which are
    always on the host.

    Environments whose episode ended have already been reset: `obs`, `state`, `active`, `masks` and `roles` belong to
    the first step of the next episode; `final_obs` and `final_state` hold the true last observation and global state.

    obs         float32 [E, N, obs_size], zero where padded        state       float32 [E, S], or [E, N, S] with
                                                                   `TeamSpec.state_per_agent`; likewise below
    rewards     float32 [E, R], R = 1 (shared) or N                terminated, truncated  bool [E], never both
    active      bool [E, N], False for dead agents                 masks       bool [E, N, action_size] or None; at
                                                                   least one True per row, even for dead agents
    roles       int64 [E, N] or None
    ended       int64 [F] indices of the environments whose episode ended with this step
    final_obs   float32 [F, N, obs_size]                           final_state float32 [F, S]
    won         bool [F] or None: battles won, for environments with a win flag
    left        bool [E, N] or None: agents whose own return ended with this step, if each has its own reward
    cut         bool [E, N] or None: agents that were truncated while teammates continue
    cut_obs     float32 [C, N, obs_size]                           cut_state   float32 [C, S]: the true last values of
                                                                   the C environments that contain such an agent
    metrics     F dictionaries or None: numbers reported by the environment for each ended episode
    """

    obs: Array
    state: Array
    rewards: Array
    terminated: Array
    truncated: Array
    active: Array
    ended: np.ndarray
    final_obs: Array
    final_state: Array
    masks: Array | None = None
    roles: Array | None = None
    won: np.ndarray | None = None
    left: Array | None = None
    cut: Array | None = None
    cut_obs: Array | None = None
    cut_state: Array | None = None
    metrics: Sequence[Mapping[str, float]] | None = None

    def on_host(self) -> TeamStep[np.ndarray]:
        """The same step as NumPy arrays: views of tensors on the CPU, copies of those on other devices."""
        if isinstance(self.obs, np.ndarray):
            return self  # type: ignore[return-value]
        tensors = {f.name: value for f in fields(self) if hasattr(value := getattr(self, f.name), "cpu")}
        return replace(self, **{name: tensor.cpu().numpy() for name, tensor in tensors.items()})  # type: ignore


class VectorTeamEnv(ABC, Generic[Array]):
    """E copies of a team environment in lock step.

        env = MAMuJoCo(num_envs=16, scenario="HalfCheetah", agent_conf="6x1")
        step = env.reset(seed=0)
        step = env.step(actions)        # actions float32 [E, N, action_size], int64 [E, N] or [E, N, components]
        env.close()

    Continuous actions are in the environment's own units (`TeamSpec.action_bounds`); padded entries are ignored. The
    step that ends an episode also resets its environment. `reset` seeds copy e with `seed + e`; later episodes continue
    the same random stream, so one seed determines everything that follows.

    device: where the arrays of steps and actions are; None: they are NumPy's, the default.
    """

    spec: TeamSpec
    num_envs: int
    device: device | None = None
    restarts: int = 0  # simulators restarted after a failure
    spec_needs_copy: ClassVar[bool] = False  # True if `team_spec` has to build a copy; such classes implement `grow`
    stepping: int | None = None  # index of the copy being stepped or reset, if sequential; used in error messages

    @classmethod
    @abstractmethod
    def team_spec(cls, **env_config: object) -> TeamSpec:
        """The spec of this environment under `env_config`. Raises ValueError for invalid settings."""

    @classmethod
    def make(
        cls,
        num_envs: int,
        env_config: Mapping[str, object],
        first_seed: int | None = None,
        worker: Worker = Worker(),
    ) -> Self:
        """Builds `num_envs` copies for `worker`. first_seed: the seed that will be passed to the first `reset`."""
        return cls(num_envs, **env_config)  # type: ignore[call-arg]

    def grow(self, num_envs: int) -> None:
        """Adds copies until there are `num_envs`. Only called before the first `reset`."""
        if num_envs != self.num_envs:
            raise NotImplementedError(f"{type(self).__name__} has {self.num_envs} copies and cannot have {num_envs}.")

    def reordered(self, agents: Sequence[str]) -> VectorTeamEnv[Array]:
        """This environment with array rows in the order of `agents`, a permutation of its own."""
        from lorasa_rllib.envs.ordered import OrderedTeam

        return OrderedTeam(self, agents)

    @classmethod
    def check_machine(cls) -> None:
        """Raises ValueError, saying what to install, if something other than a Python package is missing."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> TeamStep[Array]:
        """Starts a new episode in every copy. All `rewards` are zero and `ended` is empty."""

    @abstractmethod
    def step(self, actions: Array) -> TeamStep[Array]:
        """Steps every copy once."""

    def get_state(self) -> Mapping[str, object] | None:
        """None by default: checkpoints do not include episodes in progress."""

    @classmethod
    def to_be_rendered(cls, env_config: Mapping[str, object]) -> dict[str, object]:
        """`env_config` plus the settings required by `render`."""
        return dict(env_config)

    def render(self) -> np.ndarray:
        """RGB image of the first copy, uint8 [height, width, 3]."""
        raise NotImplementedError(f"{type(self).__name__} cannot be rendered.")

    def close(self) -> None:
        """Closes the simulators."""
