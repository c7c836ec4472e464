"""Figures of scores: what they draw, and that they say so where there is one seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from lorasa_rllib.analysis import score_figures
from lorasa_rllib.analysis.score_figures import draw_aggregates, draw_improvement, draw_profile
from lorasa_rllib.analysis.scores import aggregate, improvement, performance_profile

PAIRS = [("lora", "ps"), ("ps", "lora")]


def scores(seeds: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        (task, method, seed, centre + 0.2 * random.standard_normal())
        for task in ("one", "two")
        for method, centre in (("ps", 1.0), ("lora", 1.5))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score"])


FIGURES = {
    "aggregates": (draw_aggregates, lambda s: aggregate(s, 100)),
    "improvement": (draw_improvement, lambda s: improvement(s, PAIRS, 100)),
    "profile": (draw_profile, lambda s: performance_profile(s, repetitions=100)),
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved."""
    figures: list = []
    monkeypatch.setattr(score_figures, "save", lambda figure, path: figures.append(figure))
    return figures


def words(figure) -> str:
    legends = [text for panel in figure.axes if panel.get_legend() for text in panel.get_legend().get_texts()]
    texts = [text for panel in figure.axes for text in panel.texts]
    return " | ".join(text.get_text() for text in [*legends, *texts])


@pytest.mark.parametrize("name", FIGURES)
def test_one_seed_is_said_and_several_are_not(name, drawn, tmp_path):
    draw, table = FIGURES[name]
    for seeds in (1, 5):
        draw(table(scores(seeds)), tmp_path / "unused.png", "Title")
    single, several = drawn
    assert "one seed" in words(single) and "one seed" not in words(several)
    assert single.get_suptitle() == "Title; 2 tasks, 1 seed or more each"
    assert several.get_suptitle() == "Title; 2 tasks, 5 seeds or more each"


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("name", FIGURES)
def test_the_picture_is_there(name, seeds, tmp_path):
    draw, table = FIGURES[name]
    draw(table(scores(seeds)), tmp_path / "new" / "figure.png", "Title")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["figure.png"]
    assert imread(tmp_path / "new" / "figure.png").std() > 0.03


def test_aggregates_show_value_and_interval_of_every_method(drawn, tmp_path):
    frame = aggregate(scores(5), 100)
    draw_aggregates(frame, tmp_path / "unused.png", "Title", labels={"lora": "LoRASA"})
    panels = drawn[0].axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["ps", "LoRASA"]
    for panel, measure in zip(panels, ("iqm", "median", "mean", "optimality_gap"), strict=True):
        rows = frame[frame["measure"] == measure]
        bars, points = panel.lines[::2], panel.lines[1::2]
        assert [point.get_xdata()[0] for point in points] == rows["value"].tolist()
        assert [list(bar.get_xdata()) for bar in bars] == rows[["low", "high"]].to_numpy().tolist()
        assert panel.get_ylim()[0] > panel.get_ylim()[1]  # the first method on top


def test_improvements_name_both_methods(drawn, tmp_path):
    draw_improvement(improvement(scores(5), PAIRS, 100), tmp_path / "unused.png", "Title", labels={"lora": "LoRASA"})
    names = [label.get_text().split() for label in drawn[0].axes[0].get_yticklabels()]
    assert names == [["LoRASA", "over", "ps"], ["ps", "over", "LoRASA"]]
