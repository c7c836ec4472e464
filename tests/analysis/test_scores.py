"""Aggregate scores: worked out by hand, against SciPy, and what intervals must and must not react to."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from lorasa_rllib.analysis.scores import (
    MEASURES,
    aggregate,
    every_pair,
    improvement,
    interquartile_mean,
    normalised,
    pair_table,
    performance_profile,
    tidy,
)

FEW = 200  # repetitions where intervals themselves are not tested
NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))
RUNS = st.lists(NUMBERS, min_size=1, max_size=9)
MANY_RUNS = st.lists(NUMBERS, min_size=2, max_size=9)


def table(methods: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Scores of methods by method and task."""
    rows = [
        (task, method, seed, score)
        for method, tasks in methods.items()
        for task, scores in tasks.items()
        for seed, score in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score"])


def of(frame: pd.DataFrame, measure: str, method: str = "a") -> pd.Series:
    return frame[(frame["measure"] == measure) & (frame["method"] == method)].iloc[0]


def normal(seeds: int, seed: int = 0, centre: float = 0.0) -> list[float]:
    return np.random.default_rng(seed).normal(centre, 1.0, seeds).tolist()


def test_all_measures_of_two_tasks_by_hand():
    scores = table({"a": {"one": [0.0, 0.2, 0.4, 2.0], "two": [1.0, 1.2, 0.8, 5.0]}})
    found = aggregate(scores, FEW).set_index("measure")
    assert found.loc["iqm", "value"] == pytest.approx((0.4 + 0.8 + 1.0 + 1.2) / 4)  # 0, 0.2 and 2, 5 left out
    assert found.loc["mean", "value"] == pytest.approx((0.65 + 2.0) / 2)
    assert found.loc["median", "value"] == pytest.approx((0.65 + 2.0) / 2)
    assert found.loc["optimality_gap", "value"] == pytest.approx(1 - (0.0 + 0.2 + 0.4 + 1 + 1 + 1 + 0.8 + 1) / 8)
    assert (found["tasks"] == 2).all() and (found["seeds"] == 4).all()


def test_the_median_is_that_of_task_means():
    scores = table({"a": {"one": [0.0, 1.0], "two": [10.0, 20.0], "three": [3.0, 3.0]}})
    assert of(aggregate(scores, FEW), "median")["value"] == 3.0


@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_the_interquartile_mean_of_equally_many_seeds_is_scipys_trimmed_mean(seeds, tasks, data):
    runs = [np.array(data.draw(st.lists(NUMBERS, min_size=seeds, max_size=seeds))) for _ in range(tasks)]
    expected = trim_mean(np.concatenate(runs), 0.25)
    assert interquartile_mean(runs) == pytest.approx(expected, abs=1e-9)


def test_the_interquartile_mean_weighs_tasks_alike_however_many_seeds_they_have():
    many, few = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), np.array([100.0, 101.0])
    # 1/16 each and 1/4 each: the quarters at the ends are 0 .. 3 and 101
    assert interquartile_mean([many, few]) == pytest.approx(((4 + 5 + 6 + 7) / 16 + 100 / 4) / (4 / 16 + 1 / 4))


def test_the_interquartile_mean_does_not_know_the_order_of_tasks_among_equal_scores():
    few, many = np.array([0.0, 9.0]), np.array([0.0, 9.0, 9.0, 9.0])
    # sorted weights of the zeros: 1/8 (left out), 1/4; of the nines: 1/8 thrice, 1/4 (left out)
    expected = 9 * 3 / 8 / (1 / 4 + 3 / 8)
    assert interquartile_mean([few, many]) == interquartile_mean([many, few]) == pytest.approx(expected)


@given(RUNS, st.lists(RUNS, min_size=1, max_size=3), st.integers(1, 3))
def test_more_of_the_same_seeds_on_one_task_move_no_mean(first, rest, times):
    runs = [np.array(task) for task in (first, *rest)]
    more = [np.array(first * times), *runs[1:]]
    for name in ("mean", "median", "optimality_gap"):
        assert MEASURES[name](more) == pytest.approx(MEASURES[name](runs), abs=1e-9)


