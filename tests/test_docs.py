"""The pages that are made from code, and those that describe it, are complete and true."""

from __future__ import annotations

from pathlib import Path

import pytest
import settings_page
from ray.rllib.algorithms.ppo.ppo import PPOConfig

from lorasa_rllib.rllib.ranges import SETTINGS
from lorasa_rllib.rllib.validation import WORKS

ROOT = Path(__file__).parents[1]
REFUSED = set(vars(PPOConfig())) - WORKS


@pytest.mark.parametrize("setter", settings_page.SETTERS)
def test_every_setting_has_what_it_does_its_range_and_when_to_change_it(setter):
    rows = settings_page.rows(setter)
    for row in rows:
        for column in ("default", "what", "allowed", "usual", "when"):
            assert getattr(row, column), f".{setter}({row.name}=...) lacks {column!r}: see docs/generate/advice.py"
    ranges = {setting.name: str(setting) for setting in SETTINGS if setting.setter == setter}
    assert set(ranges) <= {row.name for row in rows}, "add these to docs/generate/advice.py"
    told = {row.name: row.allowed for row in rows}
    assert all(told[name].replace("`", "") == text for name, text in ranges.items() if name != "use_kl_loss")


@pytest.mark.parametrize("setter", settings_page.SETTERS)
def test_settings_that_are_left_out_are_refused(setter):
    """So a new one cannot be forgotten: it works, hence it needs a line in docs/generate/advice.py."""
    for name in settings_page.refused(setter):
        assert {name, f"_{name}"} & REFUSED, f".{setter}({name}=...) works: describe it in docs/generate/advice.py"


def test_advice_is_of_settings_that_exist_and_work():
    for setter in settings_page.SETTERS:
        advised = set(settings_page.ADVICE[setter])
        assert advised <= set(settings_page.names(setter))
        assert not advised & REFUSED, "these are refused: take them out of docs/generate/advice.py"


def test_the_version_stands_in_one_place():
    import lorasa_rllib

    assert "attr: lorasa_rllib.__version__" in (ROOT / "setup.cfg").read_text()
    assert f"\nversion: {lorasa_rllib.__version__}\n" in (ROOT / "CITATION.cff").read_text()
