"""Constructors of environments learn which copy of which env runner they make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent


class Told(games.Game):
    """Writes down whose copy it is; ends its process if there is a file "crash"."""

    def __init__(self, config):
        super().__init__()
        self.folder = Path(config["folder"])
        who = (config.worker_index, config.vector_index, config.num_workers, config.num_envs)
        flags = (config.recreated_worker, config.in_evaluation)
        with (self.folder / "told").open("a") as file:
            file.write(f"{(*who, *flags)}\n")

    def step(self, actions):
        if (self.folder / "crash").exists():
            (self.folder / "crash").unlink()
            os._exit(1)
        return super().step(actions)


class ToldByRLlib(as_multi_agent(games.Game)):
    def __init__(self, config):
        super().__init__({})
        Told(config)


def told(folder):
    lines = (folder / "told").read_text().splitlines()
    (folder / "told").unlink()
    return set(map(eval, lines))


@pytest.mark.parametrize("env", [Told, ToldByRLlib])
def test_local_env_runners(small_config, build, tmp_path, env):
    config = small_config("pettingzoo", {"env": env, "folder": str(tmp_path)})
    algo = build(config.env_runners(num_envs_per_env_runner=2).evaluation(evaluation_interval=1))
    algo.train()
    assert told(tmp_path) == {(0, e, 0, 2, False, evaluation) for e in range(2) for evaluation in (False, True)}


def test_remote_env_runners_and_one_that_is_recreated(small_config, build, tmp_path):
    config = small_config("pettingzoo", {"env": Told, "folder": str(tmp_path)})
    config = config.env_runners(num_env_runners=1, num_envs_per_env_runner=2, create_local_env_runner=False)
    config = config.fault_tolerance(restart_failed_env_runners=True)
    algo = build(config)
    algo.train()
    assert algo.env_runner is None
    seen = told(tmp_path)
    assert {line for line in seen if line[0]} == {(1, e, 1, 2, False, False) for e in range(2)}
    (tmp_path / "crash").touch()
    for _ in range(20):
        algo.train()
        if (tmp_path / "told").exists():
            break
    assert told(tmp_path) == {(1, e, 1, 2, True, False) for e in range(2)}
