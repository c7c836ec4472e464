"""This package's environments and module under RLlib's own, unmodified algorithms, env runners and learners.

    from ray.rllib.algorithms.ppo import PPOConfig
    from lorasa_rllib import map_to_shared_policy, shared_policy_spec

    env_config = {"scenario": "HalfCheetah", "agent_conf": "6x1"}
    config = (
        PPOConfig()
        .environment("mamujoco", env_config=env_config)
        .multi_agent(policies={"shared_policy"}, policy_mapping_fn=map_to_shared_policy)
        .rl_module(rl_module_spec=shared_policy_spec("mamujoco", env_config, sharing="lora", r=8))
    )

This is the slow path (`benchmarks/stock.py`): RLlib handles every agent and step separately. A single Adam steps all
banks, so an adapter without rows in a minibatch still moves by its momentum. The value normaliser is never updated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.typing import MultiAgentDict

from lorasa_rllib.envs.base import TeamEnvError, TeamStep, Worker
from lorasa_rllib.envs.ordered import by_name
from lorasa_rllib.envs.registry import make_environment
from lorasa_rllib.nn.policy import Phase
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.module import AGENT, MASK, OBS, ROLE, STATE
from lorasa_rllib.rllib.spaces import row_spaces
from lorasa_rllib.rllib.teams import order_agents

OF_OUR_ALGORITHMS = (
    "schedule",
    "total_env_steps",
    "phase_switch",
    "backbone_lr_scale",
    "adapter_lr_scale",
    "backbone",
    "fork_from",
)
"""Settings of `TeamConfig.sharing` that control training, which is RLlib's task here."""


class TeamMultiAgentEnv(MultiAgentEnv):
    """One copy of a team environment as an RLlib `MultiAgentEnv` with equal spaces for all agents.

    config: "env", a registered name or a subclass of `VectorTeamEnv`, and its "env_config".

    Agents are indexed in the natural order of their names, as in `shared_policy_spec`, so that all env runners agree.

    Observations are dictionaries: "obs" [obs_size] and "state" [S] float32, "agent" (index) and, if the team has them,
    "action_mask" int8 [choices] and "role". Continuous actions lie in [-1, 1].
    A shared reward is split evenly among the agents that acted, so that the return of RLlib's episode (a sum over
    agents) is the team return. An agent that dies receives a last observation, terminates and stays absent until the
    next episode; its later rewards are lost. The same holds, with a truncation, for an agent that is truncated while
    others continue. An episode ends when the environment ends it or no agent is left; time limits are truncations. Last
    observations mark every action as available, since no action follows.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        inside = config.get("env_config") or {}
        team = make_environment(config["env"], 1, dict(inside), worker=_worker(config, inside))
        order = by_name(team.spec.agents)  # the environment's own order may differ between processes
        self.team = team if team.spec.agents == order else team.reordered(order)
        self.possible_agents = list(self.team.spec.agents)
        self.agents = list(self.possible_agents)
        observation, action = row_spaces(self.team.spec)
        self.observation_spaces = dict.fromkeys(self.agents, observation)
        self.action_spaces = dict.fromkeys(self.agents, action)
        self._index = {agent: n for n, agent in enumerate(self.agents)}
        self._next: TeamStep | None = None  # first step of the next episode, begun by the automatic reset
        self._present = self._gone = np.zeros(len(self.agents), bool)

    @classmethod
    def registered(cls, name: str, env_config: Mapping[str, object]) -> Self:
        """Builds a registered environment, as used by `.environment(name, env_config=...)`."""
        return cls({"env": name, "env_config": env_config})

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[MultiAgentDict, ...]:
        begun = self._next if seed is None else None
        step = self.team.reset(seed).on_host() if begun is None else begun
        self._next = None
        self._present, self._gone = step.active[0].copy(), np.zeros(len(self.agents), bool)
        self._note_roles(step)
        return self._rows(self._present, step.obs[0], step.state[0], step.masks), {}

    def step(self, action_dict: Mapping[str, object]) -> tuple[MultiAgentDict, ...]:
        spec, acted = self.team.spec, self._present
        actions = np.zeros((1, spec.num_agents, spec.action_dims), np.float32 if spec.continuous else np.int64)
        for agent, action in action_dict.items():
            actions[0, self._index[agent]] = action
        step = self.team.step(spec.to_environment(actions)).on_host()
        rewards = self._rewards(step.rewards[0], acted)
        if len(step.ended):
            self._next = step
            last = self._rows(acted, step.final_obs[0], step.final_state[0], None)
            return last, rewards, {"__all__": bool(step.terminated[0])}, {"__all__": bool(step.truncated[0])}, {}
        self._note_roles(step)  # after the episode's last observations, which keep the previous roles
        gone = acted & ~step.active[0]
        cut = np.zeros_like(gone) if step.cut is None else gone & step.cut[0]
        self._gone = self._gone | gone
        self._present = step.active[0] & ~self._gone
        masks = None if step.masks is None else np.where(gone[:, None], True, step.masks)
        terminated, truncated = (
            {self.possible_agents[n]: True for n in np.flatnonzero(who)} for who in (gone & ~cut, cut)
        )
        terminated["__all__"], truncated["__all__"] = not (self._present.any() or cut.any()), False
        rows = self._rows(acted | self._present, step.obs[0], step.state[0], masks)
        if cut.any():
            assert step.cut_obs is not None and step.cut_state is not None
            rows |= self._rows(cut, step.cut_obs[0], step.cut_state[0], None)
            truncated["__all__"] = not self._present.any()
        return rows, rewards, terminated, truncated, {}

    def render(self) -> np.ndarray:
        return self.team.render()

    def close(self) -> None:
        self.team.close()

    def _note_roles(self, step: TeamStep) -> None:
        self._roles = None if step.roles is None else step.roles[0].copy()

    def _rewards(self, rewards: np.ndarray, acted: np.ndarray) -> dict[str, float]:
        who = np.flatnonzero(acted)
        of_each = np.full(len(acted), rewards[0] / len(who)) if self.team.spec.shared_reward else rewards
        return {self.possible_agents[n]: float(of_each[n]) for n in who}

    def _allowed(self, which: np.ndarray, masks: np.ndarray | None) -> np.ndarray | None:
        """int8 [N, choices]; None if the rows have no masks. Raises TeamEnvError if such rows are given a mask."""
        spec = self.team.spec
        if masks is None and not spec.has_masks:
            return None
        allowed = spec.action_mask() if masks is None else masks[0]
        if spec.has_masks:
            return allowed.astype(np.int8)
        restricted = (spec.action_mask() & ~allowed).any(-1) & which
        if restricted.any():
            raise TeamEnvError(
                f"agent {spec.agents[restricted.argmax()]!r} was given an action mask, but the first reset() gave none "
                "to anybody, so the rows of RLlib's own algorithms have no place for it. Let that reset() give one, or "
                "declare it in the observation space."
            )
        return None

    def _rows(
        self, which: np.ndarray, obs: np.ndarray, state: np.ndarray, masks: np.ndarray | None
    ) -> dict[str, dict[str, object]]:
        """Observations of the agents `which` (bool [N]). masks [1, N, choices]; None: every choice is available."""
        obs, state = obs.copy(), state.copy()  # environments reuse their arrays
        allowed = self._allowed(which, masks)
        rows = {}
        for n in np.flatnonzero(which):
            row: dict[str, object] = {OBS: obs[n], AGENT: np.int64(n), STATE: state}
            if allowed is not None:
                row[MASK] = allowed[n]
            if self._roles is not None:
                row[ROLE] = self._roles[n]
            rows[self.possible_agents[n]] = row
        return rows


def _worker(*configs: Mapping[str, object]) -> Worker:
    """The env runner that owns the environment, if one of the dictionaries is RLlib's EnvContext."""
    for config in configs:
        if isinstance(config, EnvContext):
            return Worker(config.worker_index, config.num_workers or 0, recreated_worker=config.recreated_worker)
    return Worker()


