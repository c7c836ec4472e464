"""The phase of every moment of a run, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.phases import DEFAULT_SHARE, PhaseSchedule, usual_schedule
from lorasa_rllib.nn.policy import PHASES


@pytest.mark.parametrize(
    ("schedule", "total", "switch", "has_adapters", "steps", "phase"),
    [
        ("two_phase", 100, 40, True, 0, "backbone"),
        ("two_phase", 100, 40, True, 39, "backbone"),
        ("two_phase", 100, 40, True, 40, "adapters"),
        ("two_phase", 100, 40, True, 1000, "adapters"),
        ("two_phase", None, 40, True, 40, "adapters"),
        ("two_phase", 100, 0.25, True, 24, "backbone"),
        ("two_phase", 100, 0.25, True, 25, "adapters"),
        ("two_phase", 100, 0, True, 0, "adapters"),
        ("two_phase", 100, 0.0, True, 0, "adapters"),
        ("two_phase", 100, 40, False, 99, "backbone"),
        ("two_phase", None, None, False, 99, "backbone"),
        ("joint", None, None, True, 0, "joint"),
        ("joint", 100, 40, True, 99, "joint"),
        ("joint", None, None, False, 99, "backbone"),
    ],
)
def test_the_phase_at_a_number_of_steps(schedule, total, switch, has_adapters, steps, phase):
    assert PhaseSchedule(schedule, total, switch, has_adapters).phase_at(steps) == phase


@pytest.mark.parametrize(
    ("total", "switch", "message"),
    [
        (100, 100, "at or beyond the budget"),
        (100, 1000, "at or beyond the budget"),
        (10, 0.99, "at or beyond the budget"),
        (None, 0.5, "total_env_steps is not set"),
        (100, True, "phase_switch=True"),
        (100, False, "phase_switch=False"),
        (None, None, "phase_switch=None"),
        (100, "half", "phase_switch='half'"),
        (100, -1, "phase_switch=-1"),
        (100, -0.1, "phase_switch=-0.1"),
        (100, 1.0, "must lie in"),
        (100, 2.5, "Give a number of steps as an int"),
        (100, float("nan"), "phase_switch=nan"),
        (0, 0, "total_env_steps=0"),
    ],
)
def test_a_switch_that_cannot_happen_is_refused_with_its_value(total, switch, message):
    with pytest.raises(ValueError, match=message):
        PhaseSchedule("two_phase", total, switch)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule='three_phase'"):
        PhaseSchedule("three_phase", 100, 10)


@pytest.mark.parametrize(
    ("total", "switch", "schedule"),
    [(None, None, "joint"), (100, None, "two_phase"), (None, 50, "two_phase"), (100, 0.5, "two_phase")],
)
def test_without_a_word_about_the_switch_adapters_train_from_the_start(total, switch, schedule):
    assert usual_schedule(total, switch) == schedule
    planned = PhaseSchedule(schedule, total, switch)
    assert "adapters" in planned.phase_at(10_000) or planned.phase_at(0) == "joint"


def test_the_usual_switch_is_a_share_of_the_budget():
    assert PhaseSchedule("two_phase", 1000, None).switch_step == DEFAULT_SHARE * 1000


def test_a_team_without_adapters_needs_no_switch():
    assert PhaseSchedule("two_phase", 100, None, has_adapters=False).switch_step is None


@given(steps=st.lists(st.integers(0, 200), min_size=1, max_size=10), switch=st.integers(0, 99))
def test_a_run_never_returns_to_an_earlier_phase(steps, switch):
    schedule, phase, ranks = PhaseSchedule("two_phase", 100, switch), "backbone", []
    for at in steps:  # also when the counter runs backwards, as after restoring an older checkpoint
        phase = schedule.phase_at(at, phase)
        ranks.append(PHASES.index(phase))
    assert ranks == sorted(ranks)
    assert (phase == "adapters") == (max(steps) >= switch)
