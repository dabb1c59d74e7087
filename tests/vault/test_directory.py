"""The directory store beyond the contract: disks that fail, fill up or crash."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from safelight.vault.stores import directory
from safelight.vault.stores.base import Body, Missing, StoreError, StoreFull
from safelight.vault.stores.directory import DirectoryStore
from tests.mounts import small_disk
from tests.running import GENEROUS
from tests.vault.contract import BODY, MEBIBYTE, NO_KEYS, RECORD, keys, put, read

T = TypeVar("T")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    DirectoryStore.make(tmp_path / "vault")
    return tmp_path / "vault"


def with_store(root: Path, work: Callable[[DirectoryStore], Awaitable[T]]) -> T:
    async def go() -> T:
        return await work(DirectoryStore(root))

    return asyncio.run(go())


def below(root: Path) -> set[str]:
    """All files, hidden ones as well."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


# Who may read it


def test_everything_is_its_owners_alone(root: Path) -> None:
    async def fill(store: DirectoryStore) -> None:
        await store.create(RECORD, b"a record")
        await put(store, BODY, b"small")
        await put(store, BODY + "0", bytes(2 * MEBIBYTE))

    umask = os.umask(0)
    try:
        DirectoryStore.make(root.with_name("another"))
        with_store(root.with_name("another"), fill)
    finally:
        os.umask(umask)
    made = [root.with_name("another"), *root.with_name("another").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} == {0o600}
    assert len(made) == 8


def test_a_key_that_is_none_leaves_the_disk_alone(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [root.parent, *root.parent.rglob("*")]}

    async def attempts(store: DirectoryStore) -> None:
        for key in NO_KEYS:
            with pytest.raises(ValueError, match="key"):
                await store.create(key, b"escaped")
            with pytest.raises(ValueError, match="key"):
                await put(store, key, bytes(2 * MEBIBYTE))
            with pytest.raises(ValueError, match="key"):
                await store.delete(key)

    with_store(root, attempts)
    assert {path: path.stat().st_mtime_ns for path in [root.parent, *root.parent.rglob("*")]} == before


# Several processes

RACE = """
import asyncio, sys
from pathlib import Path
from safelight.vault.stores.directory import DirectoryStore

async def race(store, own):
    return [await store.create(f"records/{n % 5}/{n}.1", own.encode()) for n in range(40)]

print("ready", flush=True)
sys.stdin.readline()
print(*map(int, asyncio.run(race(DirectoryStore(Path(sys.argv[1])), sys.argv[2]))))
"""


def test_of_many_processes_exactly_one_creates_each_object(root: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, root, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(5)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate(timeout=GENEROUS)[0].split() for racer in racers]
    for number in range(40):
        winners = [racer for racer, wins in enumerate(won) if wins[number] == "1"]
        assert len(winners) == 1
        assert (root / f"records/{number % 5}/{number}.1").read_text() == str(winners[0])
    assert len(below(root)) == 40


# What is wrong with the disk


def test_a_full_disk_is_reported_and_the_partial_body_is_removed(tmp_path: Path) -> None:
    async def write(body: Body, mebibytes: int) -> None:
        for _ in range(mebibytes):
            await body.write([bytes(MEBIBYTE)])

    async def fill(store: DirectoryStore, root: Path) -> None:
        await store.create(RECORD, b"before")
        body = await store.body(BODY)
        with pytest.raises(StoreFull, match=r"vault.*the disk is full; make room"):
            await write(body, 8)
        with pytest.raises(ValueError, match="only be abandoned"):  # not a body with a hole
            await body.finish()
        await body.abandon()
        assert below(root) == {RECORD}
        (root / ".filler").write_bytes(bytes(shutil.disk_usage(root).free))
        with pytest.raises(StoreFull):
            await store.create("records/0c1d/9e2f.2", b"no room")
        with pytest.raises(StoreFull):
            await put(store, BODY, bytes(1000))
        assert await store.get(RECORD) == b"before"
        await store.delete(RECORD)
        (root / ".filler").unlink()
        await put(store, BODY, bytes(2 * MEBIBYTE))
        assert await keys(store) == {BODY}

    with small_disk(tmp_path / "tiny", 4) as disk:
        DirectoryStore.make(disk / "vault")
        with_store(disk / "vault", lambda store: fill(store, disk / "vault"))


