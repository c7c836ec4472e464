"""The sampling loop: steps E environments in lock step and fills arrays `[T, E, N, ...]`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from lorasa_rllib.envs.base import TeamEnvError, TeamStep, VectorTeamEnv
from lorasa_rllib.nn.acting import Acting
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.rllib.episodes import EpisodeMeter, share_of_slots
from lorasa_rllib.rllib.faults import EndlessEpisode, named
from lorasa_rllib.rllib.memory import Memory, RunningCritic
from lorasa_rllib.rllib.sampled import EpisodeSummary
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.spec import TeamSpec

SEEDS = 2**31 - 2**20
"""Number of distinct first seeds: they fit a signed 32-bit integer, with room for the offsets of the copies."""


def first_seed(seed: int | None) -> int | None:
    """Seed of the first reset of the environments of an env runner with this seed; None if it has none.

    Env runners have consecutive seeds and copy e uses `seed + e`, so the seeds are spread to keep copies distinct.
    """
    return None if seed is None else seed * 10_007 % SEEDS


Draw = Literal["sample", "mode", "random"]
"""How actions are drawn: sampled, the most likely ones (greedy), or uniformly, independent of the policy."""


@dataclass
class Round:
    """Episodes and counters of one sampling call. seconds: time spent in "env" and "policy"."""

    episodes: list[EpisodeSummary] = field(default_factory=list)
    env_steps: int = 0
    steps_of_agents: Any = 0  # int64 [N]
    seconds: dict[str, float] = field(default_factory=lambda: {"env": 0.0, "policy": 0.0})


class Collector:
    """Samples from E environment slots; episodes in progress continue across calls of `steps`.

    on_episode_end: called with the summary and slot of every counted episode, in the step that ended it.
    """

    def __init__(
        self,
        env: VectorTeamEnv,
        memory: Memory,
        seed: int | None,
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
        self._seed = seed
        self._meter = EpisodeMeter(env.num_envs, 1 if env.spec.shared_reward else env.spec.num_agents)
        self._step: TeamStep | None = None

    def running_return(self) -> float:
        """Mean return so far over the episodes in progress."""
        return self._meter.running_return()

    def restart(self) -> None:
        """Begins a new episode in every slot; seeded the first time, later continuing the random stream.

        Like all methods that step environments, raises TeamEnvError if one fails or returns unusable data.
        """
        first, self._step = self._step is None, None
        with named_errors(self.env):
            self._step = self.env.reset(first_seed(self._seed) if first else None)
        check(self._step, self.env.spec, np.arange(self.env.num_envs))
        self._meter.restart()
        self._memory.clear()

    def steps(
        self, num_steps: int, acting: Acting, draw: Draw = "sample", critic: MergedCritic | None = None
    ) -> tuple[TeamRollout, Round]:
        """Collects a rollout of `num_steps` steps of every slot.

        critic: recurrent critic to step along with the actor; None if the critic is feed-forward.
        """
        if self._step is None:
            self.restart()
        assert self._step is not None
        step, taken = self._step, Round()
        rollout = empty_rollout(self.env, num_steps, step, self._memory)
        running_critic = RunningCritic(critic, self._memory)
        final: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        for t in range(num_steps):
            rollout.obs[t], rollout.state[t], rollout.active[t] = step.obs, step.state, step.active
            if rollout.masks is not None:
                rollout.masks[t] = step.masks
            if rollout.roles is not None:
                rollout.roles[t] = step.roles
            self._memory.note(rollout, t)
            running_critic.look(rollout, t, step)
            step, rollout.actions[t], rollout.log_probs[t] = self._advance(step, acting, draw, taken)
            rollout.rewards[t] = step.rewards
            rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
            if rollout.left is not None:
                rollout.left[t] = step.left
            if rollout.cut is not None:
                rollout.cut[t] = step.cut
                last = _rows_of(np.flatnonzero(step.cut.any(1)), step.cut_obs, step.cut_state)  # type: ignore[union-attr]
                final += [(t, *row) for row in last]
                running_critic.end(last)
            if len(step.ended):
                ended = _rows_of(step.ended, step.final_obs, step.final_state)
                last = [row for row in ended if step.truncated[row[0]]]
                final += [(t, *row) for row in last]
                running_critic.end(last)
                self._memory.clear(step.ended)
                for e, summary in zip(step.ended, self._meter.finish(step), strict=True):
                    self._count(summary, int(e), taken)
        rollout.state[num_steps] = step.state
        running_critic.look(rollout, num_steps, step)
        running_critic.finish(rollout)
        self._step = step
        if final:
            rollout.final_index = np.array([(t, e) for t, e, _, _ in final], np.int64)
            rollout.final_obs = np.stack([obs for _, _, obs, _ in final])
            rollout.final_state = np.stack([state for _, _, _, state in final])
        taken.env_steps = rollout.env_steps()
        taken.steps_of_agents = rollout.active.sum((0, 1))
        return rollout, taken

    def episodes(
        self, num_episodes: int, acting: Acting, draw: Draw = "sample", patience: float | None = None
    ) -> Round:
        """Plays whole episodes from fresh resets; each slot has a fixed share of them.

        Slots that have finished their share keep stepping but are not counted. Raises EndlessEpisode if no counted
        episode has ended for `patience` seconds (None: no limit).
        """
        self.restart()
        assert self._step is not None
        step, taken = self._step, Round()
        left = share_of_slots(num_episodes, self.env.num_envs)
        ended, steps = time.monotonic(), 0
        while (running := left > 0).any():
            taken.env_steps += int(running.sum())
            taken.steps_of_agents = taken.steps_of_agents + step.active[running].sum(0)
            step, _, _ = self._advance(step, acting, draw, taken)
            steps += 1
            self._memory.clear(step.ended)
            for e, summary in zip(step.ended, self._meter.finish(step), strict=True):
                if left[e] > 0:
                    self._count(summary, int(e), taken)
                    left[e] -= 1
                    ended, steps = time.monotonic(), 0
            if patience is not None and time.monotonic() - ended > patience:
                raise EndlessEpisode(
                    f"no episode has ended in evaluation_sample_timeout_s={patience:g} s ({steps} steps of every "
                    f"environment; {len(taken.episodes)} of {num_episodes} episodes were done). Give the environment "
                    "a time limit (such as max_episode_steps in env_config), evaluate a number of steps with "
                    'evaluation_duration_unit="timesteps", or raise evaluation_sample_timeout_s.'
                )
        self.restart()  # training must not continue these episodes
        return taken

    def _count(self, summary: EpisodeSummary, slot: int, taken: Round) -> None:
        taken.episodes.append(summary)
        if self._on_episode_end is not None:
            self._on_episode_end(summary, slot)

    def _advance(
        self, step: TeamStep, acting: Acting, draw: Draw, taken: Round
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
        taken.seconds["policy"] += acted - began
        taken.seconds["env"] += time.perf_counter() - acted
        return step, drawn, log_probs


def _rows_of(envs: np.ndarray, obs: Any, state: Any) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Index, observations and global state of every environment in `envs`, as copies."""
    return [(int(e), obs[i].copy(), state[i].copy()) for i, e in enumerate(envs)]


