"""The sampling loop: steps E environments in lock step and fills arrays `[T, E, N, ...]`, or plays whole episodes.

collector = Collector(env, Memory(policy.config, env.num_envs, chunk_length=10), seed=0)
rollout, sampled = collector.steps(128, policy.acting(), critic=policy.acting_critic())
played = collector.episodes(32, policy.acting(), draw="mode").episodes
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.nn.acting import Acting
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.rollout.checks import check, named_errors
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.rollout.episodes import EndlessEpisode, EpisodeMeter, EpisodeSummary, Sampled, share_of_slots
from lorasa_rllib.rollout.memory import Memory, RunningCritic

Draw = Literal["sample", "mode", "random"]
"""How actions are drawn: sampled, the most likely ones (greedy), or uniformly, independent of the policy."""


class Collector:
    """Samples from E environment slots; episodes in progress continue across calls of `steps`.

    seed: of sampled actions; None: from the operating system.
    env_seed: of the first reset of the environments; None: `seed`.
    on_episode_end: called with the summary and slot of every counted episode, in the step that ended it.

    All methods that step environments raise TeamEnvError if one fails or returns unusable data.
    """

    def __init__(
        self,
        env: VectorTeamEnv,
        memory: Memory,
        seed: int | None,
        env_seed: int | None = None,
        on_episode_end: Callable[[EpisodeSummary, int], None] | None = None,
    ):
        self.env = env
        self._memory = memory
        self._on_episode_end = on_episode_end
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._env_seed = seed if env_seed is None else env_seed
        self._meter = EpisodeMeter(env.num_envs, env.spec.reward_width)
        self._step: TeamStep | None = None

    def restart(self) -> None:
        """Begins a new episode in every slot; seeded the first time, later continuing the random stream."""
        first, self._step = self._step is None, None
        with named_errors(self.env):
            self._step = self.env.reset(self._env_seed if first else None)
        check(self._step, self.env.spec, np.arange(self.env.num_envs))
        self._meter.restart()
        self._memory.clear()

    def steps(
        self, num_steps: int, acting: Acting, draw: Draw = "sample", critic: MergedCritic | None = None
    ) -> tuple[TeamRollout[np.ndarray], Sampled]:
        """Collects a rollout of `num_steps` steps of every slot.

        critic: recurrent critic to step along with the actor; None if the critic is feed-forward.
        """
        if self._step is None:
            self.restart()
        assert self._step is not None
        step, sampled = self._step, Sampled.nothing(self.env.spec.num_agents)
        rollout = empty_rollout(self.env, num_steps, step, self._memory)
        values = RunningCritic(critic, self._memory)
        final: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        for t in range(num_steps):
            rollout.obs[t], rollout.state[t], rollout.active[t] = step.obs, step.state, step.active
            if rollout.masks is not None:
                rollout.masks[t] = step.masks
            if rollout.roles is not None:
                rollout.roles[t] = step.roles
            self._memory.write(rollout, t)
            values.record(rollout, t, step)
            step, rollout.actions[t], rollout.log_probs[t] = self._advance(step, acting, draw, sampled)
            rollout.rewards[t] = step.rewards
            rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
            if rollout.left is not None:
                rollout.left[t] = step.left
            if rollout.cut is not None and step.cut is not None:
                rollout.cut[t] = step.cut
                last = _rows_of(np.flatnonzero(step.cut.any(1)), step.cut_obs, step.cut_state)
                final += [(t, *row) for row in last]
                values.record_final(last)
            if len(step.ended):
                ended = _rows_of(step.ended, step.final_obs, step.final_state)
                last = [row for row in ended if step.truncated[row[0]]]
                final += [(t, *row) for row in last]
                values.record_final(last)
                self._memory.clear(step.ended)
                for e, summary in zip(step.ended, self._meter.finish(step), strict=True):
                    self._count(summary, int(e), sampled)
        rollout.state[num_steps] = step.state
        values.record(rollout, num_steps, step)
        values.finish(rollout)
        self._step = step
        if final:
            rollout.final_index = np.array([(t, e) for t, e, _, _ in final], np.int64)
            rollout.final_obs = np.stack([obs for _, _, obs, _ in final])
            rollout.final_state = np.stack([state for _, _, _, state in final])
        sampled.num_env_steps = rollout.env_steps()
        sampled.steps_of_agents = rollout.active.sum((0, 1))
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
            sampled.steps_of_agents += step.active[running].sum(0)
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
        self, step: TeamStep, acting: Acting, draw: Draw, sampled: Sampled
    ) -> tuple[TeamStep, np.ndarray, np.ndarray]:
        """One forward pass and one step of all slots. Returns the step, actions and log-probabilities [E, N, d]."""
        began = time.perf_counter()
        with torch.inference_mode():
            distribution, hidden = acting.step(
                torch.from_numpy(step.obs),
                roles=None if step.roles is None else torch.from_numpy(step.roles),
                available=None if step.masks is None else torch.from_numpy(step.masks),
                hidden=self._memory.actor,
            )
            if hidden is not None:
                self._memory.keep("actor", hidden)
            if draw == "mode":
                actions = distribution.mode()
            elif draw == "random":
                actions = distribution.random(self._generator)
            else:
                actions = distribution.sample(self._generator)
            drawn, log_probs = actions.numpy(), distribution.log_prob(actions).numpy()
        acted = time.perf_counter()
        actions_taken = self.env.spec.to_environment(drawn)
        with named_errors(self.env):
            step = self.env.step(actions_taken)
        check(step, self.env.spec, step.ended)
        self._meter.add(step)
        sampled.seconds["policy"] += acted - began
        sampled.seconds["env"] += time.perf_counter() - acted
        return step, drawn, log_probs


def _rows_of(
    envs: np.ndarray, obs: np.ndarray | None, state: np.ndarray | None
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Index, observations and global state of every environment in `envs`, as copies."""
    if not len(envs):
        return []
    assert obs is not None and state is not None, "an environment that ends or cuts something gives its last step"
    return [(int(e), obs[i].copy(), state[i].copy()) for i, e in enumerate(envs)]


def empty_rollout(env: VectorTeamEnv, steps: int, first: TeamStep, memory: Memory) -> TeamRollout[np.ndarray]:
    """An uninitialised rollout of `steps` steps, with the optional columns that `first` and `memory` have."""
    spec = env.spec
    shape = (steps, env.num_envs, spec.num_agents)
    return TeamRollout(
        obs=np.empty((*shape, spec.obs_size), np.float32),
        state=np.empty((steps + 1, env.num_envs, *spec.state_shape), np.float32),
        actions=np.empty((*shape, spec.action_dims), np.float32 if spec.continuous else np.int64),
        log_probs=np.empty((*shape, spec.action_dims), np.float32),
        rewards=np.empty((steps, env.num_envs, spec.reward_width), np.float32),
        terminated=np.empty(shape[:2], bool),
        truncated=np.empty(shape[:2], bool),
        active=np.empty(shape, bool),
        final_index=np.empty((0, 2), np.int64),
        final_obs=np.empty((0, spec.num_agents, spec.obs_size), np.float32),
        final_state=np.empty((0, *spec.state_shape), np.float32),
        masks=None if first.masks is None else np.empty((*shape, spec.action_size), bool),
        roles=None if first.roles is None else np.empty(shape, np.int64),
        left=None if first.left is None else np.empty(shape, bool),
        cut=None if first.cut is None or spec.shared_reward else np.empty(shape, bool),
        **memory.columns(steps),
    )