def shared_policy_spec(
    env: object,
    env_config: Mapping[str, object] | None = None,
    sharing: str = "lora",
    *,
    phase: Phase | None = None,
    network: Mapping[str, object] | None = None,
    critic_input: str | None = None,
    **options: object,
) -> RLModuleSpec:
    """Spec of the module that all agents of a team share, for `.rl_module(rl_module_spec=...)`.

    env, env_config: the environment, as for `TeamMultiAgentEnv`; a copy is built and closed if its team is not
        known otherwise.
    sharing, options: sharing method and its settings (`r`, `lora_alpha`, `adapter_key` ...), as in
        `TeamConfig.sharing`, except those that control training.
    network, critic_input: as in `TeamConfig.network` and `TeamConfig.training`, but `obs_norm` is "layer" by default.
    phase: what trains; the rest is frozen. None: "joint" (backbone and adapters) if the method has adapters, else
        "backbone". With one learner, a run may change it:
        `algo.learner_group.foreach_learner(lambda learner: learner.module["shared_policy"].policy.set_phase(phase))`;
        with several it may not, as RLlib's gradient reduction fails when parameters freeze during a run.

    Raises ValueError for invalid settings, as `TeamConfig` does.
    """
    if ignored := sorted(set(options) & set(OF_OUR_ALGORITHMS)):
        raise ValueError(
            f"{', '.join(ignored)}: RLlib's algorithms do not know it; choose a phase, or use MAPPOConfig."
        )
    if callable(options.get("adapter_key")):
        raise ValueError("adapter_key as a function needs this package's env runners; use MAPPOConfig, or 'role'.")
    config = TeamConfig().environment(env, env_config=dict(env_config or {}))
    config = config.sharing(sharing, **options).training(critic_input=critic_input)
    config = config.network(obs_norm="layer").network(**(network or {}))  # RLlib's learners do not update statistics
    order_agents(config, by_name(config.team_spec().agents))
    policy = config.plan().policy
    if policy.network.recurrent or policy.network.critic_recurrent:
        raise ValueError("recurrent networks need this package's env runners; use MAPPOConfig, or recurrent=False.")
    if policy.network.normalises_by_statistics:
        raise ValueError(
            f"obs_norm={policy.network.obs_norm!r} needs this package's learners, which update the statistics; use "
            'MAPPOConfig, or obs_norm="layer".'
        )
    spec = config.get_default_rl_module_spec()
    spec.model_config["phase"] = phase or ("joint" if policy.owners.num_adapters else "backbone")
    return spec
