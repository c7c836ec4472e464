"""A self-contained HTML page of figures and tables, without external files, scripts or a server."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin-top: 1.8rem; }
img { max-width: min(100%, 44rem); height: auto; } figure { margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #eee; } th { background: #f6f6f6; }
td:first-child, th:first-child, table.facts td { text-align: left; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; } p.note { color: #555; }
@media (prefers-color-scheme: dark) {
  body { background: #1c1e22; color: #ddd; } th, pre { background: #2a2d33; } p.note { color: #aaa; }
  a { color: #8ab4f8; }
  th, td { border-color: #3a3d44; } h2 { border-color: #444; } img { background: #fff; border-radius: 6px; }
}
"""


@dataclass(frozen=True)
class Part:
    """A section of a report: a heading (level 2 or 3), an explanation, a figure, a table."""

    title: str
    text: str = ""
    figure: Path | None = None
    table: pd.DataFrame | None = None
    level: int = 3


def write_report(
    path: Path, title: str, facts: Mapping[str, object], parts: Sequence[Part], commands: Sequence[str]
) -> None:
    """Writes the page atomically. facts: a table at the top. commands: those that produced it, shown at the end.

    All arguments are plain text and are escaped. Figures are PNG files and are embedded in the page.
    """
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    contents = "".join(
        f'<li><a href="#part-{k}">{escape(part.title)}</a></li>' for k, part in enumerate(parts) if part.level == 2
    )
    body = "\n".join(_html(k, part) for k, part in enumerate(parts))
    made = escape("\n".join(commands))
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<table class="facts">{rows}</table>\n<ul>{contents}</ul>\n'
        f"{body}\n<h2>Made by</h2>\n<pre>{made}</pre>\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _html(k: int, part: Part) -> str:
    lines = [f'<h{part.level} id="part-{k}">{escape(part.title)}</h{part.level}>']
    if part.text:
        lines.append(f'<p class="note">{escape(part.text)}</p>')
    if part.figure is not None:
        picture = base64.b64encode(part.figure.read_bytes()).decode()
        lines.append(f'<figure><img alt="{escape(part.title)}" src="data:image/png;base64,{picture}"></figure>')
    if part.table is not None:
        whole = dict.fromkeys(part.table.select_dtypes("integer"), "{:,}".format)
        lines.append(
            part.table.to_html(index=False, border=0, na_rep="", formatters=whole, float_format=lambda x: f"{x:,.4g}")
        )
    return "\n".join(lines)
