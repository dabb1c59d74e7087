"""Every scenario still goes as its transcript says."""

from pathlib import Path

import pytest

from .scenario import rewrite

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_goes_as_written(path: Path, rewrites: bool) -> None:
    written = path.read_text(encoding="utf-8")
    happened = rewrite(written)
    assert "VIOLATION" not in happened
    if rewrites:
        path.write_text(happened, encoding="utf-8")
    else:
        assert happened == written, f"read the difference, then rewrite {path.name} with --rewrite"
