"""Base class of wrappers that change the steps of a team environment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.spec import TeamSpec


class TeamWrapper(VectorTeamEnv[Any]):
    """Wraps `env`, of either kind of arrays, and passes every step through `_changed`.

    spec: describes the changed steps.
    """

    def __init__(self, env: VectorTeamEnv[Any], spec: TeamSpec):
        self.env, self.spec, self.num_envs, self.device = env, spec, env.num_envs, env.device

    @abstractmethod
    def _changed(self, step: TeamStep[Any]) -> TeamStep[Any]:
        """Transforms the result of a reset or step."""

    @classmethod
    def team_spec(cls, **env_config: object) -> TeamSpec:
        raise NotImplementedError(f"the team of {cls.__name__} follows from the environment inside.")

    def reset(self, seed: int | None = None) -> TeamStep[Any]:
        return self._changed(self.env.reset(seed))

    def step(self, actions: object) -> TeamStep[Any]:
        return self._changed(self.env.step(actions))

    @property
    def restarts(self) -> int:  # type: ignore[override]
        return self.env.restarts

    @property
    def stepping(self) -> int | None:  # type: ignore[override]
        return self.env.stepping

    def get_state(self) -> Mapping[str, object] | None:
        return self.env.get_state()

    def render(self) -> np.ndarray:
        return self.env.render()

    def close(self) -> None:
        self.env.close()
