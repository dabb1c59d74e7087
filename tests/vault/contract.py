"""The promises of `vault/stores/base.py`, checked on any store: each law gets an empty one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from safelight.encryption.stream import Bytes
from safelight.vault.stores.base import MAX_SMALL, Missing, Store

Law = Callable[[Store], Awaitable[None]]

LAWS: list[Law] = []

RECORD = "records/0c1d/9e2f.1"
BODY = "bodies/0c1d/9e2f.1.00112233445566ff"
MEBIBYTE = 1 << 20

NO_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../outside",
    "records/../../outside",
    "records/./a",
    "records//a",
    "records/a/",
    "records/.hidden",
    "records/.0011223344556677.part",
    "Records/a",
    "records/a b",
    "records\\a",
    "records/a\0",
    "records/a\n",
    "records/%2e%2e",
    "records/ä",
]


def law(check: Law) -> Law:
    LAWS.append(check)
    return check


@law
async def what_was_created_is_read_back(store: Store) -> None:
    for key, data in (RECORD, b"a record"), ("vault", b""), ("records/0c1d/9e2f.2", os.urandom(MAX_SMALL)):
        assert await store.create(key, data)
        assert await store.get(key) == data
        assert await store.size(key) == len(data)


@law
async def many_are_read_at_once_in_the_order_asked_for(store: Store) -> None:
    objects = {f"records/0c1d/{number:04}.1": b"%d" % number for number in range(100)}
    await asyncio.gather(*(store.create(key, data) for key, data in objects.items()))
    asked = [*reversed(objects), *objects]
    assert await store.get_many(asked) == [objects[key] for key in asked]
    assert await store.get_many([]) == []
    with pytest.raises(Missing):
        await store.get_many([*objects, "records/0c1d/nobody.1"])


@law
async def a_taken_key_is_left_as_it_is(store: Store) -> None:
    assert await store.create(RECORD, b"first")
    assert not await store.create(RECORD, b"second")
    assert not await store.create(RECORD, b"first")
    assert await store.get(RECORD) == b"first"
    assert await keys(store) == {RECORD}


@law
async def of_many_creators_exactly_one_wins(store: Store) -> None:
    for number in range(5):
        key = f"records/0c1d/9e2f.{number}"
        created = await asyncio.gather(*(store.create(key, b"by %d" % each) for each in range(20)))
        assert created.count(True) == 1
        assert await store.get(key) == b"by %d" % created.index(True)


@law
async def an_object_is_there_for_all_when_its_create_returns(store: Store) -> None:
    async def create(data: bytes) -> None:
        await store.create(RECORD, data)
        seen.add(await store.get(RECORD))

    seen: set[bytes] = set()
    await asyncio.gather(*(create(b"by %d" % each) for each in range(20)))
    assert len(seen) == 1


@law
async def any_range_of_a_body_can_be_read(store: Store) -> None:
    data = os.urandom(5 * MEBIBYTE // 2)
    await put(store, BODY, data[:10], bytearray(data[10:20]), b"", memoryview(data)[20:MEBIBYTE], data[MEBIBYTE:])
    assert await store.size(BODY) == len(data)
    for start, end in [
        (0, len(data)),
        (0, 1),
        (len(data) - 1, len(data)),
        (MEBIBYTE - 1, MEBIBYTE + 1),
        (7, 2 * MEBIBYTE + 7),
        (len(data) - 5, len(data) + 5),
    ]:
        assert await read(store, BODY, start, end) == data[start:end], (start, end)


@law
async def a_body_of_any_size_in_any_pieces_is_whole(store: Store) -> None:
    for size in 1, 100, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 12 * MEBIBYTE + 1:
        data, key = os.urandom(size), f"{BODY}{size}"
        body = await store.body(key)
        for start in range(0, size, 300_000):
            await body.write([data[start : start + 100_000], data[start + 100_000 : start + 300_000]])
        await body.finish()
        assert await read(store, key, 0, size) == data
    await put(store, BODY, *(b"%d," % number for number in range(5000)))
    assert await read(store, BODY, 0, MEBIBYTE) == b"".join(b"%d," % number for number in range(5000))


@law
async def what_is_not_there_is_missing(store: Store) -> None:
    await store.create("records/0c1d/9e2f.2", b"another")
    for key in RECORD, "vault", "nowhere/at/all":
        with pytest.raises(Missing):
            await store.get(key)
        with pytest.raises(Missing):
            await store.size(key)
        with pytest.raises(Missing):
            await read(store, key, 0, 10)
        await store.delete(key)
    assert await keys(store) == {"records/0c1d/9e2f.2"}


@law
async def a_listing_shows_all_whole_objects_below_its_prefix(store: Store) -> None:
    began = time.time()
    assert [entry async for entry in store.list("")] == []
    for key in "records/a/b.1", "records/a/b.2", "records/ab/c.1", "vault", "bodies/a/b.1.00":
        await store.create(key, key.encode())
    assert await keys(store, "records/") == {"records/a/b.1", "records/a/b.2", "records/ab/c.1"}
    assert await keys(store, "records/a/") == {"records/a/b.1", "records/a/b.2"}
    assert await keys(store, "records/b/") == set()
    entries = [entry async for entry in store.list("")]
    assert len(entries) == 5
    for entry in entries:
        assert entry.size == len(entry.key)
        assert began - 60 < entry.modified < time.time() + 60


@law
async def a_body_is_seen_by_nobody_before_it_is_finished(store: Store) -> None:
    body = await store.body(BODY)
    for _ in range(3):
        await body.write([bytes(MEBIBYTE)])
        assert await keys(store) == set()
        with pytest.raises(Missing):
            await store.size(BODY)
    await body.finish()
    assert [(entry.key, entry.size) async for entry in store.list("")] == [(BODY, 3 * MEBIBYTE)]


@law
async def an_abandoned_body_leaves_nothing_in_the_listing(store: Store) -> None:
    for size in 0, 1000, 3 * MEBIBYTE, 12 * MEBIBYTE:
        body = await store.body(BODY)
        await body.write([bytes(size)])
        await body.abandon()
        await body.abandon()
        assert await keys(store) == set()
    await put(store, BODY, b"the same key is free")


@law
async def a_published_body_is_there_and_so_is_what_names_it_unless_another_has_that_key(store: Store) -> None:
    for size in 1000, 3 * MEBIBYTE:
        first, second = await store.body(f"{BODY}{size}"), await store.body(f"{BODY}{size}.2")
        for body in first, second:
            await body.write([bytes(size)])
        assert await store.create_with_body(first, f"{RECORD}{size}", b"the first")
        assert not await store.create_with_body(second, f"{RECORD}{size}", b"the second")
        for body in first, second:
            await body.abandon()
        assert await store.get(f"{RECORD}{size}") == b"the first"
        assert await store.size(f"{BODY}{size}") == await store.size(f"{BODY}{size}.2") == size


@law
async def a_finished_body_cannot_be_abandoned(store: Store) -> None:
    for size in 1000, 3 * MEBIBYTE:
        body = await store.body(f"{BODY}{size}")
        await body.write([bytes(size)])
        await body.finish()
        await body.abandon()
        assert await store.size(f"{BODY}{size}") == size


@law
async def an_upload_that_is_cancelled_and_abandoned_leaves_nothing(store: Store) -> None:
    async def upload(number: int) -> None:
        body = await store.body(f"{BODY}{number}")
        try:
            while True:
                await body.write([bytes(MEBIBYTE // 4)])
                under_way.add(number)
        finally:
            await body.abandon()

    under_way: set[int] = set()
    uploads = [asyncio.create_task(upload(number)) for number in range(8)]
    while len(under_way) < len(uploads):  # noqa: ASYNC110 — there is no event to wait for
        await asyncio.sleep(0)
    for each in uploads:
        each.cancel()
    await asyncio.wait(uploads)
    assert all(each.cancelled() for each in uploads)
    assert await keys(store) == set()


@law
async def what_is_deleted_is_gone_and_leaves_the_others(store: Store) -> None:
    await store.create("records/0c1d/9e2f.2", b"another")
    await store.create(RECORD, b"a record")
    await put(store, BODY, b"a body")
    await asyncio.gather(*(store.delete(key) for key in (RECORD, BODY) for _ in range(3)))
    assert await keys(store) == {"records/0c1d/9e2f.2"}
    with pytest.raises(Missing):
        await store.get(RECORD)
    with pytest.raises(Missing):
        await read(store, BODY, 0, 10)


@law
async def a_body_that_is_deleted_while_it_is_read_ends_as_it_was_or_is_missing(store: Store) -> None:
    data = os.urandom(12 * MEBIBYTE)
    await put(store, BODY, data)
    came = b""
    async with aclosing(store.read(BODY, 0, len(data))) as chunks:
        try:
            async for chunk in chunks:
                came += chunk
                await store.delete(BODY)
        except Missing:
            assert data.startswith(came)
        else:
            assert came == data


@law
async def a_reader_may_leave_half_way(store: Store) -> None:
    await put(store, BODY, bytes(12 * MEBIBYTE))
    for _ in range(50):
        async with aclosing(store.read(BODY, 0, 12 * MEBIBYTE)) as chunks:
            assert await anext(chunks)
        reading = asyncio.create_task(read(store, BODY, 0, 12 * MEBIBYTE))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert await read(store, BODY, 5, 10) == bytes(5)


@law
async def objects_may_come_and_go_while_they_are_listed(store: Store) -> None:
    lasting = {f"records/{number % 3}/a{number}.1" for number in range(30)}
    for key in lasting:
        await store.create(key, b"")
        await store.create(key.replace("/a", "/b"), b"")
    seen = set()
    async for entry in store.list(""):
        seen.add(entry.key)
        await store.delete(entry.key.replace("/a", "/b"))
        await store.create(entry.key.replace("/a", "/c"), b"")
    assert lasting <= seen


@law
async def a_key_that_is_none_is_refused(store: Store) -> None:
    for key in NO_KEYS:
        for attempt in (
            store.create(key, b""),
            store.get(key),
            put(store, key, b""),
            store.size(key),
            read(store, key, 0, 1),
            store.delete(key),
            store.ensure_durable(key),
        ):
            with pytest.raises(ValueError, match="key"):
                await attempt
    for prefix in "records", "/", "../", "records//", "records/../", "records/.a/":
        with pytest.raises(ValueError, match="key"):
            await keys(store, prefix)
    with pytest.raises(ValueError, match="too many"):
        await store.create(RECORD, bytes(MAX_SMALL + 1))
    assert await keys(store) == set()


@law
async def many_tasks_may_use_it_at_once(store: Store) -> None:
    async def upload(number: int) -> None:
        record, body = f"records/{number % 4}/{number}.1", f"bodies/{number % 4}/{number}.1.00"
        data = os.urandom(100_000)
        await put(store, body, data[:1000], data[1000:])
        assert await store.create(record, data[:500])
        await store.ensure_durable(record)
        assert await read(store, body, 0, 100_000) == data
        assert await store.get(record) == data[:500]
        if number % 2:
            await store.delete(record)
            await store.delete(body)

    await asyncio.gather(*(upload(number) for number in range(60)))
    assert len(await keys(store, "records/")) == len(await keys(store, "bodies/")) == 30


async def put(store: Store, key: str, *pieces: Bytes) -> None:
    """Make a body."""
    body = await store.body(key)
    await body.write(pieces)
    await body.finish()


async def read(store: Store, key: str, start: int, end: int) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(key, start, end)])


async def keys(store: Store, prefix: str = "") -> set[str]:
    """What a listing shows, each object once."""
    found = [entry.key async for entry in store.list(prefix)]
    assert len(found) == len(set(found))
    return set(found)
