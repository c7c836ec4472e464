"""`--set` and `--env-set`: any setting from the command line, and what is refused."""

from __future__ import annotations

import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.studies.literals import literal
from lorasa_rllib.studies.options import read_options
from lorasa_rllib.studies.overrides import CONFIGS, arguments_of
from lorasa_rllib.studies.settings import check_unchanged, remember
from lorasa_rllib.studies.trials import trials


def options(*arguments, suite="mamujoco", methods=None):
    return read_options([*arguments, "--total-env-steps", "100000"], "a study", suite, methods)


def config(*arguments, **more):
    (found,) = trials(options(*arguments, **more)).values()
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("128", 128), ("true", True), ("False", False), ("null", None), ("None", None), ("1_000", 1000),
     ("tanh", "tanh"), ('"tanh"', "tanh"), ("(1, 2)", (1, 2)), ("['mlp.*', 'head']", ["mlp.*", "head"]),
     ('{"mlp.*": 4}', {"mlp.*": 4}), ("[[0, 1e-3], [1000, 0]]", [[0, 1e-3], [1000, 0]]), ("b'x'", "b'x'"),
     ("a=b", "a=b"), ("", "")],
)  # fmt: skip
def test_values_are_read_as_json_or_python_and_else_are_text(text, value):
    assert literal(text) == value and type(literal(text)) is type(value)


def test_settings_reach_the_config_by_short_and_whole_names():
    found = config(
        "--set", "lr=1e-3", "network.hidden_size=128", "sharing.r=4", "--set", "training.gamma=0.9",
        "--set", "activation=tanh", "use_rslora=true", "rank_pattern={'mlp.*': 2}", "grad_clip=None",
        "evaluation.evaluation_duration=3", "fault_tolerance.max_num_env_runner_restarts=7",
        "--env-set", "max_episode_steps=77",
    )  # fmt: skip
    assert (found.lr, found.gamma, found.grad_clip, found.evaluation_duration) == (1e-3, 0.9, None, 3)
    assert found.plan().policy.network.hidden_size == 128 and found.plan().policy.network.activation == "tanh"
    assert (found.plan().policy.lora.r, found.plan().policy.lora.lora_alpha, found.use_rslora) == (4, 4, True)
    assert found.plan().policy.lora.rank_pattern == {"mlp.*": 2} and found.max_num_env_runner_restarts == 7
    assert found.env_config["max_episode_steps"] == 77 and found.env_config["agent_conf"] == "2x3"
    assert config("--algorithm", "a2po", "--set", "agent_order=cyclic").agent_order == "cyclic"


def test_what_follows_from_a_setting_follows():
    found = config("--set", "train_batch_size_per_learner=1600")
    assert (found.total_train_batch_size, found.evaluation_interval) == (1600, 21)  # 3 evaluations in 63 iterations
    assert config("--set", "evaluation_interval=7").evaluation_interval == 7
    assert config("--set", "num_envs_per_env_runner=8", "num_env_runners=2").total_train_batch_size % 16 == 0
    found = config("--network", "published", "--set", "chunk_length=25")
    assert found.total_train_batch_size % (16 * 25) == 0


def test_every_group_of_settings_is_a_setter_of_every_config():
    for algorithm in CONFIGS:
        assert all(arguments_of(algorithm).values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "lrr=1"], "--set lrr: there is no such setting of MAPPO; did you mean lr?"),
        (["--set", "network.hiden_size=1"], "did you mean network.hidden_size?"),
        (["--set", "training.hidden_size=1"], "--set training.hidden_size: there is no such setting"),
        (["--set", "sharing.lora_alfa=4"], "there is no such setting of MAPPO; did you mean sharing.lora_alpha?"),
        (["--set", "agent_order=cyclic"], "--set agent_order: there is no such setting of MAPPO"),
        (["--set", "num_sgd_iter=2"], "--set num_sgd_iter: there is no such setting"),  # deprecated by RLlib
        (["--set", "lr"], "--set lr must be key=value"),
        (["--env-set", "=3"], "--env-set =3 must be key=value"),
        (["--set", "seed=3"], "trials of a study differ in it; choose with --seeds"),
        (["--set", "sharing.method=ps"], "choose with --methods"),
        (["--set", "r=0"], "--r=0 must be at least 1"),
        (["--set", "total_env_steps=soon"], "--total-env-steps"),
    ],
)
def test_unknown_settings_are_refused_in_one_line(given, message, capsys):
    with pytest.raises(SystemExit) as error:
        read_options(given, "a study", "mamujoco")
    told = capsys.readouterr().err
    assert error.value.code == 2 and message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "lr=fast"], "lr"),
        (["--set", "hidden_size=0"], "hidden_size=0"),
        (["--set", "train_batch_size_per_learner=1001"], "train_batch_size_per_learner=1008"),
        (["--env-set", "max_epsode_steps=3"], "max_episode_steps"),
        (["--env-set", "scenario=Ant"], "--env-set scenario: the scenario says so; choose with --scenario"),
        (["--methods", "lora:rslora=yes", "--set", "use_rslora=false"], "method lora:rslora=yes sets it itself"),
    ],
)
def test_impossible_values_end_before_anything_starts(given, message):
    with pytest.raises(ValueError, match=message):
        trials(options(*given))


def test_an_experiment_goes_on_only_with_the_same_settings(tmp_path):
    given = ["--set", "lr=1e-3", "target_modules=('head',)", "--env-set", "max_episode_steps=9"]
    remember(options(*given), str(tmp_path / "x"))
    check_unchanged(options("--set", "training.lr=0.001", *given[2:]), str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"--set training.lr=0.01 \(begun with training.lr=0.001 sharing.target"):
        check_unchanged(options("--set", "lr=0.01", "--env-set", "max_episode_steps=9"), str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"--env-set nothing \(begun with max_episode_steps=9\)"):
        check_unchanged(options(*given[:3]), str(tmp_path / "x"))


def test_experiments_of_older_versions_went_without(tmp_path):
    import json

    remember(options(), str(tmp_path / "x"))
    file = tmp_path / "x" / "study" / "settings.json"
    older = {key: value for key, value in json.loads(file.read_text()).items() if "settings" not in key}
    file.write_text(json.dumps(older))
    check_unchanged(options(), str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"--set training.lr=0.01 \(begun with nothing\)"):
        check_unchanged(options("--set", "lr=0.01"), str(tmp_path / "x"))


def test_lorasa_train_takes_them_too(capsys):
    assert main(["train", "--set", "lrr=1"]) == 2
    assert "lorasa train: --set lrr: there is no such setting of MAPPO; did you mean lr?" in capsys.readouterr().err
