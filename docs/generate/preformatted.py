"""Docstrings of this package line up their columns and show code by indentation: these paragraphs stay as typed."""

from __future__ import annotations

from typing import Any

import griffe


class Preformatted(griffe.Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None and "Args:" not in obj.docstring.value:
            obj.docstring.value = "\n\n".join(map(_fenced, obj.docstring.value.split("\n\n")))


def _fenced(paragraph: str) -> str:
    lines = paragraph.splitlines()
    aligned = any("   " in line.strip() or line.startswith(" ") for line in lines)
    return f"```python\n{paragraph}\n```" if aligned else paragraph
