"""The interface of a vectorised team environment: E copies of one environment stepped together, arrays in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lorasa_rllib.spec import TeamSpec


class TeamEnvError(ValueError):
    """What an environment did cannot be learned from, or its own error.

    Env runners lose the round and make their environments anew; if that does not help, it ends the run. One that was
    raised in place of the environment's own error has that as its cause.
    """


@dataclass(frozen=True)
class Worker:
    """Whose copies of an environment these are: for constructors that need ports, files or licences of their own.

    worker_index: 0 in the driver's process, 1 .. num_workers for remote env runners.
    num_workers:  remote env runners.
    num_envs:     copies for each env runner.
    recreated_worker: whether it was started again after a failure, or its environments were.
    in_evaluation: whether it evaluates: evaluation has env runners of its own, counted from 0 or 1, too.
    """

    worker_index: int = 0
    num_workers: int = 0
    num_envs: int = 1
    recreated_worker: bool = False
    in_evaluation: bool = False


@dataclass
class TeamStep:
    """What E environments answer to one step (or to a reset). Buffers are reused: copy what must outlive the next call.

    An environment whose episode ended was already reset: `obs`, `state`, `active`, `masks`, `roles` belong to the first
    step of its next episode, and the true last observation and state stand in `final_obs` and `final_state`.

    obs         float32 [E, N, obs_size], zero where padded        state       float32 [E, S]
    rewards     float32 [E, R], R = 1 (shared) or N                terminated, truncated  bool [E], never both
    active      bool [E, N], False for dead agents                 masks       bool [E, N, action_size] or None,
                                                                   each row, dead ones too, with some choice
    roles       int64 [E, N] or None
    ended       int64 [F] indices of the environments whose episode ended with this step
    final_obs   float32 [F, N, obs_size]                           final_state float32 [F, S]
    won         bool [F] or None: battles won, for environments with a win flag
    left        bool [E, N] or None: agents whose own return ended with this step, where each has its own reward
    cut         bool [E, N] or None: agents that were truncated while others of their team go on
    cut_obs     float32 [C, N, obs_size]                           cut_state   float32 [C, S], the true last ones of
                                                                   the C environments with any such agent
    metrics     F dictionaries or None: numbers that the environment reports about each episode that ended
    """

    obs: np.ndarray
    state: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    active: np.ndarray
    ended: np.ndarray
    final_obs: np.ndarray
    final_state: np.ndarray
    masks: np.ndarray | None = None
    roles: np.ndarray | None = None
    won: np.ndarray | None = None
    left: np.ndarray | None = None
    cut: np.ndarray | None = None
    cut_obs: np.ndarray | None = None
    cut_state: np.ndarray | None = None
    metrics: Sequence[Mapping[str, float]] | None = None


class VectorTeamEnv(ABC):
    """E copies of a team environment in lock step.

        env = MAMuJoCo(num_envs=16, scenario="HalfCheetah", agent_conf="6x1")
        step = env.reset(seed=0)
        step = env.step(actions)        # actions float32 [E, N, action_size], int64 [E, N] or [E, N, components]
        env.close()

    Continuous actions are in the environment's own units (`TeamSpec.action_bounds`), padded entries are ignored.
    Episodes restart by themselves within the step that ends them. Copy e is seeded with `seed + e` at `reset`; later
    episodes continue its random stream, so a seed fixes everything that follows.
    """

    spec: TeamSpec
    num_envs: int
    restarts: int = 0  # simulators that failed and were started again
    spec_needs_copy: ClassVar[bool] = False  # whether `team_spec` has to build a copy; such classes have `grow`
    stepping: int | None = None  # the copy that is being stepped or reset, for messages, where they take turns

    @classmethod
    @abstractmethod
    def team_spec(cls, *args: Any, **env_config: Any) -> TeamSpec:
        """The spec of this environment under `env_config`. Starts no simulation. Raises ValueError for bad settings."""

    @classmethod
    def make(
        cls,
        num_envs: int,
        env_config: Mapping[str, Any],
        first_seed: int | None = None,
        worker: Worker = Worker(),
    ) -> Self:
        """`num_envs` copies. first_seed: the one that the first `reset` will have. worker: whose they are."""
        return cls(num_envs, **env_config)  # type: ignore[call-arg]

    def grow(self, num_envs: int) -> None:
        """Adds copies until there are `num_envs`; called before the first `reset`, if at all."""
        if num_envs != self.num_envs:
            raise NotImplementedError(f"{type(self).__name__} has {self.num_envs} copies and cannot have {num_envs}.")

    def reordered(self, agents: Sequence[str]) -> VectorTeamEnv:
        """This environment with the rows of its arrays in the order of `agents`, which are all of its own."""
        from lorasa_rllib.envs.ordered import OrderedTeam

        return OrderedTeam(self, agents)

    @classmethod  # noqa: B027 - optional
    def check_machine(cls) -> None:
        """Raises ValueError if something beyond Python packages is missing on this machine, with what to install."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> TeamStep:
        """Starts a new episode in every copy. `rewards` are zero and nothing has ended."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> TeamStep:
        """Steps every copy once."""

    def get_state(self) -> Mapping[str, Any] | None:  # noqa: B027 - optional
        """Nothing by default: episodes in progress are not part of a checkpoint."""

    @classmethod
    def to_be_rendered(cls, env_config: Mapping[str, Any]) -> dict[str, Any]:
        """`env_config` with what `render` needs."""
        return dict(env_config)

    def render(self) -> np.ndarray:
        """RGB picture uint8 [height, width, 3] of the first copy."""
        raise NotImplementedError(f"{type(self).__name__} cannot be rendered.")

    def close(self) -> None:  # noqa: B027 - optional
        """Frees the simulators."""