@given(st.lists(MANY_RUNS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_other_methods_do_not_matter(tasks, random):
    scores = table({"a": {f"task {k}": runs for k, runs in enumerate(tasks)}})
    order = list(range(len(scores)))
    random.shuffle(order)
    others = scores.assign(method="b", score=scores["score"] + 1)
    found = aggregate(pd.concat([scores.iloc[order], others]), FEW)
    pd.testing.assert_frame_equal(found[found["method"] == "a"], aggregate(scores, FEW))


def test_several_resamples_at_once_give_what_one_at_a_time_gives():
    random = np.random.default_rng(0)
    samples = [random.normal(size=(5, 4)), random.normal(size=(5, 7))]
    for name, measure in MEASURES.items():
        one_by_one = [measure([task[k] for task in samples]) for k in range(5)]
        np.testing.assert_allclose(measure(samples), one_by_one, err_msg=name)


def test_intervals_shrink_with_seeds_and_hold_the_value():
    frames = [aggregate(table({"a": {"one": normal(n, 1), "two": normal(n, 2)}})) for n in (4, 16, 64)]
    for name in MEASURES:
        rows = [of(frame, name) for frame in frames]
        assert all(row["low"] < row["value"] < row["high"] for row in rows), name
        widths = [row["high"] - row["low"] for row in rows]
        assert widths[0] > 1.3 * widths[1] > 1.3**2 * widths[2], (name, widths)


def test_the_interval_of_a_mean_is_that_of_theory():
    seeds = np.array(normal(50))
    row = of(aggregate(table({"a": {"one": seeds.tolist()}}), 5000), "mean")
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * seeds.std() / math.sqrt(50), rel=0.07)


def test_seeds_are_drawn_within_tasks():
    """Were runs drawn from all tasks together, tasks of different heights would add width."""
    constant = aggregate(table({"a": {"low": [0.0] * 5, "high": [50.0] * 5}}), FEW)
    np.testing.assert_array_equal(constant[["low", "high"]], constant[["value", "value"]])
    noisy = normal(6)
    alone = of(aggregate(table({"a": {"z": noisy}})), "mean")
    beside = of(aggregate(table({"a": {"z": noisy, "constant": [50.0] * 6}})), "mean")
    assert beside["high"] - beside["low"] == pytest.approx((alone["high"] - alone["low"]) / 2, rel=0.1)


def test_with_one_seed_of_any_task_there_are_values_but_no_intervals():
    scores = table({"a": {"one": [0.5], "two": [0.1, 0.2, 0.3]}, "b": {"one": [0.2, 0.3], "two": [0.1, 0.2, 0.4]}})
    frame = aggregate(scores, FEW)
    a, b = (frame[frame["method"] == method] for method in "ab")
    assert a[["low", "high"]].isna().all(axis=None) and b[["low", "high"]].notna().all(axis=None)
    assert frame["value"].notna().all()
    assert set(a["seeds"]) == {1} and set(b["seeds"]) == {2}
    assert improvement(scores, [("a", "b")], FEW)[["low", "high"]].isna().all(axis=None)
    profile = performance_profile(scores, repetitions=FEW)
    assert (profile["low"].isna() == (profile["method"] == "a")).all()


@given(RUNS, RUNS)
def test_improvement_on_one_task_is_mann_and_whitneys_u(x, y):
    value = improvement(table({"a": {"one": x}, "b": {"one": y}}), [("a", "b")], 1)["value"].item()
    assert value == pytest.approx(mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)))


