"""Hooks of mkdocs.yml: documents outside docs/ become pages, and links that work on a forge work in the site, too.

A document links to others by their paths in the repository. In the site, a link to a page or a picture leads there. A
link to anything else, such as a source file, is replaced by its text, once that file is known to exist.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "bench/RESULTS.md": "benchmarks.md",
}
"""Documents outside docs/ (paths in the repository), and what they are in the site."""

_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")

log = logging.getLogger("mkdocs.plugins.links")
"""A warning ends a strict build."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures from outside docs/."""
    pictures = {
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix() for path in ROOT.glob("bench/*.svg")
    }
    for source, target in (PAGES | pictures).items():
        if (ROOT / source).exists():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Rewrite the links of a page, which are relative to its source in the repository."""
    here = next(
        (source for source, target in PAGES.items() if target == page.file.src_uri), f"docs/{page.file.src_uri}"
    )

    def rewritten(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        path, hash_, anchor = link.partition("#")
        if not path or ":" in path:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        target = PAGES.get(found, found.removeprefix("docs/"))
        if files.get_file_from_path(target) is not None:
            relative = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
            return f"{mark}[{text}]({relative}{hash_}{anchor})"
        if not (ROOT / found).exists():
            log.warning("%s links to %s, which does not exist", here, link)
        return text

    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _LINK.sub(rewritten, part) for index, part in enumerate(parts))
