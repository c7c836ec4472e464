"""Parsing of values given on command lines."""

from __future__ import annotations

import ast
import json
from typing import Any


def literal(text: str) -> Any:
    """Parses `text` as JSON or as a Python literal; otherwise returns the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value)  # values that cannot be stored with the experiment stay text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value