def test_a_disk_that_became_read_only_is_said_and_can_be_read(tmp_path: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        for attempt in store.create(RECORD + "0", b""), put(store, BODY, b"x"), store.delete(RECORD), store.tidy():
            with pytest.raises(StoreError, match=r"vault.*read-only.*mount it writable"):
                await attempt
        assert await store.get(RECORD) == b"before"
        assert await keys(store) == {RECORD}
        await store.ensure_durable(RECORD)

    with small_disk(tmp_path / "tiny", 4) as disk:
        root = disk / "vault"
        DirectoryStore.make(root)
        with_store(root, lambda store: store.create(RECORD, b"before"))
        leave_behind(root / "records/.0011223344556677.part")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with_store(root, use)


def test_a_missing_root_is_reported_and_never_created_again(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        await store.create(RECORD, b"a record")  # the store knows its directories now
        os.rename(root, root.with_name("elsewhere"))
        for known in store, DirectoryStore(root):
            for attempt in (
                known.create(RECORD, b""),
                known.create("vault", b""),
                put(known, BODY, b"x"),
                put(known, BODY, bytes(2 * MEBIBYTE)),
                known.get(RECORD),
                known.size(RECORD),
                read(known, RECORD, 0, 10),
                keys(known),
                keys(known, "records/0c1d/"),
                known.delete(RECORD),
                known.ensure_durable(RECORD),
                known.tidy(),
            ):
                with pytest.raises(StoreError, match=f"^the vault {root} is missing: mount it, or restore it[^\n]*$"):
                    await attempt
        os.rename(root.with_name("elsewhere"), root)  # which fails if anything is in its place
        assert await store.get(RECORD) == b"a record"

    with_store(root, use)


def test_a_vault_is_not_made_on_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"disk is missing; mount or create it$"):
        DirectoryStore.make(tmp_path / "disk" / "vault")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a directory; remove what is in its place"):
        DirectoryStore.make(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_making_it_again_changes_nothing(root: Path) -> None:
    with_store(root, lambda store: store.create(RECORD, b"a record"))
    DirectoryStore.make(root)
    assert with_store(root, lambda store: store.get(RECORD)) == b"a record"


def test_a_subdirectory_that_was_removed_is_created_again(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        assert await store.create(RECORD, b"first")
        shutil.rmtree(root / "records")
        assert await store.create(RECORD, b"second")
        assert await store.get(RECORD) == b"second"

    with_store(root, use)


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [
        ("fsync", errno.EIO, "input/output error; check its disk"),
        ("fsync", errno.EDQUOT, "the quota is used up; make room"),
        ("link", errno.EPERM, "no hard links; choose another directory"),
    ],
)
def test_nothing_gets_its_name_that_is_not_on_the_disk(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    async def use(store: DirectoryStore) -> None:
        await store.create("records/0c1d/9e2f.0", b"makes the directories")
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(StoreError, match=f"vault.*{message}"):
            await store.create(RECORD, b"a record")
        body = await store.body("records/0c1d/large")
        await body.write([bytes(2 * MEBIBYTE)])
        with pytest.raises(StoreError, match=message):
            await body.finish()
        await body.abandon()

    with_store(root, use)
    assert below(root) == {"records/0c1d/9e2f.0"}


def test_a_body_whose_name_could_not_be_made_durable_is_taken_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def use(store: DirectoryStore) -> None:
        await put(store, BODY + "0", b"makes the directories")
        body = await store.body(BODY)
        await body.write([b"x"])
        monkeypatch.setattr(directory, "sync_directory", refuse)
        with pytest.raises(StoreError):
            await body.finish()
        await body.abandon()
        assert await keys(store) == {BODY + "0"}

    with_store(root, use)
    assert below(root) == {BODY + "0"}


def test_two_bodies_of_one_key_are_never_mixed_or_replaced(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        first, second = await store.body(BODY), await store.body(BODY)
        await second.write([b"second"])
        await first.write([b"first"])
        await first.finish()
        with pytest.raises(StoreError, match="exists already"):
            await second.finish()
        await second.abandon()
        assert await store.get(BODY) == b"first"

    with_store(root, use)
    assert below(root) == {BODY}


# What crashes leave


def leave_behind(path: Path, *, hours: float = 2) -> None:
    path.write_bytes(b"half of")
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_what_crashes_left_is_never_listed_and_can_be_tidied_up(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        await store.create(RECORD, b"a record")
        body = await store.body(BODY)
        await body.write([bytes(2 * MEBIBYTE)])
        for place in "", "records/", "records/0c1d/":
            leave_behind(root / f"{place}.0011223344556677.part")
        leave_behind(root / "records/.8899aabbccddeeff.part", hours=0.5)
        os.utime(root / RECORD, (0, 0))
        leave_behind(root / ".nfs0001")  # not ours
        (root / "lost+found").mkdir()
        leave_behind(root / "lost+found" / ".0011223344556677.part")
        assert await keys(store) == {RECORD}
        assert await store.tidy() == 3
        assert await store.tidy() == 0
        await body.finish()
        assert await store.size(BODY) == 2 * MEBIBYTE

    with_store(root, use)
    assert below(root) == {
        RECORD,
        BODY,
        ".nfs0001",
        "records/.8899aabbccddeeff.part",
        "lost+found/.0011223344556677.part",
    }


def test_a_writer_that_was_taken_for_dead_fails_cleanly(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        body = await store.body(BODY)
        await body.write([bytes(2 * MEBIBYTE)])
        await body.write([bytes(MEBIBYTE)])  # waits until the first has been written
        (part,) = (root / BODY).parent.iterdir()
        os.utime(part, (0, 0))
        assert await store.tidy() == 1
        with pytest.raises(StoreError, match="removed while it was written: try again"):
            await body.finish()
        await body.abandon()

    with_store(root, use)
    assert below(root) == set()


def test_a_killed_writer_leaves_only_what_can_be_tidied_up(root: Path) -> None:
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from safelight.vault.stores.directory import DirectoryStore

async def die(store):
    body = await store.body("bodies/0c1d/a")
    for _ in range(2):  # the second waits for the first
        await body.write([bytes(3 << 20)])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(die(DirectoryStore(Path(sys.argv[1]))))
"""
    subprocess.run([sys.executable, "-c", script, root], check=False)
    (left,) = below(root)
    assert with_store(root, keys) == set()
    os.utime(root / left, (0, 0))
    assert with_store(root, lambda store: store.tidy()) == 1
    assert below(root) == set()


# Cancelled tasks


class Gate:
    """Holds the first call of a function of `os` on a descriptor, after some that pass, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *, passing: int = 0) -> None:
        self._passing = passing
        self.reached, self.opened, self.passed = threading.Event(), threading.Event(), threading.Event()
        self.same = False
        """Whether the descriptor was the same file before and after the wait."""
        self._real = getattr(os, name)
        monkeypatch.setattr(os, name, self._call)

    def _call(self, descriptor: int, *arguments: Any) -> Any:
        if self.reached.is_set() or self._passing > 0:
            self._passing -= 1
            return self._real(descriptor, *arguments)
        before = os.fstat(descriptor)
        self.reached.set()
        assert self.opened.wait(GENEROUS)
        self.same = os.path.samestat(before, os.fstat(descriptor))
        self.passed.set()
        return self._real(descriptor, *arguments)


async def let_threads_run(root: Path) -> None:
    """Time enough for a thread that does not wait to close what it should not."""
    for number in range(50):
        await asyncio.to_thread((root / f".other{number}").touch)


@pytest.mark.parametrize("call", ["writev", "fsync"])
def test_a_cancelled_write_ends_before_its_file_is_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def use(store: DirectoryStore) -> None:
        await put(store, BODY + "0", b"makes the directories")
        gate = Gate(monkeypatch, call)
        body = await store.body(BODY)

        async def write() -> None:
            for _ in range(2):  # the second waits for the first
                await body.write([bytes(MEBIBYTE)])

        writing = asyncio.create_task(write() if call == "writev" else body.finish())
        assert await asyncio.to_thread(gate.reached.wait, GENEROUS)
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled()
        abandoning = asyncio.create_task(body.abandon())
        await let_threads_run(root)
        abandoning.cancel()  # the file goes all the same
        await asyncio.wait([abandoning])
        gate.opened.set()
        await body.abandon()
        assert gate.same
        assert await keys(store) == {BODY + "0"}

    with_store(root, use)
    assert {name for name in below(root) if not name.startswith(".other")} == {BODY + "0"}


def test_who_is_cancelled_while_a_record_is_made_leaves_what_it_names(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is made is settled by then: only the thread that makes it knows."""

    async def use(store: DirectoryStore) -> None:
        await put(store, BODY + "0", b"makes the directories")
        await store.create(RECORD + "0", b"makes others")
        body = await store.body(BODY)
        await body.write([b"a body"])
        gate = Gate(monkeypatch, "fsync", passing=2)  # the body's own, and its directory's
        publishing = asyncio.create_task(store.create_with_body(body, RECORD, b"a record"))
        assert await asyncio.to_thread(gate.reached.wait, GENEROUS)
        publishing.cancel()
        await asyncio.wait([publishing])
        abandoning = asyncio.create_task(body.abandon())
        await let_threads_run(root)
        gate.opened.set()
        await abandoning
        assert await store.get(RECORD) == b"a record"
        assert await store.size(BODY) == len(b"a body")

    with_store(root, use)


def test_a_cancelled_read_ends_before_its_file_is_closed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(store: DirectoryStore) -> None:
        await put(store, BODY, bytes(MEBIBYTE))
        gate = Gate(monkeypatch, "pread")
        reading = asyncio.create_task(read(store, BODY, 0, MEBIBYTE))
        assert await asyncio.to_thread(gate.reached.wait, GENEROUS)
        reading.cancel()
        await asyncio.wait([reading])
        await let_threads_run(root)
        gate.opened.set()
        assert await asyncio.to_thread(gate.passed.wait, GENEROUS)
        assert gate.same
        assert await read(store, BODY, 0, 10) == bytes(10)

    with_store(root, use)


def test_readers_that_leave_give_back_their_descriptors(root: Path) -> None:
    def at(path: Path) -> int:
        links = (os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd"))
        return sum(link == str(path) for link in links)

    async def use(store: DirectoryStore) -> None:
        await put(store, BODY, bytes(3 * MEBIBYTE))
        for _ in range(20):
            chunks = store.read(BODY, 0, 3 * MEBIBYTE)
            await anext(chunks)
            await chunks.aclose()
        give_up = time.monotonic() + GENEROUS
        while at(root / BODY):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.01)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc to count descriptors in")
    with_store(root, use)


def test_what_is_deleted_while_it_is_read_is_read_to_its_end(root: Path) -> None:
    async def use(store: DirectoryStore) -> None:
        data = os.urandom(3 * MEBIBYTE)
        await put(store, BODY, data)
        chunks = store.read(BODY, 0, len(data))
        came = await anext(chunks)
        await store.delete(BODY)
        with pytest.raises(Missing):
            await store.size(BODY)
        assert came + b"".join([chunk async for chunk in chunks]) == data

    with_store(root, use)


def test_a_listing_survives_that_what_it_lists_is_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "BATCH", 1)

    async def use(store: DirectoryStore) -> None:
        for number in range(20):
            await store.create(f"records/{number}/{number}.1", b"")
        seen = set()
        async for entry in store.list(""):
            seen.add(entry.key)
            shutil.rmtree(root / "records", ignore_errors=True)
        assert len(seen) == 1

    with_store(root, use)


# What a power cut may take: nothing that a call has returned for

TRACED = ",".join(
    [
        *("?mkdir", "mkdirat", "?link", "linkat", "?rename", "?renameat", "?renameat2", "?unlink", "unlinkat"),
        *("write", "writev", "fsync", "fdatasync", "?access", "faccessat", "?faccessat2"),
    ]
)
"""Calls that change something or make it durable, and one to mark with; "?": not on every architecture."""

CALL = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?P<arguments>.*)")
RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)")

WORK = """
import asyncio, os, sys
from pathlib import Path
from safelight.vault.stores.directory import DirectoryStore

async def work(store):
{}

asyncio.run(work(DirectoryStore(Path(sys.argv[1]))))
os.access(Path(sys.argv[1]) / "returned", os.F_OK)
"""


def disk_work(root: Path, lines: str) -> list[str]:
    """The system calls with which a store does such work below `root`, in the order in which they ended.

    `.part` stands for a hidden name, `.` for the root.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace(1) to see system calls with")
    log = root.with_name("strace.log")
    code = WORK.format("\n".join("    " + line for line in lines.splitlines()))
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "0", "-o", log, "-e", f"trace={TRACED}", sys.executable, "-c", code, root],
        capture_output=True,
        text=True,
    )
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return list(_below(root, _whole_calls(log.read_text().splitlines())))


def _whole_calls(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Names and arguments of calls that succeeded, and of the last one, which asks for a file that is not there."""
    begun: dict[str, tuple[str, str]] = {}
    for line in lines:
        if match := CALL.fullmatch(line):
            call, rest = match["call"], match["arguments"]
            if rest.endswith("<unfinished ...>"):
                begun[match["pid"]] = call, rest.removesuffix("<unfinished ...>")
                continue
        elif match := RESUMED.fullmatch(line):
            call, first = begun.pop(match["pid"])
            rest = first + match["rest"]
        else:
            continue
        if " = -1 " not in rest or "access" in call:
            yield call, rest


def _below(root: Path, calls: Iterator[tuple[str, str]]) -> Iterator[str]:
    for call, arguments in calls:
        named = re.sub(r'<([^>"]*)>, "([^/"][^"]*)"', r"<\1/\2>", arguments)  # a name in an open directory
        paths = re.findall(rf'[<"]{re.escape(str(root))}(?:/([^>"]*))?[>"]', named)
        shown = [re.sub(r"\.[0-9a-f]{16}\.part$", ".part", path) or "." for path in paths]
        if shown == ["returned"]:
            yield "returned"
        elif shown and "access" not in call:
            yield " ".join([re.sub("at2?$", "", call).replace("writev", "write").replace("fdatasync", "fsync"), *shown])


FIRST_IN_ITS_DIRECTORY = """\
mkdir {kind}
fsync .
mkdir {kind}/u
fsync {kind}
write {kind}/u/.part
fsync {kind}/u/.part
link {kind}/u/.part {kind}/u/a
unlink {kind}/u/.part
fsync {kind}/u
returned"""

ANOTHER = "\n".join(FIRST_IN_ITS_DIRECTORY.splitlines()[4:])


def test_a_first_object_is_durable_and_so_are_the_directories_that_lead_to_it(root: Path) -> None:
    calls = disk_work(root, "await store.create('records/u/a', b'a record')")
    assert calls == FIRST_IN_ITS_DIRECTORY.format(kind="records").splitlines()


def test_a_body_is_durable_when_it_is_finished(root: Path) -> None:
    calls = disk_work(
        root, "body = await store.body('bodies/u/a')\nawait body.write([b'header', b'segment'])\nawait body.finish()"
    )
    assert calls == FIRST_IN_ITS_DIRECTORY.format(kind="bodies").splitlines()


def test_a_large_body_is_durable_when_it_is_finished(root: Path) -> None:
    calls = disk_work(
        root, "body = await store.body('bodies/u/a')\nawait body.write([bytes(1 << 20)])\nawait body.finish()"
    )
    assert calls == FIRST_IN_ITS_DIRECTORY.format(kind="bodies").splitlines()


def test_a_body_is_durable_before_anything_names_it(root: Path) -> None:
    calls = disk_work(
        root,
        "body = await store.body('bodies/u/a')\nawait body.write([b'header', b'segment'])\n"
        "assert await store.create_with_body(body, 'records/u/a', b'a record')",
    )
    body, record = (FIRST_IN_ITS_DIRECTORY.format(kind=kind).splitlines() for kind in ("bodies", "records"))
    assert calls == [*body[:-1], *record]


def test_a_directory_that_another_process_made_is_made_durable_once(root: Path) -> None:
    (root / "records" / "u").mkdir(parents=True)
    calls = disk_work(root, "await store.create('records/u/b', b'')\nawait store.create('records/u/a', b'x')")
    assert calls[:2] == ["fsync .", "fsync records"]
    assert calls[-6:] == ANOTHER.format(kind="records").splitlines()
    assert calls.count("fsync .") == calls.count("fsync records") == 1


def test_a_taken_key_is_durable_when_that_is_said(root: Path) -> None:
    (root / "records" / "u").mkdir(parents=True)
    (root / "records" / "u" / "a").write_bytes(b"by another process, which has not synced the directory yet")
    calls = disk_work(root, "assert not await store.create('records/u/a', b'x')")
    assert calls[:2] == ["fsync .", "fsync records"]
    assert calls[-2:] == ["fsync records/u", "returned"]


def test_what_was_found_is_durable_when_it_is_settled(root: Path) -> None:
    (root / "records" / "u").mkdir(parents=True)
    (root / "records" / "u" / "a").write_bytes(b"by another process, which has not synced the directory yet")
    calls = disk_work(root, "await store.ensure_durable('records/u/a')")
    assert calls == ["fsync .", "fsync records", "fsync records/u", "returned"]


def test_a_deletion_is_durable_when_it_returns_also_if_another_made_it(root: Path) -> None:
    (root / "records" / "u").mkdir(parents=True)
    (root / "records" / "u" / "a").touch()
    calls = disk_work(root, "await store.delete('records/u/a')\nawait store.delete('records/u/a')")
    assert calls == ["unlink records/u/a", "fsync records/u", "fsync records/u", "returned"]
