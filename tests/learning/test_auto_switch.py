"""The automatic switch: slopes of known curves, limits, and that it survives a checkpoint."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.auto_switch import EARLIEST, LATEST, AutoSwitch
from lorasa_rllib.learning.phases import PhaseSchedule

TOTAL = 100_000


def switch_of(curve, every=500, total=TOTAL) -> int:
    """Steps at which a run with the return curve(share of the budget) switches."""
    schedule = PhaseSchedule("two_phase", total, "auto")
    watcher = schedule.watcher()
    for steps in range(0, total, every):
        if schedule.phase_at(steps, watcher=watcher) == "adapters":
            return steps
        watcher.add(steps + every, curve((steps + every) / total))
    return total


def test_a_curve_that_slows_down_switches_where_its_slope_is_half_of_the_steepest():
    # The slope of 1 - exp(-10 x) over a window that ends at x falls as exp(-10 x): to a half of the first within
    # ln 2 / 10 of the first whole window.
    assert switch_of(lambda x: 1 - math.exp(-10 * x)) == pytest.approx((0.1 + math.log(2) / 10) * TOTAL, abs=3000)


def test_a_curve_that_rises_steadily_or_never_switches_at_the_latest_moment():
    assert switch_of(lambda x: x) == switch_of(lambda x: 0.0) == switch_of(lambda x: -x) == LATEST * TOTAL


def test_a_steep_start_does_not_switch_before_the_earliest_moment():
    assert switch_of(lambda x: min(x, 0.02)) == EARLIEST * TOTAL


@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3), speed=st.floats(3, 30))
def test_units_of_the_return_do_not_matter(scale, offset, speed):
    def curve(x):
        return 1 - math.exp(-speed * x)

    assert switch_of(lambda x: scale * curve(x) + offset) == pytest.approx(switch_of(curve), abs=500)


def test_a_restored_one_decides_alike():
    first = AutoSwitch(TOTAL)
    for steps in range(500, 20_000, 500):
        first.add(steps, 1 - math.exp(-steps / 8000))
    again = AutoSwitch(TOTAL)
    again.set_state(first.get_state())
    for steps in range(20_000, 40_000, 500):
        for one in (first, again):
            one.add(steps, 1 - math.exp(-steps / 8000))
        assert first.due(steps) == again.due(steps)
    assert first.due(39_000)


def test_it_needs_the_budget():
    with pytest.raises(ValueError, match="phase_switch='auto' needs the budget"):
        PhaseSchedule("two_phase", None, "auto")
    assert PhaseSchedule("joint", None, "auto").watcher() is None
    assert PhaseSchedule("two_phase", None, "auto", has_adapters=False).watcher() is None
