"""Experiments of Ray Tune that no script of this package made, as `lorasa compare` reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.studies.experiments import read_experiment

OURS = {
    "algo_class": "<class 'lorasa_rllib.rllib.mappo.MAPPO'>", "env": "mamujoco", "lr": 1e-3, "seed": None,
    "env_config": {"scenario": "Ant", "agent_conf": "4x2"}, "method": "lora", "schedule": "joint",
    "adapter_key": "agent",
}  # fmt: skip


def line(iteration: int, value: float | None) -> dict:
    """A result of RLlib; None: no episode has ended yet."""
    runners = {"num_episodes_lifetime": 0} if value is None else {"episode_return_mean": value}
    return {
        "training_iteration": iteration, "num_env_steps_sampled_lifetime": 100 * iteration, "time_total_s": 1.0,
        "env_runners": {"num_env_steps_sampled_lifetime": 100 * iteration, **runners},
    }  # fmt: skip


def trial(folder: Path, name: str, config: dict | None, values: list, table: bool = False) -> None:
    (folder / name).mkdir(parents=True)
    if config is not None:
        (folder / name / "params.json").write_text(json.dumps(config))
    lines = [line(k + 1, value) for k, value in enumerate(values)]
    if table:
        pd.json_normalize(lines, sep="/").to_csv(folder / name / "progress.csv", index=False)
    else:
        (folder / name / "result.json").write_text("".join(json.dumps(one) + "\n" for one in lines))


def runs(folder: Path) -> list[tuple]:
    curves = read_experiment(folder)
    which = ["scenario", "algorithm", "method", "seed"]
    return list(curves[which].drop_duplicates().itertuples(index=False, name=None))


@pytest.mark.parametrize("table", [False, True])
def test_curves_are_read_from_either_file(tmp_path, table):
    trial(tmp_path, "MAPPO_mamujoco_1_0", OURS, [None, 3.0, 5.5], table)
    curves = read_experiment(tmp_path)
    assert curves["env_steps"].tolist() == [200, 300] and curves["episode_return"].tolist() == [3.0, 5.5]
    assert runs(tmp_path) == [("Ant-4x2", "mappo", "lora-joint", 1)] == runs(tmp_path / "MAPPO_mamujoco_1_0")


def test_methods_are_told_by_the_settings_in_which_trials_differ(tmp_path):
    for k, (lr, seed) in enumerate([(1e-3, 7), (1e-3, 8), (1e-4, 7), (1e-4, 8)]):
        trial(tmp_path / "grid", f"MAPPO_{k}", OURS | {"lr": lr, "seed": seed}, [1.0])
    assert [run[2:] for run in runs(tmp_path / "grid")] == [
        ("lora-joint[lr=0.001]", 7), ("lora-joint[lr=0.001]", 8), ("lora-joint[lr=0.0001]", 7),
        ("lora-joint[lr=0.0001]", 8),
    ]  # fmt: skip
    for k in range(3):
        trial(tmp_path / "repeats", f"MAPPO_{k}", OURS | {"method": "ps"}, [1.0])
    assert [run[2:] for run in runs(tmp_path / "repeats")] == [("ps", 1), ("ps", 2), ("ps", 3)]


def test_other_algorithms_and_older_versions_are_read(tmp_path):
    stock = {"algo_class": "<class 'ray.rllib.algorithms.ppo.ppo.PPO'>", "env": "CartPole-v1"}
    trial(tmp_path / "stock", "PPO_CartPole-v1_0", stock, [20.0])
    assert runs(tmp_path / "stock") == [("CartPole-v1", "ppo", "ppo", 1)]
    old = {"episode_reward_mean": 7.0, "timesteps_total": 500, "training_iteration": 1}
    (tmp_path / "old" / "QMIX_game_0").mkdir(parents=True)
    (tmp_path / "old" / "QMIX_game_0" / "result.json").write_text(json.dumps(old) + "\n" + '{"training_it')  # killed
    curves = read_experiment(tmp_path / "old")
    assert curves[["algorithm", "env_steps", "episode_return"]].to_numpy().tolist() == [["qmix", 500, 7.0]]
    (tmp_path / "loss" / "train_0").mkdir(parents=True)
    (tmp_path / "loss" / "train_0" / "result.json").write_text('{"loss": 0.1, "training_iteration": 1}\n')
    with pytest.raises(ValueError, match="no trial has reported a return of episodes"):
        read_experiment(tmp_path / "loss")
    assert read_experiment(tmp_path) is None


@pytest.mark.parametrize("uri", [False, True])
def test_compare_reports_a_plain_experiment(tmp_path, capsys, uri):
    for method, value in (("ps", 10.0), ("lora", 20.0)):
        for seed in (1, 2, 3):
            name = f"MAPPO_{method}_{seed}"
            trial(tmp_path / "mine", name, OURS | {"method": method, "seed": seed}, [1.0, value + seed])
    folder = f"file://{tmp_path}/mine" if uri else str(tmp_path / "mine")
    assert main(["compare", folder, "--out", str(tmp_path / "all.html")]) == 0
    page = (tmp_path / "all.html").read_text()
    assert re.search(r"<td>LoRASA, joint</td>\s*<td>22", page) and "<td>Ant-4x2</td>" in page
    assert main(["compare", "s3://bucket/mine", "--out", str(tmp_path / "x.html")]) == 2
    assert "copy it here first" in capsys.readouterr().err
