"""How to install what is missing, as all messages say it. Imports nothing of ours."""

from __future__ import annotations


def installing(extra: str = "") -> str:
    """The command that adds an extra of setup.cfg: this package is installed from its folder, not from a registry."""
    what = f'".[{extra}]"' if extra else "."
    return f"pip install -e {what} -c constraints.txt (in the project's folder)"
