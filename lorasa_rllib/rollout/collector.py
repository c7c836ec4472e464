"""The sampling loop: steps E environments in lock step and fills arrays `[T, E, N, ...]`, or plays whole episodes.

collector = Collector(env, Memory(policy.config, env.num_envs, chunk_length=10), seed=0)
rollout, sampled = collector.steps(128, policy.acting(), critic=policy.acting_critic())
played = collector.episodes(32, policy.acting(), draw="mode").episodes
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, Literal

import numpy as np
import torch

from lorasa_rllib.envs.arrays import Arrays, arrays_of
from lorasa_rllib.envs.base import Array, TeamStep, VectorTeamEnv
from lorasa_rllib.nn.acting import Acting
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.rollout.checks import Form, check, named_errors
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.rollout.episodes import EndlessEpisode, EpisodeMeter, EpisodeSummary, Sampled, share_of_slots
from lorasa_rllib.rollout.memory import Memory, RunningCritic
from lorasa_rllib.spec import TeamSpec

Draw = Literal["sample", "mode", "random"]
"""How actions are drawn: sampled, the most likely ones (greedy), or uniformly, independent of the policy."""


class Collector(Generic[Array]):
    """Samples from E environment slots; episodes in progress continue across calls of `steps`.

    Columns are of the environment's kind and on its device, where the actor and `memory` have to be, too.

    seed: of sampled actions; None: from the operating system.
    env_seed: of the first reset of the environments; None: `seed`.
    on_episode_end: called with the summary and slot of every counted episode, in the step that ended it.

    All methods that step environments raise TeamEnvError if one fails or returns unusable data.
    """

    def __init__(
        self,
        env: VectorTeamEnv[Array],
        memory: Memory,
        seed: int | None,
        env_seed: int | None = None,
        on_episode_end: Callable[[EpisodeSummary, int], None] | None = None,
    ):
        self.env: VectorTeamEnv[Array] = env
        self._form = Form(env.spec, env.num_envs)
        self._memory = memory
        self._on_episode_end = on_episode_end
        self._arrays: Arrays[Array] = arrays_of(env.device)
        self._to_environment: Callable[[Array], Array] = self._arrays.to_environment(env.spec)
        self._generator = torch.Generator(self._arrays.device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._env_seed = seed if env_seed is None else env_seed
        self._meter: EpisodeMeter[Array] = EpisodeMeter(env.num_envs, env.spec.reward_width, self._arrays)
        self._step: TeamStep[Array] | None = None

    def restart(self) -> None:
        """Begins a new episode in every slot; seeded the first time, later continuing the random stream."""
        first, self._step = self._step is None, None
        with named_errors(self.env):
            self._step = self.env.reset(self._env_seed if first else None)
        check(self._step, self._form, np.arange(self.env.num_envs))
        self._meter.restart()
        self._memory.clear()

    def steps(
        self, num_steps: int, acting: Acting, draw: Draw = "sample", critic: MergedCritic | None = None
    ) -> tuple[TeamRollout[Array], Sampled]:
        """Collects a rollout of `num_steps` steps of every slot.

        critic: recurrent critic to step along with the actor; None if the critic is feed-forward.
        """
        if self._step is None:
            self.restart()
        assert self._step is not None
        step, sampled = self._step, Sampled.nothing(self.env.spec.num_agents)
        arrays = self._arrays
        rollout = empty_rollout(self.env, num_steps, step, self._memory, arrays)
        values = RunningCritic(critic, self._memory, arrays)
        last = _LastSteps(arrays)
        for t in range(num_steps):
            rollout.obs[t], rollout.state[t], rollout.active[t] = step.obs, step.state, step.active
            if rollout.masks is not None and step.masks is not None:
                rollout.masks[t] = step.masks
            if rollout.roles is not None:
                rollout.roles[t] = step.roles
            self._memory.write(rollout, t, arrays)
            values.record(rollout, t, step)
            step, rollout.actions[t], rollout.log_probs[t] = self._advance(step, acting, draw, sampled)
            rollout.rewards[t] = step.rewards
            rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
            if rollout.left is not None and step.left is not None:
                rollout.left[t] = step.left
            if rollout.cut is not None and step.cut is not None:
                rollout.cut[t] = step.cut
                cut = np.flatnonzero(arrays.host(step.cut).any(1))
                if len(cut):
                    assert step.cut_obs is not None and step.cut_state is not None, "a cut comes with its last step"
                    state = arrays.concatenate([step.cut_state])  # a copy
                    last.add(t, cut, arrays.concatenate([step.cut_obs]), state)
                    values.record_final(cut, state)
            if len(step.ended):
                of = np.flatnonzero(arrays.host(step.truncated)[step.ended])
                if len(of):
                    slots, state = step.ended[of], step.final_state[of]  # copies
                    last.add(t, slots, step.final_obs[of], state)
                    values.record_final(slots, state)
                self._memory.clear(step.ended)
                for e, summary in zip(step.ended, self._meter.finish(step), strict=True):
                    self._count(summary, int(e), sampled)
        rollout.state[num_steps] = step.state
        values.record(rollout, num_steps, step)
        values.finish(rollout)
        self._step = step
        last.write(rollout)
        sampled.num_env_steps = rollout.env_steps()
        sampled.steps_of_agents = arrays.host(rollout.active.sum((0, 1)))
        sampled.running_return = self._meter.running_return()
        return rollout, sampled

    def episodes(
        self, num_episodes: int, acting: Acting, draw: Draw = "sample", patience: float | None = None
    ) -> Sampled:
        """Plays whole episodes from fresh resets; each slot has a fixed share of them.

        Slots that have finished their share keep stepping but are not counted: call `restart` before `steps`. Raises
        EndlessEpisode if no counted episode has ended for `patience` seconds (None: no limit).
        """
        self.restart()
        assert self._step is not None
        step, sampled = self._step, Sampled.nothing(self.env.spec.num_agents)
        left = share_of_slots(num_episodes, self.env.num_envs)
        ended, steps = time.monotonic(), 0
        while (running := left > 0).any():
            sampled.num_env_steps += int(running.sum())
            sampled.steps_of_agents += self._arrays.host(step.active)[running].sum(0)
            step, _, _ = self._advance(step, acting, draw, sampled)
            steps += 1
            self._memory.clear(step.ended)
            for e, summary in zip(step.ended, self._meter.finish(step), strict=True):
                if left[e] > 0:
                    self._count(summary, int(e), sampled)
                    left[e] -= 1
                    ended, steps = time.monotonic(), 0
            if patience is not None and time.monotonic() - ended > patience:
                raise EndlessEpisode(
                    f"no episode has ended in {patience:g} s ({steps} steps of every environment; "
                    f"{len(sampled.episodes)} of {num_episodes} episodes were done)."
                )
        self._step = step
        return sampled

    def _count(self, summary: EpisodeSummary, slot: int, sampled: Sampled) -> None:
        sampled.episodes.append(summary)
        if self._on_episode_end is not None:
            self._on_episode_end(summary, slot)

    def _advance(
        self, step: TeamStep[Array], acting: Acting, draw: Draw, sampled: Sampled
    ) -> tuple[TeamStep[Array], Array, Array]:
        """One forward pass and one step of all slots. Returns the step, actions and log-probabilities [E, N, d]."""
        began = time.perf_counter()
        arrays = self._arrays
        with torch.inference_mode():
            distribution, hidden = acting.step(
                arrays.tensor(step.obs),
                roles=None if step.roles is None else arrays.tensor(step.roles),
                available=None if step.masks is None else arrays.tensor(step.masks),
                hidden=self._memory.actor,
            )
            if hidden is not None:
                self._memory.keep_actor(hidden, arrays.tensor(step.active))
            if draw == "mode":
                actions = distribution.mode()
            elif draw == "random":
                actions = distribution.random(self._generator)
            else:
                actions = distribution.sample(self._generator)
            drawn, log_probs = arrays.of_tensor(actions), arrays.of_tensor(distribution.log_prob(actions))
            actions_taken = self._to_environment(drawn)
        acted = time.perf_counter()
        with named_errors(self.env):
            step = self.env.step(actions_taken)
        check(step, self._form, step.ended)
        self._meter.add(step)
        sampled.seconds["policy"] += acted - began
        sampled.seconds["env"] += time.perf_counter() - acted
        return step, drawn, log_probs


class _LastSteps(Generic[Array]):
    """The true last observations and global states of truncated episodes and agents of a rollout, in order of time."""

    def __init__(self, arrays: Arrays[Array]):
        self._arrays: Arrays[Array] = arrays
        self._index: list[np.ndarray] = []
        self._obs: list[Array] = []
        self._state: list[Array] = []

    def add(self, t: int, envs: np.ndarray, obs: Array, state: Array) -> None:
        """Those of some environments [F] at step t; obs and state [F, ...] are not to be changed afterwards."""
        self._index.append(np.stack([np.full_like(envs, t), envs], axis=1))
        self._obs.append(obs)
        self._state.append(state)

    def write(self, rollout: TeamRollout[Array]) -> None:
        if self._index:
            rollout.final_index = self._arrays.of_host(np.concatenate(self._index))
            rollout.final_obs = self._arrays.concatenate(self._obs)
            rollout.final_state = self._arrays.concatenate(self._state)


def empty_rollout(
    env: VectorTeamEnv[Array], steps: int, first: TeamStep[Array], memory: Memory, arrays: Arrays[Array]
) -> TeamRollout[Array]:
    """An uninitialised rollout of `steps` steps, with the optional columns that `first` and `memory` have."""
    spec: TeamSpec = env.spec
    shape: tuple[int, ...] = (steps, env.num_envs, spec.num_agents)
    empty = arrays.empty
    return TeamRollout(
        obs=empty((*shape, spec.obs_size), np.float32),
        state=empty((steps + 1, env.num_envs, *spec.state_shape), np.float32),
        actions=empty((*shape, spec.action_dims), np.float32 if spec.continuous else np.int64),
        log_probs=empty((*shape, spec.action_dims), np.float32),
        rewards=empty((steps, env.num_envs, spec.reward_width), np.float32),
        terminated=empty(shape[:2], bool),
        truncated=empty(shape[:2], bool),
        active=empty(shape, bool),
        final_index=empty((0, 2), np.int64),
        final_obs=empty((0, spec.num_agents, spec.obs_size), np.float32),
        final_state=empty((0, *spec.state_shape), np.float32),
        masks=None if first.masks is None else empty((*shape, spec.action_size), bool),
        roles=None if first.roles is None else empty(shape, np.int64),
        left=None if first.left is None else empty(shape, bool),
        cut=None if first.cut is None or spec.shared_reward else empty(shape, bool),
        **memory.columns(steps, arrays),
    )
