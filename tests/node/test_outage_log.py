"""A client cannot fill a node's log with what the vault cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from safelight.node.state.outage_log import CALM, MOST, OutageLog
from safelight.vault.stores.base import BadObject, StoreError
from tests.node.raw_http import ask, enrolled, token
from tests.running import SETTLED, running

AGAIN = "the vault can be used again"


class Log:
    """What is said, at a time that a test sets."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 1000.0
        self.outages = OutageLog(self.lines.append, clock=lambda: self.now)

    def fail(self, message: str = "no", *, changes: bool = True) -> None:
        self.outages.failed(StoreError(message), changes=changes)


@pytest.fixture
def log() -> Log:
    return Log()


def test_an_outage_has_two_lines_and_so_has_the_next(log: Log) -> None:
    for _ in range(2):
        for _ in range(10):
            log.fail()
        log.outages.worked(changes=True)
        log.outages.worked(changes=True)
        log.now += CALM
    assert log.lines == ["no", AGAIN] * 2


def test_what_only_changes_ends_no_trouble_of_reading(log: Log) -> None:
    log.fail(changes=False)
    log.outages.worked(changes=False)
    assert log.lines == ["no"]
    log.outages.worked(changes=True)
    assert log.lines == ["no", AGAIN]


def test_a_trouble_that_comes_and_goes_is_over_when_it_stays_away(log: Log) -> None:
    for _ in range(500):
        log.fail()
        log.outages.worked(changes=True)
        log.now += 0.2
    assert [line.partition(" (it comes and goes")[0] for line in log.lines] == ["no", AGAIN, "no"]
    log.now += CALM
    log.outages.worked(changes=True)
    log.outages.worked(changes=True)
    assert log.lines[3:] == [AGAIN]


def test_a_trouble_with_many_objects_is_one(log: Log) -> None:
    for number in range(500):
        log.fail(f"cannot read bodies/{number:032x}/{number:032x} in the vault: input/output error")
    assert len(log.lines) == 1


def test_damaged_objects_are_reported_once_and_so_many(log: Log) -> None:
    for _ in range(3):
        for number in range(2 * MOST):
            log.outages.damaged(BadObject(f"records/{number} is damaged"))
    assert log.lines == [f"records/{number} is damaged" for number in range(MOST)]
    log.now += CALM
    log.outages.damaged(BadObject(f"records/{MOST} is damaged"))
    assert len(log.lines) == MOST + 1


def test_a_damaged_record_has_one_line_however_often_it_is_read(tmp_path: Path) -> None:
    with running(tmp_path, 1, heartbeat=SETTLED) as it:
        node, alice = it.config.addresses[1], enrolled(it.config, "alice")
        (claim,) = [path for path in (it.config.data_dir / "vault" / "tokens").rglob("*") if path.is_file()]
        claim.chmod(0o600)
        claim.write_bytes(b"damaged")
        assert {ask(node, "PUT /v1/users/ben", alice).status for _ in range(20)} == {500}
        assert ask(node, "PUT /v1/users/carol", f"Authorization: Bearer {token('carol')}").status == 201
        it.wait_for_line(1, "a user's record cannot be read")
        assert len([line for line in it.said(1) if "a user's record cannot be read" in line]) == 1, it.said(1)
