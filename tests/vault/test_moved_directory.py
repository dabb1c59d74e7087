"""A vault directory that is moved or emptied during an operation: nothing is acknowledged."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from safelight.runtime.atomic_file import PartFile
from safelight.vault.stores import directory
from safelight.vault.stores.base import Missing, StoreError, StoreFull
from safelight.vault.stores.directory import DirectoryStore
from tests.mounts import seen_at, small_disk
from tests.vault.contract import BODY, MEBIBYTE, RECORD, keys, put

GUARD, OURS = "vault", b"ours"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    DirectoryStore.make(tmp_path / "vault")
    return tmp_path / "vault"


def use(root: Path, work: Callable[[DirectoryStore], Awaitable[None]]) -> None:
    async def go() -> None:
        store = DirectoryStore(root)
        assert await store.create(GUARD, OURS)
        store.guard(GUARD, OURS)
        await store.create(RECORD, b"a record")
        await work(store)

    asyncio.run(go())


def swap(root: Path) -> None:
    """Put a copy in the place of the directory, as one does who moves a vault to another disk."""
    shutil.copytree(root, root.with_name("new"))
    root.rename(root.with_name("old"))
    root.with_name("new").rename(root)


def spares(root: Path) -> list[Path]:
    return [*root.glob(".spare-*")]


def empty(root: Path) -> None:
    (root / GUARD).unlink()


def test_a_body_started_before_the_directories_were_replaced_is_not_acknowledged(root: Path) -> None:
    async def work(store: DirectoryStore) -> None:
        body = await store.body(BODY)
        await body.write([bytes(2 * MEBIBYTE)])
        await body._written()
        swap(root)
        identity = store.identity
        assert await store.get(RECORD) == b"a record"
        assert store.identity != identity
        identity = store.identity
        with pytest.raises(StoreError, match="moved"):
            await store.create_with_body(body, RECORD + "0", b"its record")
        await body.abandon()
        assert store.identity == identity
        with pytest.raises(Missing):
            await store.get(RECORD + "0")
        await put(store, BODY, b"again")  # the next attempt goes to what is there now
        assert await store.create(RECORD + "0", b"its record")
        assert (root / RECORD).with_name("9e2f.10").read_bytes() == b"its record"

    use(root, work)


@pytest.mark.parametrize("happens", [swap, empty])
@pytest.mark.parametrize(
    ("module", "call", "operation"),
    [
        (os, "link", lambda store: store.create(RECORD + "0", b"another")),
        (os, "link", lambda store: store.create(RECORD, b"a taken key")),
        (os, "link", lambda store: put(store, BODY, b"a body")),
        (os, "unlink", lambda store: store.delete(RECORD)),
        (directory, "sync_directory", lambda store: store.ensure_durable(RECORD)),
        (os, "scandir", lambda store: keys(store)),
        (os, "open", lambda store: store.get(RECORD + "0")),
        (os, "open", lambda store: store.delete("records/0c1e/9e2f.1")),
        (os, "open", lambda store: store.ensure_durable(RECORD + "0")),
    ],
)
def test_what_happens_to_the_root_during_an_operation_fails_it(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Path], None],
    module: Any,
    call: str,
    operation: Callable[[DirectoryStore], Awaitable[object]],
) -> None:
    async def work(store: DirectoryStore) -> None:
        await put(store, BODY + "0", b"makes the directories")
        await store.ensure_durable(RECORD)
        real = getattr(module, call)

        def hooked(*arguments: Any, **named: Any) -> Any:
            try:
                return real(*arguments, **named)
            finally:
                monkeypatch.setattr(module, call, real)  # once
                happens(root)

        def on_a_directory_below(path: Any, *arguments: Any, **named: Any) -> Any:
            return (hooked if path == "records" else real)(path, *arguments, **named)

        monkeypatch.setattr(module, call, on_a_directory_below if call == "open" else hooked)
        with pytest.raises(StoreError):
            await operation(store)
        assert getattr(module, call) is real

    use(root, work)


@pytest.mark.parametrize("part", ["records", "records/0c1d", "bodies"])
def test_a_part_of_the_vault_on_another_file_system_is_refused(root: Path, part: str) -> None:
    async def work(store: DirectoryStore) -> None:
        (root / part).mkdir(exist_ok=True)
        with small_disk(root / part, 1):
            key = f"{part}/0c1d/9e2f.1"
            for attempt in (
                store.create(key, b"another"),
                put(store, key, b"a body"),
                store.get(key),
                store.size(key),
                store.ensure_durable(key),
                store.delete(key),
                keys(store, f"{part}/"),
                keys(store),
            ):
                with pytest.raises(StoreError, match=f"{part} is another file system: mount the whole vault"):
                    await attempt
            assert [*(root / part).iterdir()] == []
        assert await store.create(part + "/0c1d/9e2f.2", b"another")

    use(root, work)


def test_the_whole_vault_may_be_mounted(root: Path, tmp_path: Path) -> None:
    async def work(store: DirectoryStore) -> None:
        assert await store.create(RECORD + "0", b"another")
        await put(store, BODY, b"a body")
        assert await keys(store) == {GUARD, RECORD, RECORD + "0", BODY}
        assert await store.get(RECORD) == b"a record"

    with small_disk(tmp_path / "disk", 1), seen_at(tmp_path / "disk", tmp_path / "mounted"):
        use(tmp_path / "mounted", work)


def test_the_vault_may_be_an_overlay_of_two_file_systems(root: Path, tmp_path: Path) -> None:
    """Files of the lower one have another device than their directories there."""

    async def nothing(_: DirectoryStore) -> None:
        pass

    async def work(store: DirectoryStore) -> None:
        assert await store.get(RECORD) == b"a record"
        assert await store.create(RECORD + "0", b"another")
        assert await keys(store) == {GUARD, RECORD, RECORD + "0"}

    async def reopened() -> None:
        store = DirectoryStore(tmp_path / "merged")
        store.guard(GUARD, OURS)
        await work(store)

    use(root, nothing)
    (tmp_path / "merged").mkdir()
    with small_disk(tmp_path / "disk", 1) as disk:
        for name in "upper", "work":
            (disk / name).mkdir()
        options = f"lowerdir={root},upperdir={disk}/upper,workdir={disk}/work"
        mount = ["mount", "-t", "overlay", "-o", options, "none", str(tmp_path / "merged")]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("no overlay can be mounted here")
        try:
            asyncio.run(reopened())
        finally:
            subprocess.run(["umount", "-l", str(tmp_path / "merged")], check=True)


def test_a_file_of_the_reserve_with_a_second_name_is_not_written_into(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: directory._Part) -> PartFile:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def work(store: DirectoryStore) -> None:
        await store.fill_reserve()
        for number in range(15):
            (root / f".spare-{number}").unlink()
        os.link(root / ".spare-15", root.with_name("another"))
        before = root.with_name("another").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(directory._Part, "_create", full)
            with pytest.raises(StoreFull):
                await store.create(RECORD + "0", b"a tombstone", reserve=True)
        assert root.with_name("another").read_bytes() == before
        await store.delete(RECORD)
        assert len(spares(root)) == 16

    use(root, work)


def test_a_reserve_that_another_used_up_is_filled_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def work(store: DirectoryStore) -> None:
        await store.fill_reserve()
        for path in spares(root):
            path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(directory._Part, "_create", full)
            with pytest.raises(StoreFull):
                await store.create(RECORD + "0", b"a tombstone", reserve=True)
        await store.delete(RECORD)
        assert len(spares(root)) == 16

    use(root, work)


@pytest.mark.parametrize("failing", ["fstat", "unlink"])
def test_a_failing_disk_costs_no_descriptors(root: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def attempt(store: DirectoryStore) -> None:
        body = await store.body(BODY)
        await body.write([bytes(2 * MEBIBYTE)])
        await body._written()
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, fail)
            with suppress(StoreError):
                await store.get(RECORD)
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StoreError):
                await body.finish()
            await body.abandon()

    async def work(store: DirectoryStore) -> None:
        await attempt(store)  # what is made once is there after this
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            await attempt(store)
        assert len(os.listdir("/dev/fd")) <= before + 2

    use(root, work)
