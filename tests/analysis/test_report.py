"""The page of a report: everything in one file, and text is text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lorasa_rllib.analysis.canvas import new_figure, save
from lorasa_rllib.analysis.report import Part, write_report


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_figures_tables_and_text_are_inside_and_nothing_is_outside(tmp_path):
    figure, panel = new_figure(2, 2)
    panel.plot([0, 1])
    save(figure, tmp_path / "picture.png")
    table = pd.DataFrame({"layer": ["<mlp.0>"], "count": [1234567], "share": [0.123456], "none": [float("nan")]})
    parts = [Part("A & B", "less < more", tmp_path / "picture.png", level=2), Part("Numbers", table=table)]
    write_report(tmp_path / "sub" / "page.html", "Title <1>", {"seeds": 3}, parts, ["lorasa analyze <folder>"])
    text = (tmp_path / "sub" / "page.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    for shown in ("Title <1>", "A & B", "less < more", "<mlp.0>", "1,234,567", "0.1235", "lorasa analyze <folder>"):
        assert shown in words, shown
    assert "nan" not in words.lower()
    outside = [source for source in page.sources if not source.startswith(("data:image/png;base64,", "#part-"))]
    assert not outside and "script" not in page.tags and "link" not in page.tags
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture) == (tmp_path / "picture.png").read_bytes()
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["page.html"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "page.html", "New", {}, [Part("x", figure=tmp_path / "absent.png")], [])
    assert (tmp_path / "page.html").read_text() == "old"