def test_improvement_of_equal_dominating_and_tied_methods():
    scores = table(
        {
            "a": {"one": [1.0, 2.0, 3.0], "two": [5.0, 5.0]},
            "same": {"one": [3.0, 1.0, 2.0], "two": [5.0, 5.0]},
            "best": {"one": [4.0, 5.0], "two": [6.0, 6.0, 7.0]},
            "ahead": {"one": [4.0, 5.0], "two": [5.0, 5.0]},
        }
    )
    pairs = [("a", "same"), ("best", "a"), ("a", "best"), ("ahead", "a"), ("a", "a")]
    found = improvement(scores, pairs, FEW)
    assert found["value"].tolist() == [0.5, 1.0, 0.0, 0.75, 0.5]
    assert found[["x", "y"]].to_records(index=False).tolist() == pairs
    assert found.loc[1, ["low", "high"]].tolist() == [1.0, 1.0]
    assert found.loc[0, "low"] < 0.5 < found.loc[0, "high"]


@given(RUNS, RUNS)
def test_improvement_of_the_one_and_of_the_other_add_up_to_one(x, y):
    found = improvement(table({"a": {"one": x}, "b": {"one": y}}), [("a", "b"), ("b", "a")], 1)
    assert found["value"].sum() == pytest.approx(1)


@given(st.lists(MANY_RUNS, min_size=1, max_size=3))
def test_profiles_fall_from_all_runs_to_none(tasks):
    scores = table({"a": {f"task {k}": runs for k, runs in enumerate(tasks)}})
    low, high = scores["score"].min(), scores["score"].max()
    profile = performance_profile(scores, [high, low - 1, *np.linspace(low, high, 7)], FEW)
    assert profile["threshold"].is_monotonic_increasing
    for column in ("share", "low", "high"):
        assert profile[column].is_monotonic_decreasing, column
    assert profile["share"].iloc[0] == pytest.approx(1) and profile["share"].iloc[-1] == 0
    assert (profile["low"] <= profile["high"]).all()


def test_a_profile_by_hand():
    scores = table({"a": {"one": [0.0, 1.0], "two": [1.0, 2.0, 3.0, 4.0]}})
    profile = performance_profile(scores, [0.0, 1.0, 2.5, 4.0], FEW)
    assert profile["share"].tolist() == [(1 / 2 + 1) / 2, (0 + 3 / 4) / 2, (0 + 2 / 4) / 2, 0.0]


def test_normalised_scores_are_one_at_the_mean_of_the_baseline():
    scores = table(
        {
            "ps": {"running": [100.0, 300.0], "spreading": [-10.0, -30.0]},
            "lora": {"running": [400.0], "spreading": [-20.0, 0.0, -40.0]},
        }
    )
    found = normalised(scores, "ps").groupby(["method", "task"])["score"].apply(list)
    assert found["ps", "running"] == [0.5, 1.5]
    assert found["lora", "running"] == [2.0]
    assert found["lora", "spreading"] == [1.0, 2.0, 0.0]
    assert scores["score"].iloc[0] == 100.0  # the table that was given is as it was


@given(st.floats(0.1, 100), st.lists(NUMBERS, min_size=1, max_size=5))
def test_the_unit_of_a_task_does_not_matter(scale, lora):
    scores = table({"ps": {"one": [50.0, 60.0]}, "lora": {"one": lora}})
    once = normalised(scores, "ps")
    again = normalised(scores.assign(score=scores["score"] * scale), "ps")
    np.testing.assert_allclose(again["score"], once["score"], atol=1e-9)


def test_win_rates_beside_returns_are_in_units_of_the_baseline_too():
    scores = table({"ps": {"battle": [0.2, 0.2], "run": [2.0, 2.0]}, "lora": {"battle": [0.5], "run": [3.0]}})
    scores["measure"] = np.where(scores["task"] == "battle", "win_rate", "return")
    np.testing.assert_allclose(normalised(scores, "ps")["score"], [1.0, 1.0, 1.0, 1.0, 2.5, 1.5])


@pytest.mark.parametrize("base", [[1.0, -1.0], [0.0], [0.05, 0.05], [3.0, -1.0]])
def test_a_baseline_near_zero_is_refused(base):
    with pytest.raises(ValueError, match="mean near zero on task 'one'"):
        normalised(table({"ps": {"one": base}, "lora": {"one": [100.0]}}), "ps")


