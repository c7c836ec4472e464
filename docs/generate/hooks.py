"""Pages that mkdocs makes at build time from what the repository says elsewhere, so that they cannot go stale."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHOWN = ("results/README.md", "cluster/README.md")
"""Pages of other folders that are pages of the site, too."""


def on_files(files: Files, config) -> Files:
    """Adds settings, command line, results, cluster guide and changelog, their pictures, and notebooks."""
    sys.path[:0] = [str(ROOT), str(HERE)]
    import cli_page
    import settings_page

    pages = {"settings.md": settings_page.page(), "cli.md": cli_page.page()}
    pages |= {"changelog.md": (ROOT / "CHANGELOG.md").read_text()}
    for page in SHOWN:
        text = (ROOT / page).read_text()
        pages[page] = text.replace("](../docs/", "](../").replace("](../README.md)", "](../index.md)")
    written = [(ROOT / page, (ROOT / page).read_text()) for page in SHOWN]
    written += [(page, page.read_text()) for page in HERE.parent.glob("**/*.md")]
    pictures = {(page.parent / name).resolve() for page, text in written for name in re.findall(r"[\w/.-]+\.png", text)}
    for place in sorted(picture for picture in pictures if picture.is_file()):
        files.append(File.generated(config, place.relative_to(ROOT).as_posix(), abs_src_path=str(place)))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        files.append(File.generated(config, notebook.relative_to(ROOT).as_posix(), abs_src_path=str(notebook)))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Links are written for readers of the repository, where this folder stands beside the others."""
    for folder in ("results", "cluster", "examples"):
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/").replace(f"](../../{folder}/", f"](../{folder}/")
    return markdown
