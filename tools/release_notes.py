"""Print the section of CHANGELOG.md for one version: `python -m tools.release_notes 0.2.0`."""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"


def notes(version: str) -> str:
    """The section's lines without its heading; empty if the version has none."""
    sections = re.split(r"^## ", CHANGELOG.read_text(), flags=re.MULTILINE)
    return next(
        (text.partition("\n")[2].strip() for text in sections if re.match(rf"{re.escape(version)}\b", text)), ""
    )


if __name__ == "__main__":
    found = notes(sys.argv[1])
    print(found or f"CHANGELOG.md has no section for {sys.argv[1]}: rename the section Unreleased", flush=True)
    sys.exit(0 if found else 1)