def test_a_baseline_without_runs_is_refused():
    with pytest.raises(ValueError, match=r"'nps' has no runs on task 'one', only \['ps'\]"):
        normalised(table({"ps": {"one": [1.0]}}), "nps")


@pytest.mark.parametrize("use", [lambda s: aggregate(s, 1), lambda s: improvement(s, [("a", "b")], 1)])
def test_tables_that_do_not_compare_are_refused(use):
    whole = table({"a": {"one": [1.0, 2.0], "two": [1.0]}, "b": {"one": [1.0], "two": [2.0]}})
    use(whole)
    with pytest.raises(ValueError, match=r"'b' has no runs on \['two'\]"):
        use(whole[:-1])
    with pytest.raises(ValueError, match=r"no finite score: \[\('one', 'a', 1\)\]"):
        use(whole.assign(score=[1.0, math.nan, 1.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match=r"more than once: \[\('one', 'a', 0\)\]"):
        use(whole.assign(seed=0)[:-1])
    with pytest.raises(ValueError, match=r"lack the columns \['score'\]"):
        use(whole.drop(columns="score"))
    with pytest.raises(ValueError, match="hold no runs"):
        use(whole[:0])


def test_pairs_of_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"no runs of \['c'\]"):
        improvement(table({"a": {"one": [1.0]}}), [("a", "c")])


def returns(*rows: tuple) -> pd.DataFrame:
    columns = ["scenario", "obs", "algorithm", "method", "seed", "final_return", "greedy_return", "greedy_win_rate"]
    return pd.DataFrame(rows, columns=columns)


def test_returns_of_studies_become_scores():
    frame = returns(
        ("3s5z", "own", "mappo", "ps", 1, 12.0, 14.0, 0.25),
        ("Ant-4x2", "local", "mappo", "ps", 1, 900.0, 1000.0, math.nan),
        ("Ant-4x2", "global", "mappo", "ps", 1, 950.0, 1000.0, math.nan),
    )
    found = tidy(frame)
    assert found["task"].tolist() == ["3s5z", "Ant-4x2, local", "Ant-4x2, global"]
    assert found["method"].tolist() == ["ps", "ps", "ps"]
    assert found["score"].tolist() == [0.25, 900.0, 950.0]
    assert found["measure"].tolist() == ["win_rate", "return", "return"]
    plain = tidy(frame.drop(columns="greedy_win_rate"))
    assert plain["score"].tolist() == [12.0, 900.0, 950.0] and set(plain["measure"]) == {"return"}


def test_methods_of_several_algorithms_keep_apart():
    frame = returns(
        ("Ant", "local", "mappo", "lora", 1, 1.0, 1.0, math.nan),
        ("Ant", "local", "a2po", "lora", 1, 2.0, 2.0, math.nan),
    )
    assert tidy(frame)["method"].tolist() == ["mappo lora", "a2po lora"]


def test_every_pair_and_its_reverse_add_up_to_one():
    scores = table(
        {
            name: {"one": runs, "two": runs[::-1]}
            for name, runs in {"a": [1, 2, 3], "b": [2, 3, 4], "c": [3, 3, 3]}.items()
        }
    )
    better = every_pair(scores, 50).set_index(["x", "y"])
    assert len(better) == 6
    for x, y in (("a", "b"), ("a", "c"), ("b", "c")):
        assert better.loc[(x, y), "value"] + better.loc[(y, x), "value"] == pytest.approx(1)
        direct = improvement(scores, [(y, x)], 50).iloc[0]
        assert better.loc[(y, x), "value"] == pytest.approx(direct["value"])
        assert better.loc[(y, x), "low"] == pytest.approx(1 - better.loc[(x, y), "high"])
    shown = pair_table(every_pair(scores, 50), {"a": "A", "b": "B", "c": "C"})
    assert list(shown) == ["beats", "A", "B", "C"] and shown.loc[0, "A"] == "" and "%" in shown.loc[1, "A"]
