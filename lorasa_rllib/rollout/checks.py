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


def check(step: TeamStep[Array], spec: TeamSpec, begun: np.ndarray) -> None:
    """Raises TeamEnvError for non-finite values, agents without an available action, and episodes without agents.

    begun: indices of the environments whose episode begins with this step.
    """
    if not (isinstance(step.obs, Tensor) and is_usable(step, spec, begun)):
        _check(step.on_host(), spec, begun)


def _check(step: TeamStep, spec: TeamSpec, begun: np.ndarray) -> None:
    """`check` of a step on the host."""
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
    if step.masks is not None:
        good = good & step.masks.any(-1).all() if not spec.choices else torch.tensor(False)
    return bool(good)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """Class name and first line of the message of an exception."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
