"""bench/RESULTS.md: each benchmark writes its own section, between two comments that name it."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def write(section: str, text: str, document: Path = RESULTS) -> None:
    """Put `text` in place of what the section says. Raises ValueError for a document without that section."""
    begin, end = f"<!-- {section}: from here -->\n", f"<!-- {section}: to here -->\n"
    before, found, rest = document.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{document} has no section {section!r}")
    document.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def rows(section: str, document: Path = RESULTS) -> list[list[str]]:
    """The cells of the section's table, row by row, without its head."""
    text = document.read_text().partition(f"<!-- {section}: from here -->")[2].partition("<!--")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
