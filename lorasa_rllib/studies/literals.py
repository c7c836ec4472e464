"""Values of command lines."""

from __future__ import annotations

import ast
import json
from typing import Any


def literal(text: str) -> Any:
    """A value as JSON or as Python writes it, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value)  # what cannot be kept with the experiment is text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value
