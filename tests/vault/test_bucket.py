"""A bucket keeps the vault's promises over a network that breaks, with moto's S3 behind it and boto3 as the oracle."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from safelight.vault.stores.base import Body, Missing, Store, StoreError, StoreFull
from safelight.vault.stores.bucket import _RETRY, PART, BucketStore
from tests.running import GENEROUS
from tests.vault.s3 import ACCESS_KEY, S3, SECRET_KEY, Fault, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as it:
        yield it


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.heal()


@pytest.fixture
def bucket(s3: S3) -> BucketStore:
    """With a prefix of its own for each test."""
    return BucketStore.open(f"s3://images/{secrets.token_hex(4)}")


async def read(store: Store, key: str, start: int, end: int) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(key, start, end)])


async def write_and_finish(body: Body, pieces: list[bytes]) -> None:
    await body.write(pieces)
    await body.finish()


def test_of_many_who_create_a_key_one_succeeds_also_with_equal_bytes(bucket: BucketStore) -> None:
    async def go() -> None:
        made = await asyncio.gather(*[bucket.create("records/one.1", b"the same") for _ in range(12)])
        assert made.count(True) == 1
        assert not await bucket.create("records/one.1", b"another")
        assert await bucket.get("records/one.1") == b"the same"

    asyncio.run(go())


def test_a_create_whose_answer_is_lost_knows_whose_the_object_is(s3: S3, bucket: BucketStore) -> None:
    async def go() -> None:
        assert await bucket.create("records/zero.1", b"before all")
        s3.fault(Fault.LOSE_ANSWER, "PUT", times=1)
        assert await bucket.create("records/one.1", b"ours")
        s3.fault(Fault.LOSE_ANSWER, "PUT", times=1)
        assert not await bucket.create("records/one.1", b"ours")
        s3.fault(Fault.LOSE_REQUEST, "PUT", times=1)
        assert await bucket.create("records/two.1", b"ours")
        s3.fault(503, "PUT", times=2)
        assert await bucket.create("records/three.1", b"ours")
        s3.fault(409, "PUT", times=1)  # S3's answer to two at a time, of which none may have succeeded
        assert await bucket.create("records/four.1", b"ours")

    asyncio.run(go())


def test_a_server_that_would_overwrite_is_refused(s3: S3, bucket: BucketStore) -> None:
    s3.fault(Fault.FORGET_CONDITION, "PUT")
    with pytest.raises(StoreError, match="conditional puts"):
        asyncio.run(bucket.create("records/one.1", b"ours"))
    with pytest.raises(Missing):
        asyncio.run(bucket.get("records/one.1"))


def test_a_small_body_is_whole_or_not_there(s3: S3, bucket: BucketStore) -> None:
    async def go() -> None:
        body = await bucket.body("bodies/a.1")
        await body.write([b"one ", bytearray(b"two "), memoryview(b"three")])
        with pytest.raises(Missing):
            await bucket.size("bodies/a.1")
        await body.finish()
        await body.abandon()
        assert await read(bucket, "bodies/a.1", 4, 100) == b"two three"
        assert await read(bucket, "bodies/a.1", 100, 200) == b""
        unwanted = await bucket.body("bodies/b.1")
        await unwanted.write([b"x"])
        await unwanted.abandon()
        empty = await bucket.body("bodies/c.1")
        await empty.finish()
        assert await bucket.size("bodies/c.1") == 0
        found = {entry.key: entry.size async for entry in bucket.list("bodies/")}
        assert found == {"bodies/a.1": 13, "bodies/c.1": 0}

    asyncio.run(go())


def test_a_large_body_goes_up_in_parts_and_comes_back(s3: S3, bucket: BucketStore) -> None:
    data = secrets.token_bytes(20 << 20)

    async def go() -> None:
        body = await bucket.body("bodies/large.1")
        for start in range(0, len(data), 1 << 20):
            await body.write([memoryview(data)[start : start + (1 << 20)]])
        await body.finish()
        assert await bucket.size("bodies/large.1") == len(data)
        assert await read(bucket, "bodies/large.1", 0, len(data)) == data
        assert await read(bucket, "bodies/large.1", (4 << 20) - 3, 13 << 20) == data[(4 << 20) - 3 : 13 << 20]
        half = bucket.read("bodies/large.1", 0, len(data))
        await anext(half)
        await half.aclose()

    asyncio.run(go())
    (key,) = [key for key in s3.stored() if key.endswith("bodies/large.1")]
    head = s3.oracle.head_object(Bucket="images", Key=key)
    assert head["ETag"].strip('"').endswith("-3")
    assert s3.oracle.get_object(Bucket="images", Key=key)["Body"].read() == data


def test_an_abandoned_body_leaves_no_parts_also_when_its_maker_was_cancelled(s3: S3, bucket: BucketStore) -> None:
    async def go() -> None:
        body = await bucket.body("bodies/given-up.1")
        await body.write([bytes(PART + 1)])
        assert s3.unfinished()
        await body.abandon()
        assert not s3.unfinished()

        s3.fault(0.5, "POST", "uploads", times=1)  # cancelled while the upload is being begun
        body = await bucket.body("bodies/cancelled.1")
        writing = asyncio.create_task(body.write([bytes(PART + 1)]))
        await asyncio.sleep(0.1)
        writing.cancel()
        await asyncio.wait([writing])
        await body.abandon()
        assert not s3.unfinished()

        s3.fault(0.5, "POST", "uploadId", times=1)  # while it is being completed
        body = await bucket.body("bodies/late.1")
        await body.write([bytes(PART + 1)])
        finishing = asyncio.create_task(body.finish())
        await asyncio.sleep(0.1)
        finishing.cancel()
        await asyncio.wait([finishing])
        await body.abandon()
        assert not s3.unfinished()
        assert [entry async for entry in bucket.list("bodies/")] == []

    asyncio.run(go())


def test_a_body_whose_last_answer_is_lost_is_there(s3: S3, bucket: BucketStore) -> None:
    async def go() -> None:
        s3.fault(Fault.LOSE_ANSWER, "POST", "uploadId", times=1)
        body = await bucket.body("bodies/large.1")
        await body.write([bytes(PART), b"end"])
        await body.finish()
        assert await read(bucket, "bodies/large.1", PART, PART + 3) == b"end"

    asyncio.run(go())


def test_parts_that_fail_now_and_then_are_sent_again_and_a_store_that_fails_is_an_error(
    s3: S3, bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        s3.fault(503, "PUT", "partNumber", times=2)
        s3.fault(Fault.LOSE_ANSWER, "PUT", "partNumber", times=1)
        body = await bucket.body("bodies/lucky.1")
        await body.write([bytes(PART), b"end"])
        await body.finish()
        assert await bucket.size("bodies/lucky.1") == PART + 3

        monkeypatch.setitem(_RETRY, "max_retries", 2)
        hasty = BucketStore.open(f"s3://images/{secrets.token_hex(4)}")
        for failing, size in ("partNumber=1", 4 * PART), ("partNumber=2", PART), ("uploadId", PART):
            s3.heal()
            s3.fault(503, "POST" if failing == "uploadId" else "PUT", failing)
            body = await hasty.body("bodies/unlucky.1")
            with pytest.raises(StoreError, match="status 503"):
                await write_and_finish(body, [bytes(size), b"end"])
            await body.abandon()
            assert not s3.unfinished()
            with pytest.raises(Missing):
                await hasty.size("bodies/unlucky.1")

    asyncio.run(go())


def test_what_is_not_there_is_missing_and_may_be_deleted(bucket: BucketStore) -> None:
    async def go() -> None:
        with pytest.raises(Missing):
            await bucket.get("records/none.1")
        with pytest.raises(Missing):
            await bucket.size("records/none.1")
        with pytest.raises(Missing):
            await read(bucket, "records/none.1", 0, 10)
        await bucket.delete("records/none.1")
        assert await bucket.create("records/one.1", b"x")
        await bucket.delete("records/one.1")
        assert [entry async for entry in bucket.list("")] == []

    asyncio.run(go())


def test_a_listing_is_of_all_pages_and_says_nothing_of_other_things_in_the_bucket(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    prefix = secrets.token_hex(4)
    wanted = {f"records/u/{number}.1" for number in range(25)}
    for key in [*wanted, "recordsish", "records/Thumbs.db"]:
        s3.oracle.put_object(Bucket="images", Key=f"{prefix}/{key}", Body=b"x")

    async def go() -> None:
        bucket = BucketStore.open(f"s3://images/{prefix}/")
        assert {entry.key async for entry in bucket.list("records/")} == wanted

    asyncio.run(go())


def test_a_slow_store_works(s3: S3, bucket: BucketStore) -> None:
    async def go() -> None:
        assert await bucket.create("records/zero.1", b"before all")
        for method in ("PUT", "GET"):
            s3.fault(2.0, method, times=1)
        assert await bucket.create("records/one.1", b"slow")
        assert await bucket.get("records/one.1") == b"slow"

    asyncio.run(go())


def everything(bucket: BucketStore) -> list[StoreError]:
    """What each call says, all at the same time."""

    async def body(size: int) -> None:
        making = await bucket.body("bodies/a.1")
        try:
            await write_and_finish(making, [bytes(size)])
        finally:
            await making.abandon()

    async def listed() -> None:
        async for _ in bucket.list(""):
            pass

    async def go() -> list[object]:
        calls = [
            bucket.create("records/a.1", b"x"),
            bucket.get("records/a.1"),
            bucket.size("records/a.1"),
            bucket.delete("records/a.1"),
            read(bucket, "records/a.1", 0, 10),
            listed(),
            body(10),
            body(PART + 1),
        ]
        async with asyncio.timeout(GENEROUS):
            return list(await asyncio.gather(*calls, return_exceptions=True))

    errors = asyncio.run(go())
    for error in errors:
        assert isinstance(error, StoreError)
        assert "\n" not in str(error)
        assert ACCESS_KEY not in str(error)
        assert SECRET_KEY not in str(error)
    return [error for error in errors if isinstance(error, StoreError)]


def test_a_store_that_is_away_is_one_line_that_names_it(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        for error in everything(BucketStore.open("s3://images/away")):
            assert "s3://images/away cannot be used" in str(error)


def test_a_bucket_that_does_not_exist_is_not_mistaken_for_missing_objects(s3: S3) -> None:
    for error in everything(BucketStore.open("s3://no-such-bucket")):
        assert "There is no bucket s3://no-such-bucket" in str(error)


def test_denied_access_names_what_to_check(s3: S3, bucket: BucketStore) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        s3.fault(403, method)
    for error in everything(bucket):
        assert "AWS_ACCESS_KEY_ID" in str(error)


def test_a_full_store_says_so(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_RETRY, "max_retries", 1)
    bucket = BucketStore.open("s3://images/full")
    s3.fault(507, "PUT")
    with pytest.raises(StoreFull, match="is full"):
        asyncio.run(bucket.create("records/one.1", b"x"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://images", "begin with s3://"),
        ("s3://", "names no bucket"),
        ("s3://Images", "names no bucket"),
        ("s3://images/Up", "prefix"),
        ("s3://name:hunter2@images", "Credentials"),
        ("s3://images?secret=hunter2", "Credentials"),
        ("s3://[hunter2", "not one"),
    ],
)
def test_a_bad_url_is_refused_in_one_line_without_its_secrets(url: str, says: str) -> None:
    with pytest.raises(StoreError) as error:
        BucketStore.open(url)
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)


def test_an_endpoint_without_encryption_is_on_this_machine_or_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP=true"):
        BucketStore.open("s3://images")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    BucketStore.open("s3://images")


def test_only_a_bucket_pays_for_its_library() -> None:
    program = "import sys, safelight.cli.main, safelight.vault.vault; sys.exit('obstore' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
