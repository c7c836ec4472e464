"""Errors of environments are named with the copy at fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.base import TeamEnvError, TeamStep
from lorasa_rllib.rollout.checks import Form, check, named_errors
from tests.helpers import team


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros(3)}, r"gave rewards of shape \[3\], and it must be \[3, 3\]"),
        ({"rewards": np.zeros((3, 1))}, r"gave rewards of shape \[3, 1\], and it must be \[3, 3\]"),
        ({"obs": np.zeros((3, 4))}, r"gave obs of shape \[3, 4\], and it must be \[3, 3, 4\]"),
        ({"state": np.zeros((3, 3, 12))}, r"gave state of shape \[3, 3, 12\], and it must be \[3, 12\]"),
        ({"terminated": np.zeros((3, 1), bool)}, r"gave terminated of shape \[3, 1\]"),
        ({"truncated": np.zeros(1, bool)}, r"gave truncated of shape \[1\]"),
        ({"active": np.ones((1, 3), bool)}, r"gave active of shape \[1, 3\]"),
        ({"roles": np.zeros(3, np.int64)}, r"gave roles of shape \[3\]"),
        ({"masks": np.ones((3, 2), bool)}, r"gave masks of shape \[3, 2\]"),
        ({"left": np.zeros(3, bool)}, r"gave left of shape \[3\]"),
        ({"final_obs": np.zeros((1, 4))}, r"gave final_obs of shape \[1, 4\], and it must be \[1, 3, 4\]"),
        ({"final_state": np.zeros((3, 12))}, r"gave final_state of shape \[3, 12\], and it must be \[1, 12\]"),
        ({"truncated": np.array([False, True, False])}, "environment 1 has terminated and was truncated in the same"),
        ({"terminated": np.zeros(3, bool)}, r"`ended` is \[1\], but terminated or truncated are \[\]"),
        ({"ended": np.array([0])}, r"`ended` is \[0\], but terminated or truncated are \[1\]"),
        ({"ended": np.array([], int)}, r"`ended` is \[\], but terminated or truncated are \[1\]"),
    ],
)
@pytest.mark.parametrize("tensors", [False, True], ids=["numpy", "tensors"])
def test_what_would_be_broadcast_or_forgotten_is_refused(changes, message, tensors):
    """As many environments as agents, so that a missing axis would fit another."""
    spec = replace(team((4, 4, 4), (2, 2, 2)), state_size=12, shared_reward=False)
    none, one = np.zeros(3, bool), np.array([False, True, False])
    step = TeamStep(
        obs=np.zeros((3, 3, 4), np.float32),
        state=np.zeros((3, 12), np.float32),
        rewards=np.zeros((3, 3), np.float32),
        terminated=one,
        truncated=none,
        active=np.ones((3, 3), bool),
        ended=np.array([1]),
        final_obs=np.zeros((1, 3, 4), np.float32),
        final_state=np.zeros((1, 12), np.float32),
    )
    form = Form(spec, 3)

    def given(step):
        columns = {name: torch.as_tensor(x) for name, x in vars(step).items() if x is not None and name != "ended"}
        return replace(step, **columns) if tensors else step

    check(given(step), form, np.array([1]))
    with pytest.raises(TeamEnvError, match=message):
        check(given(replace(step, **changes)), form, np.array([1]))


class Silent:
    stepping = None


def test_an_environment_that_exits_the_process_is_stopped_from_doing_so():
    with pytest.raises(TeamEnvError, match="the environment raised SystemExit: 2"), named_errors(Silent()):
        raise SystemExit(2)
