"""Studies without Ray: options, trials, curves, tables and figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lorasa_rllib import MAPPOConfig
from lorasa_rllib.studies.curves import COLUMNS, read_trial, write_csv
from lorasa_rllib.studies.figure import draw_curves, draw_finals
from lorasa_rllib.studies.methods import METHODS
from lorasa_rllib.studies.options import read_options
from lorasa_rllib.studies.presets import PRESETS, Preset, preset_of
from lorasa_rllib.studies.run import OfTrial, _space, report
from lorasa_rllib.studies.suites import SUITES
from lorasa_rllib.studies.table import cells_of, final_returns, half_width, markdown, rich_table, summary
from lorasa_rllib.studies.trials import TrialName, evaluation_interval, switch_of, trials


def options(*arguments, suite="mamujoco"):
    return read_options(list(arguments), "a study", suite)


BY_AGENT = [name for name, method in METHODS.items() if method.adapter_key == "agent"]


def test_one_method_or_several_can_be_named():
    assert options().methods == ("lora",)
    assert options("--sharing", "ps").methods == ("ps",)
    assert options("--schedule", "joint").methods == ("lora-joint",)
    assert options("--methods", *BY_AGENT).methods == tuple(BY_AGENT)
    assert options("--methods", *METHODS, suite="smax").methods == tuple(METHODS)
    assert options("--adapter-key", "role", suite="smac").methods == ("lora-role",)
    assert options("--adapter-key", "role", "--schedule", "joint", suite="smax").methods == ("lora-role-joint",)
    assert options("--seeds", "3").seeds == (1, 2, 3)
    assert options("--seeds", "4,7").seeds == (4, 7)


BAD = {
    "--seeds": ["--seeds", "0"],
    "--seeds=1,1": ["--seeds", "1,1"],
    "--total-env-steps": ["--total-env-steps", "0"],
    "--phase-switch=1.5": ["--phase-switch", "1.5"],
    "--phase-switch=9000": ["--phase-switch", "9000", "--total-env-steps", "9000"],
    "--phase-switch=soon": ["--phase-switch", "soon"],
    "--scenario": ["--scenario", "HalfCheetah"],
    "--r": ["--r", "0"],
    "--num-epochs=0 must be at least 1": ["--num-epochs", "0"],
    "--num-env-runners=-1 must be at least 0": ["--num-env-runners", "-1"],
    "--evaluation-interval=0 must be at least 1": ["--evaluation-interval", "0"],
    "--max-concurrent": ["--max-concurrent", "0"],
    "--num-gpus-per-learner": ["--num-gpus-per-learner", "nan"],
    "--total-env-steps: 0.5": ["--total-env-steps", "0.5"],
    "--total-env-steps: infM": ["--total-env-steps", "infM"],
    "--phase-switch=infM": ["--phase-switch", "infM"],
    "--obsk=2 needs --obs local": ["--obs", "global", "--obsk", "2"],
}


@pytest.mark.parametrize("named", BAD)
def test_bad_options_end_with_a_message_that_names_them(named, capsys):
    with pytest.raises(SystemExit) as error:
        options(*BAD[named])
    told = capsys.readouterr().err
    assert error.value.code == 2 and named in told and told.count("\n") == 1


@pytest.mark.parametrize("given", [["--r", "16"], ["--phase-switch", "0.5"], ["--adapter-lr-scale", "2"]])
def test_options_of_adapters_that_no_method_reads_are_told(given, capsys):
    options("--methods", "ps", "nps", *given)
    assert f"no adapters in ps, nps, so {given[0]} changes nothing" in capsys.readouterr().err
    options("--methods", "ps", "lora", *given)
    options("--methods", "ps", "nps")
    assert capsys.readouterr().err == ""


def test_how_far_agents_see_means_that_they_see_locally():
    seen = [SUITES["mamujoco"].environment(options(*given), "Humanoid-9|8")[1] for given in ([], ["--obsk", "2"])]
    assert [env["obs"] for env in seen] == ["global", "local"] and seen[1]["agent_obsk"] == 2


def test_steps_are_written_alike_in_all_options():
    given = options("--total-env-steps", "2M", "--phase-switch", "500k")
    assert (given.total_env_steps, given.phase_switch) == (2_000_000, 500_000)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_takes_its_scenarios_by_that_name_and_its_own(suite):
    some = SUITES[suite].default
    for name in ("scenario", SUITES[suite].option):
        assert options(f"--{name}", some, some, suite=suite).scenarios == (some,)


def test_the_switch_is_the_given_one_else_the_published_one_else_a_share():
    published = ("--preset", "published")
    assert switch_of(options("--phase-switch", "500", *published), "Ant-4x2") == 500
    assert switch_of(options(*published), "Ant-4x2") == 4_000_000
    assert switch_of(options("--total-env-steps", "1000000", *published), "Ant-4x2") == 0.3
    assert switch_of(options(), "Ant-4x2") == switch_of(options(*published), "Hopper-3x1") == 0.3


@pytest.mark.parametrize("kind", PRESETS)
def test_every_preset_gives_a_valid_trial_of_4000_steps_an_iteration(kind):
    named = [scenario for scenario in PRESETS[kind]["mamujoco"] if scenario != "*"]
    configs = trials(options("--preset", kind, "--scenario", *named, "Hopper-3x1", "--seeds", "2"))
    assert len(configs) == 2 * (len(named) + 1)
    for name, config in configs.items():
        assert config.total_train_batch_size == 4000 == preset_of("mamujoco", name.scenario, kind).train_batch_size
        assert name.obs == ("global" if name.scenario == "Humanoid-9|8" else "local k=1")


def test_passes_over_a_batch_are_the_presets_or_the_given_ones():
    published = ["--preset", "published"]
    for given, expected in (([], 10), (published, 3), (["--num-epochs", "4"], 4), (["--algorithm", "a2po"], 10)):
        (config,) = trials(options("--scenario", "Ant-4x2", *given)).values()
        assert config.num_epochs == expected
    found = trials(options("--scenario", "HalfCheetah-2x3", "Walker2d-2x3", "Humanoid-9|8", *published))
    assert {name.scenario: config.num_epochs for name, config in found.items()} == {
        "HalfCheetah-2x3": 5,
        "Walker2d-2x3": 3,
        "Humanoid-9|8": 3,
    }


def test_the_recommended_recipe_decays_over_the_budget_and_the_published_one_is_the_papers():
    (config,) = trials(options("--total-env-steps", "1000000")).values()
    assert config.plan().rates["critic"] == [[0, 3e-4], [1_000_000, 0.0]]
    assert (config.minibatch_size, config.grad_clip, config.network_settings["obs_norm"]) == (500, 0.5, "running")
    (config,) = trials(options("--num-learners", "2")).values()
    assert config.minibatch_size == 250  # of each learner
    (config,) = trials(options("--preset", "published")).values()
    assert config.plan().rates["critic"] == 3e-4
    assert (config.minibatch_size, config.grad_clip, config.network_settings["obs_norm"]) == (None, 10.0, "layer")
    with pytest.raises(ValueError, match="--preset published: the paper has no smax; it has mamujoco, smac"):
        trials(options("--preset", "published", suite="smax"))


def test_the_recommended_recipe_is_what_configs_begin_with():
    (config,) = trials(options("--methods", "ps", "--total-env-steps", "1M", "--scenario", "Hopper-3x1")).values()
    trusting = MAPPOConfig().environment(config.env, env_config=config.env_config)
    trusting.sharing("ps", total_env_steps=1_000_000)
    assert trusting.plan().rates == config.plan().rates
    assert trusting.plan().policy == config.plan().policy
    assert trusting.plan().update == config.plan().update
    assert trusting.total_train_batch_size == config.total_train_batch_size


def test_a_preset_says_how_batches_are_learnt_from_and_given_settings_overrule_it(monkeypatch):
    recipe = Preset(minibatch_size=500, lr=1e-3, lr_decay=True, grad_clip=0.5, network="normalised")
    monkeypatch.setitem(PRESETS["recommended"]["mamujoco"], "Hopper-3x1", recipe)
    arguments = ["--scenario", "Hopper-3x1", "--total-env-steps", "1M"]
    for algorithm in ("mappo", "a2po"):
        (config,) = trials(options(*arguments, "--algorithm", algorithm)).values()
        assert (config.minibatch_size, config.grad_clip) == (500, 0.5)
        assert config.plan().rates["backbone"] == [[0, 1e-3], [1_000_000, 0.0]]
        assert config.network_settings["obs_norm"] == "running"
    (config,) = trials(options(*arguments, "--smoke")).values()
    config.validate()
    (config,) = trials(options(*arguments, "--set", 'lr=["linear", 2e-3]', "minibatch_size=null")).values()
    assert config.plan().rates["backbone"] == [[0, 2e-3], [1_000_000, 0.0]] and config.minibatch_size is None
    (config,) = trials(options(*arguments, "--set", "lr=2e-3")).values()
    assert config.plan().rates["backbone"] == 2e-3


def test_an_unknown_scenario_fails_before_anything_starts():
    with pytest.raises(ValueError, match=r"agent_conf='5x5'.*HalfCheetah"):
        trials(options("--scenario", "HalfCheetah-5x5"))


def test_every_trial_of_a_search_space_gets_its_own_settings():
    configs = {str(name): config for name, config in trials(options("--methods", *BY_AGENT, "--seeds", "2")).items()}
    space = _space(configs)
    for name, config in configs.items():
        wanted = config.to_dict()
        spec = type("Spec", (), {"config": {"trial_name": name}})()
        for key in ("seed", "method", "schedule", "lr", "env_config"):
            value = space[key]
            value = value.func(spec) if hasattr(value, "func") else value
            assert value == wanted[key], (name, key)
    assert OfTrial({"a": 1})(type("Spec", (), {"config": {"trial_name": "a"}})()) == 1


def result(iteration, steps, value, evaluation=None, episodes=5):
    line = {
        "training_iteration": iteration,
        "num_env_steps_sampled_lifetime": steps,
        "env_runners": {"episode_return_mean": value, "num_episodes_lifetime": episodes},
        "phase": "backbone" if steps < 200 else "adapters",
        "time_total_s": steps / 10,
    }
    return line | (
        {"evaluation": {"env_runners": {"episode_return_mean": evaluation}}} if evaluation is not None else {}
    )


def test_a_curve_leaves_out_what_was_repeated_or_overwritten(tmp_path):
    lines = [
        result(1, 100, 0.0, episodes=0),
        result(2, 200, 1.0, evaluation=7.0),
        result(3, 300, 9.0, evaluation=7.0),
        result(3, 300, 2.0, evaluation=7.0),
    ]
    run = TrialName("A-1x1", "global", "a2po", "lora", 4)
    curve = read_trial(map(json.dumps, lines), asdict(run))
    assert curve[list(asdict(run))].drop_duplicates().to_numpy().tolist() == [list(asdict(run).values())]
    assert curve["env_steps"].tolist() == [200, 300]
    assert curve["episode_return"].tolist() == [1.0, 2.0]
    assert curve["evaluation_return"].dropna().tolist() == [7.0]
    write_csv(curve, tmp_path / "deep" / "curves.csv")
    assert pd.read_csv(tmp_path / "deep" / "curves.csv").columns.tolist() == COLUMNS
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["curves.csv"]


@pytest.fixture
def curves():
    rows = [
        (
            "A-1x1",
            "global",
            algorithm,
            method,
            seed,
            steps,
            base + seed + (algorithm == "a2po"),
            base,
            None,
            None,
            "adapters" if method == "lora" and steps > 40 else "backbone",
            3,
            60,
            "ray 1.0",
            "abc",
        )
        for algorithm in ("mappo", "a2po")
        for method, base in (("ps", 0.0), ("lora", 10.0))
        for seed in (1, 2, 3)
        for steps in range(10, 101, 10)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_the_table_is_the_mean_over_seeds_of_the_last_tenth(curves):
    curves.loc[(curves["seed"] == 1) & (curves["env_steps"] == 90), "episode_return"] = 1e6  # not in the last tenth
    rows = summary(curves)
    assert rows.set_index(["algorithm", "method"]).loc[("a2po", "lora"), "lowest"] == 12.0
    rows = rows[rows["algorithm"] == "mappo"].set_index("method")
    assert rows.loc["ps", "final_return"] == pytest.approx(2.0)
    assert rows.loc["lora", "final_return"] == pytest.approx(12.0)
    assert rows.loc["ps", "interval"] == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)  # sd 1, 2 degrees of freedom
    assert rows.loc["ps", ["lowest", "highest", "seeds"]].tolist() == [1.0, 3.0, 3]
    assert rows.loc["ps", "greedy_interval"] == 0.0
    assert len(final_returns(curves)) == 12
    assert rich_table(summary(curves)).row_count == 4
    assert math.isnan(half_width(np.array([1.0])))
    assert summary(curves[curves["seed"] < 3])[["interval", "greedy_interval"]].isna().all(axis=None)


def test_greedy_returns_have_their_own_interval(curves):
    curves["evaluation_return"] += 100 * curves["seed"]
    cells = cells_of(summary(curves))
    assert cells[1][cells[0].index("greedy")] == "200 ± 248"  # sd 100, 2 degrees of freedom
    assert cells_of(summary(curves[curves["seed"] == 1]))[1][cells[0].index("greedy")] == "100"


def test_the_figure_is_drawn_and_marks_the_switch(curves, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    marked = []
    monkeypatch.setattr(Axes, "axvline", lambda panel, x, **kw: marked.append(x))
    draw_curves(curves, tmp_path / "figure.png", "a study")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert marked == [pytest.approx(0.05)] * 2  # thousands: a short run


@pytest.fixture
def battles(curves):
    """Battles: won ones while training, and every third row a greedy evaluation that wins twice as many."""
    won = curves["env_steps"] / 250 + (curves["method"] == "lora") * 0.05 + curves["seed"] / 100
    greedy = (2 * won).where(curves["env_steps"] % 30 == 10)
    return curves.assign(win_rate=won, evaluation_win_rate=greedy)


def test_battles_are_measured_by_greedy_win_rates(battles):
    rows = summary(battles[battles["algorithm"] == "mappo"]).set_index("method")
    assert rows.loc["ps", "greedy_win_rate"] == pytest.approx(2 * (0.4 + 0.02))
    assert rows.loc["lora", "final_win_rate"] == pytest.approx(0.4 + 0.05 + 0.02)
    assert rows.loc["ps", ["lowest", "highest"]].tolist() == pytest.approx([0.82, 0.86])
    table = rich_table(rows.reset_index())
    assert table.title.startswith("Win rate") and list(table.columns[4].cells) == ["84%", "94%"]


def test_the_figure_of_battles_shows_win_rates_at_evaluations(battles, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda panel, x, y, *a, **kw: drawn.append(y) or plot(panel, x, y, *a, **kw))
    draw_curves(battles, tmp_path / "figure.png", "battles")
    assert len(drawn) == 4 and all(y.min() >= 0 and y.max() <= 1 for y in drawn)
    assert drawn[0][-1] == pytest.approx(0.84)


def test_wins_travel_from_results_to_curves():
    line = result(2, 200, 1.0, evaluation=7.0)
    line["env_runners"]["win_rate"] = 0.25
    line["evaluation"]["env_runners"]["win_rate"] = 0.5
    again = {**line, "training_iteration": 3, "num_env_steps_sampled_lifetime": 300}
    curve = read_trial(map(json.dumps, [line, again]), asdict(TrialName("3m", "local", "mappo", "ps", 1)))
    assert curve["win_rate"].tolist() == [0.25, 0.25]
    assert curve["evaluation_win_rate"].dropna().tolist() == [0.5]  # one evaluation, repeated by RLlib


def test_every_suite_makes_valid_trials_of_its_presets():
    configs = trials(options("--map", "3s5z", "2s3z", "--methods", *METHODS, suite="smax"))
    assert len(configs) == 2 * len(METHODS)
    for name, config in configs.items():
        assert config.env == "smax" and config.env_config["map_name"] == name.scenario
        assert config.adapter_key == METHODS[name.method].adapter_key
        assert config.evaluation_duration == 32
    pruned = trials(options("--map", "3s5z", "--state", "pruned", "--network", "published", suite="smax"))
    (config,) = pruned.values()
    assert config.env_config["state"] == "pruned" and config.plan().policy.network.recurrent
    assert config.plan().policy.critic_input == "agent_state"


def test_the_synthetic_teams_scenarios_set_how_agents_differ():
    of = SUITES["synthetic"].environment
    assert of(options(suite="synthetic"), "64")[1] == {
        "num_agents": 64, "obs_size": 8, "shared_reward": False, "difference": 1.0
    }  # fmt: skip
    by_role = ("--scenario", "12:roles=4,difference=0.5", "--methods", "lora-role")
    (config,) = trials(options(*by_role, suite="synthetic")).values()
    assert config.team_spec().num_roles == 4 and config.team_spec().obs_sizes == (12,) * 12
    assert config.env_config["difference"] == 0.5 and config.env_config["targets"] == "role"
    for wrong in ("colour=4", "roles=1.5"):
        with pytest.raises(ValueError, match=rf"12:{wrong}: {wrong} is not a setting; use difference.*roles"):
            trials(options("--scenario", f"12:{wrong}", suite="synthetic"))
    for wrong in ("0", "12:", "12:roles", "12:roles=4,"):
        with pytest.raises(SystemExit):
            options("--scenario", wrong, suite="synthetic")


def test_smac_chooses_the_package_by_the_name_of_the_map():
    suite, given = SUITES["smac"], options(suite="smac")
    assert suite.environment(given, "3s5z") == ("smac", {"map_name": "3s5z", "state": "pruned"})
    assert suite.environment(given, "zerg_10_vs_11")[0] == "smacv2"
    assert preset_of("smac", "3s5z_vs_3s6z").lambda_ == 0.90 and preset_of("smac", "MMM2").lambda_ == 0.95
    assert preset_of("smac", "MMM2").train_batch_size == 3200


def test_a_page_shows_labels_and_leaves_out_what_never_differs(curves):
    head, rule, *lines = markdown(summary(curves)).splitlines()
    assert head.startswith("| algorithm | method | final return |") and "env steps" not in head and "obs" not in head
    assert set(rule) <= set("| -") and len(lines) == 4 and "| mappo | PS (one shared policy) |" in lines[0]
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1


@pytest.mark.parametrize(("largest", "shown"), [(1e5, 0), (100, 0), (10, 1), (1, 2), (0.5, 2), (1e-9, 3), (0, 0)])
def test_returns_are_shown_with_three_figures(curves, largest, shown):
    rows = summary(curves)[:1]
    columns = ["final_return", "interval", "lowest", "highest", "greedy_return", "greedy_interval"]
    rows[columns] *= largest / rows["final_return"].iloc[0]
    head, row = cells_of(rows)
    for name in ("final return", "95 % interval", "greedy"):
        numbers = row[head.index(name)].removeprefix("± ").split(" ± ")
        assert {len(number.partition(".")[2]) for number in numbers} == {shown}


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_table_fits_the_window(curves, columns, capsys):
    Console(width=columns).print(rich_table(summary(curves), columns))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns and "lora" in "".join(lines) and "…" not in "".join(lines)
    whole = " ".join(" ".join(lines).split())
    assert all(told in whole for told in ("A-1x1", "global", "mappo", "100"))


def test_final_returns_are_drawn_with_a_point_for_every_seed(curves, tmp_path):
    draw_finals(curves, tmp_path / "finals.png", "a study")
    assert (tmp_path / "finals.png").stat().st_size > 10_000


def test_a_study_without_a_finished_episode_still_tells_its_checkpoints(tmp_path, capsys):
    run = TrialName("A-1x1", "global", "mappo", "lora", 1)
    nothing = read_trial([json.dumps(result(1, 100, 0.0, episodes=0))], asdict(run))
    saved = type("Saved", (), {"path": f"{tmp_path}/trial/checkpoint_000000"})
    report(Console(width=150), nothing, str(tmp_path / "study"), {str(run): saved}, options())
    told = capsys.readouterr().out
    assert "No table, no figure: no episode ended" in told and "trial/checkpoint_000000" in told
    assert sorted(file.name for file in (tmp_path / "study").iterdir()) == ["command.txt", "curves.csv"]
    assert pd.read_csv(tmp_path / "study" / "curves.csv").columns.tolist() == COLUMNS


@pytest.mark.parametrize(
    ("iterations", "interval"), [(1, 1), (10, 10), (25, 25), (100, 20), (110, 22), (750, 30), (2500, 100)]
)
def test_evaluations_are_few_and_the_last_is_close_to_the_end(iterations, interval):
    assert evaluation_interval(iterations) == interval
    assert iterations % interval <= interval // 2
