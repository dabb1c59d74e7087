"""Each promise in docs/security.md names the tests that try to break it, and those exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ATTACKERS = {
    "vault reader", "vault writer", "local account", "another user", "revoked user", "web page", "network without TLS",
    "stolen disk",
}  # fmt: skip
_TEST = re.compile(r"`(tests/[a-z_/0-9]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The cells of the table of attackers: attacker, can, cannot, tests."""
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    begin = lines.index("| attacker | can | cannot | test |") + 2
    table = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_the_table_is_about_every_attacker() -> None:
    assert {row[0] for row in rows()} - {""} == ATTACKERS


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2][:60])
def test_what_an_attacker_cannot_do_has_a_test(row: list[str]) -> None:
    assert len(row) == 4
    _, _, cannot, tests = row
    assert cannot
    named = _TEST.findall(tests)
    assert named, f"no test tries this: {cannot}"
    for path, name in named:
        functions = {
            each.name for each in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(each, ast.FunctionDef)
        }
        assert name in functions, f"{path} has no {name}"
