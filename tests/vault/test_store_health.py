"""A store's health from its calls: failures and hangs are detected; a slow or full store is healthy."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from safelight.runtime.sendfile import sendfile
from safelight.vault.monitored_store import MonitoredStore
from safelight.vault.records import IDENTITY, PROBES
from safelight.vault.store_health import FAILING, HANG, RECENT, SUSPICIOUS, CallKind, StoreHealth
from safelight.vault.stores.base import Missing, StoreError, StoreFull
from safelight.vault.stores.directory import DirectoryStore
from tests.running import GENEROUS


def call(
    health: StoreHealth, now: float, why: str = "", *, kind: CallKind = CallKind.READ, probe: bool = False
) -> None:
    """A call that is answered at once."""
    health.started(kind, now)
    health.answered(kind, now, why, probe=probe)


def test_one_failure_is_a_suspicion_and_a_row_of_them_a_reason_until_a_success() -> None:
    health = StoreHealth()
    call(health, 0.0, "EIO")
    assert (health.reason(100.0), health.suspicion(100.0)) == ("", "EIO")
    call(health, FAILING / 2, "EIO")
    assert health.reason(FAILING / 2) == ""
    call(health, FAILING, "EIO", probe=True)
    assert health.reason(FAILING) == "EIO"
    call(health, FAILING + 1)
    assert (health.reason(FAILING + 1), health.suspicion(FAILING + 1)) == ("", "")


@pytest.mark.parametrize("kind", list(CallKind))
def test_success_of_another_kind_proves_nothing(kind: CallKind) -> None:
    health = StoreHealth()
    for tenth in range(20):
        for each in CallKind:
            call(health, tenth / 10, "EIO" if each is kind else "", kind=each)
    assert health.reason(2.0) == "EIO"
    assert (health.suspicion(2.0), StoreHealth().suspicion(2.0)) == ("EIO", "")


def test_a_probes_success_does_not_outweigh_real_calls_that_fail_at_the_same_time() -> None:
    health = StoreHealth()
    for second in range(3):
        call(health, second, "EIO")
        call(health, second + 0.5, probe=True)
    assert health.reason(2.5) == "EIO"
    call(health, 2.0 + RECENT, probe=True)  # nobody but the probe has called for so long
    assert health.reason(2.0 + RECENT) == ""


def test_a_call_that_waits_while_none_is_answered_is_a_hang_also_if_its_caller_has_gone() -> None:
    health = StoreHealth()
    health.started(CallKind.COMMIT, 0.0)
    assert health.suspicion(SUSPICIOUS) != ""
    assert health.reason(HANG - 0.1) == ""
    health.dropped(CallKind.COMMIT, 0.5)
    for tenth in range(31):  # what is read in between tells nothing of what is written
        call(health, tenth / 10)
    assert "answered nothing for 3 s" in health.reason(HANG)
    call(health, HANG, kind=CallKind.COMMIT, probe=True)
    assert (health.reason(HANG), health.suspicion(HANG)) == ("", "")


def test_one_slow_call_is_no_hang_as_long_as_others_are_answered() -> None:
    health = StoreHealth()
    health.started(CallKind.COMMIT, 0.0)  # a gigabyte is synced
    for second in range(60):
        call(health, second, kind=CallKind.COMMIT, probe=True)
        assert health.reason(second + 0.9) == ""


@pytest.mark.parametrize("kind", [CallKind.READ, CallKind.BODY])
def test_a_probe_that_may_read_from_memory_does_not_end_a_real_reads_wait(kind: CallKind) -> None:
    health = StoreHealth()
    health.started(kind, 0.0)
    for tenth in range(10, 30):
        call(health, tenth / 10, kind=kind, probe=True)
    assert "answered nothing" in health.reason(HANG)
    health.answered(kind, HANG)
    assert (health.reason(HANG), health.suspicion(HANG)) == ("", "")


@pytest.mark.parametrize("kind", list(CallKind))
def test_a_caller_that_goes_early_leaves_a_question_for_a_probe_and_no_trouble(kind: CallKind) -> None:
    health = StoreHealth()
    health.started(kind, 0.0)
    assert not health.unknown
    health.dropped(kind, 0.1)
    assert health.unknown
    call(health, 0.5, kind=kind, probe=True)
    assert not health.unknown
    assert (health.reason(1e9), health.suspicion(1e9)) == ("", "")


def test_callers_that_give_up_bodies_one_after_the_other_are_a_row_of_failures_though_the_probes_succeed() -> None:
    health = StoreHealth()
    for start in (0.0, 3.0):
        health.started(CallKind.BODY, start)
        health.dropped(CallKind.BODY, start + 2)
        for tenth in (21, 26):
            call(health, start + tenth / 10, kind=CallKind.BODY, probe=True)
    assert "slow to answer" in health.reason(5.6)
    call(health, 5.0 + RECENT, kind=CallKind.BODY, probe=True)
    assert (health.reason(1e9), health.suspicion(1e9)) == ("", "")


# -- a store that is monitored --


class Broken(DirectoryStore):
    """Raises what it was given, or hangs, in `create`."""

    raises: Exception | None = None
    hangs = False

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        if self.hangs:
            await asyncio.Event().wait()
        if self.raises is not None:
            raise self.raises
        return await super().create(key, data, reserve=reserve)


def in_store(path: Path, test: Callable[[Broken, StoreHealth, MonitoredStore], Coroutine[Any, Any, None]]) -> None:
    store, health = Broken(path), StoreHealth()
    asyncio.run(test(store, health, MonitoredStore(store, health)))


def test_errors_of_the_store_count_and_what_else_is_raised_does_not(tmp_path: Path) -> None:
    async def test(store: Broken, health: StoreHealth, monitored: MonitoredStore) -> None:
        with pytest.raises(Missing):
            await monitored.get("records/a/b.1")
        store.raises = StoreFull("no room")
        with pytest.raises(StoreFull):
            await monitored.create("records/a/b.1", b"")
        assert health.suspicion(1e9) == ""
        store.raises = StoreError("EIO")
        with pytest.raises(StoreError):
            await monitored.create("records/a/b.1", b"")
        assert health.suspicion(1e9) == "EIO"
        store.raises = None
        assert await monitored.create("records/a/b.1", b"")
        body = await monitored.body("bodies/a/b")
        await body.write([b"sealed"])
        assert await monitored.create_with_body(body, "records/a/b.2", b"")
        assert [entry.key async for entry in monitored.list("bodies/")] == ["bodies/a/b"]
        assert b"".join([chunk async for chunk in monitored.read("bodies/a/b", 0, 100)]) == b"sealed"
        assert health.suspicion(1e9) == ""

    in_store(tmp_path, test)


def test_a_probe_finds_out_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(store: Broken, health: StoreHealth, monitored: MonitoredStore) -> None:
        await store.create(IDENTITY, b"{}")
        await store.create(f"{PROBES}3", b"left by a crash")
        store.raises = StoreError("EIO")
        await monitored.probe("3")
        assert health.suspicion(1e9) == "EIO"
        store.raises = None
        await monitored.probe("3")
        assert health.suspicion(1e9) == ""
        assert [entry.key async for entry in store.list("")] == [IDENTITY]
        store.hangs = True
        probe = asyncio.create_task(monitored.probe("3"))
        await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert "answered nothing" in health.reason(1e9)

    in_store(tmp_path, test)


def fails_with(number: int) -> Callable[..., int]:
    def sendfile(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    return sendfile


async def poured(monitored: MonitoredStore) -> None:
    """Pour a body into a connection from which nobody reads; what goes wrong is for its other side to see."""
    here, there = socket.socketpair()
    here.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
    file = monitored.file("bodies/a/b")
    assert file is not None
    try:
        await file.open()
        assert (await file.beginning(10))[0] == 1 << 20
        await sendfile(transport, file, 10, 1 << 20, stall_timeout=0.1)
    except (OSError, StoreError):
        pass
    finally:
        file.close()
        transport.close()
        there.close()


@pytest.mark.parametrize(("number", "suspected"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EPIPE, False)])
def test_the_disks_errors_in_a_pour_count_and_the_connections_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, suspected: bool
) -> None:
    async def test(store: Broken, health: StoreHealth, monitored: MonitoredStore) -> None:
        body = await monitored.body("bodies/a/b")
        await body.write([bytes(1 << 20)])
        await monitored.create_with_body(body, "records/a/b.1", b"")
        with monkeypatch.context() as patch:
            patch.setattr(os, "sendfile", fails_with(number))
            await poured(monitored)
            await poured(monitored)
        assert bool(health.suspicion(time.monotonic())) == suspected
        await monitored.probe("1")  # reads another, or the beginning: which proves nothing so soon
        assert bool(health.suspicion(time.monotonic())) == suspected
        await poured(monitored)
        assert health.suspicion(time.monotonic()) == ""

    in_store(tmp_path, test)


def test_a_client_that_does_not_read_is_no_trouble_of_the_store(tmp_path: Path) -> None:
    async def test(store: Broken, health: StoreHealth, monitored: MonitoredStore) -> None:
        body = await monitored.body("bodies/a/b")
        await body.write([bytes(1 << 20)])
        await monitored.create_with_body(body, "records/a/b.1", b"")
        pouring = asyncio.create_task(poured(monitored))
        while not pouring.done():
            assert health.suspicion(time.monotonic() + SUSPICIOUS / 2) == ""
            await asyncio.wait([pouring], timeout=0.01)
        assert (health.reason(1e9), health.suspicion(1e9)) == ("", "")

    in_store(tmp_path, test)


def test_a_step_of_a_pour_that_hangs_is_a_hang_whatever_else_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, end, sendfile = threading.Event(), threading.Event(), os.sendfile

    def hangs(connection: int, file: int, offset: int, count: int) -> int:
        hanging.set()
        assert end.wait(GENEROUS)
        return sendfile(connection, file, offset, count)

    async def test(store: Broken, health: StoreHealth, monitored: MonitoredStore) -> None:
        body = await monitored.body("bodies/a/b")
        await body.write([bytes(1 << 20)])
        await monitored.create_with_body(body, "records/a/b.1", b"")
        monkeypatch.setattr(os, "sendfile", hangs)
        pouring = asyncio.create_task(poured(monitored))
        assert await asyncio.to_thread(hanging.wait, GENEROUS)
        began = time.monotonic()
        await monitored.probe("1")
        await monitored.get("records/a/b.1")
        assert "answered nothing" in health.reason(began + HANG)
        end.set()
        await pouring
        assert (health.reason(1e9), health.suspicion(1e9)) == ("", "")

    in_store(tmp_path, test)
