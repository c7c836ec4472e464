"""Environments that fail: their errors with the copy at fault, and checks of what they return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lorasa_rllib.envs.base import Array, TeamEnvError, TeamStep, VectorTeamEnv
from lorasa_rllib.spec import TeamSpec


@contextmanager
def named_errors(env: VectorTeamEnv[Array]) -> Iterator[None]:
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


class Form:
    """The shapes of the steps of `num_envs` environments. Others would be broadcast into columns without a word."""

    def __init__(self, spec: TeamSpec, num_envs: int):
        self.spec = spec
        one_each: tuple[int, ...] = (num_envs, spec.num_agents)
        self._whole: dict[str, tuple[int, ...]] = {
            "obs": (*one_each, spec.obs_size),
            "state": (num_envs, *spec.state_shape),
            "rewards": (num_envs, spec.reward_width),
            "terminated": (num_envs,),
            "truncated": (num_envs,),
            "active": one_each,
        }
        self._optional: dict[str, tuple[int, ...]] = {
            "masks": (*one_each, spec.action_size),
            **dict.fromkeys(("roles", "left", "cut"), one_each),
        }

    def check(self, step: TeamStep[Array]) -> None:
        """Raises TeamEnvError if a field of `step` has another shape."""
        for name, shape in self._whole.items():
            self._check_one(name, getattr(step, name), shape)
        for name, shape in self._optional.items():
            if (column := getattr(step, name)) is not None:
                self._check_one(name, column, shape)
        ended = len(step.ended)
        if ended:
            self._check_one("final_obs", step.final_obs, (ended, *self._whole["obs"][1:]))
            self._check_one("final_state", step.final_state, (ended, *self._whole["state"][1:]))

    def _check_one(self, name: str, column: Array, shape: tuple[int, ...]) -> None:
        if column.shape != shape:
            raise TeamEnvError(
                f"the environment gave {name} of shape {list(column.shape)}, and it must be {list(shape)}. See "
                "TeamStep for the axes: environments, agents, and what is one agent's."
            )


def check(step: TeamStep[Array], form: Form, begun: np.ndarray) -> None:
    """Raises TeamEnvError for wrong shapes or ends, non-finite values, and agents or episodes without an action.

    begun: indices of the environments whose episode begins with this step.
    """
    form.check(step)
    if not (isinstance(step.obs, Tensor) and is_usable(step, form.spec, begun)):
        _check(step.on_host(), form.spec, begun)


def _check_ends(step: TeamStep) -> None:
    """Raises TeamEnvError if an episode has two kinds of end, or `ended` lists others than those that have one."""
    if not (len(step.ended) or step.terminated.any() or step.truncated.any()):
        return
    if (both := step.terminated & step.truncated).any():
        raise TeamEnvError(
            f"environment {np.flatnonzero(both)[0]} has terminated and was truncated in the same step. Let it be "
            "truncated only where it has not terminated: what follows a truncation is valued."
        )
    if not np.array_equal(over := np.flatnonzero(step.terminated | step.truncated), step.ended):
        raise TeamEnvError(
            f"`ended` is {np.asarray(step.ended).tolist()}, but terminated or truncated are {over.tolist()}. Let it be "
            "np.flatnonzero(terminated | truncated), and reset these environments within step()."
        )


def _check(step: TeamStep, spec: TeamSpec, begun: np.ndarray) -> None:
    """`check` of a step on the host."""
    _check_ends(step)
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


def is_usable(step: TeamStep[Tensor], spec: TeamSpec, begun: np.ndarray) -> bool:
    """Whether a step of tensors has none of the faults that `check` raises; False also for some that have none.

    Waits for the device once. A sum is finite only if all its terms are.
    """
    seen = [step.obs, step.state, step.rewards]
    seen += [] if not len(step.ended) else [step.final_obs, step.final_state]
    seen += [x for x in (step.cut_obs, step.cut_state) if x is not None]
    good = torch.stack([x.sum() for x in seen]).isfinite().all()
    if len(begun):
        good = good & step.active.any(1)[begun].all()
    good = good & ~(step.terminated & step.truncated).any()
    over = step.terminated | step.truncated
    good = good & (over.sum() == len(step.ended)) & over[step.ended].all()
    if step.masks is not None:
        good = good & step.masks.any(-1).all() if not spec.choices else torch.tensor(False)
    return bool(good)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """Class name and first line of the message of an exception."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
