"""Errors of environments are named with the copy at fault."""

from __future__ import annotations

import pytest

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rollout.checks import named_errors


class Silent:
    stepping = None


def test_an_environment_that_exits_the_process_is_stopped_from_doing_so():
    with pytest.raises(TeamEnvError, match="the environment raised SystemExit: 2"), named_errors(Silent()):
        raise SystemExit(2)