@contextmanager
def named_errors(env: VectorTeamEnv) -> Iterator[None]:
    """Re-raises errors of an environment as TeamEnvError with the index of the copy, if known.

    Includes SystemExit, which would otherwise end the process silently.
    """
    try:
        yield
    except TeamEnvError:
        raise
    except (Exception, SystemExit) as error:
        which = "the environment" if env.stepping is None else f"environment {env.stepping}"
        raise TeamEnvError(f"{which} raised {named(error)}") from error


def check(step: TeamStep, spec: TeamSpec, begun: np.ndarray) -> None:
    """Raises TeamEnvError for non-finite values, agents without an available action, and episodes without agents.

    begun: indices of the environments whose episode begins with this step.
    """
    if not (alive := step.active[begun].any(1)).all():
        raise TeamEnvError(
            f"an episode of environment {begun[~alive][0]} began with no agent alive: none of its {spec.num_agents} "
            "agents is active, so there is nothing to learn. Let reset() begin with at least one of them."
        )
    for name in ("obs", "state", "rewards", "final_obs", "final_state", "cut_obs", "cut_state"):
        column = getattr(step, name)
        if column is not None and not np.isfinite(column).all():
            rows = step.ended if name.startswith("final") else range(len(column))
            if name.startswith("cut"):
                rows = np.flatnonzero(step.cut.any(1))  # type: ignore[union-attr]
            row, *axes = np.argwhere(~np.isfinite(column))[0]
            of_agents = not spec.shared_reward if name == "rewards" else "obs" in name or spec.state_per_agent
            whose = f" of agent {spec.agents[axes[0]]!r}" if of_agents else ""
            raise TeamEnvError(
                f"the environment gave a NaN or infinite value in {name}{whose} of environment {rows[row]}. Look at it "
                "(diverging physics, division by zero) or at actions outside its bounds."
            )
    if step.masks is not None and not (able := spec.can_choose(step.masks)).all():
        e, n = np.argwhere(~able)[0]
        raise TeamEnvError(
            f"agent {spec.agents[n]!r} of environment {e} has no available action: its mask is all False. Every agent "
            "needs a choice at every step; give those that have nothing to do one that does nothing."
        )


def empty_rollout(env: VectorTeamEnv, steps: int, first: TeamStep, memory: Memory) -> TeamRollout:
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
