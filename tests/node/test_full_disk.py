"""A node whose disk is full says so, and goes on: with small images at once, with large ones when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from safelight.cli.admin import users as admin
from safelight.wire.messages import Problem
from tests.mounts import small_disk
from tests.node.raw_http import ask, enrolled, image, refused
from tests.running import Running, running

MEBIBYTE = 1 << 20
BOB = f"Authorization: Bearer slt_{43 * 'b'}"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "tiny", 8) as directory:
        yield directory


def test_a_full_disk_is_said_and_survived(tiny: Path) -> None:
    with running(tiny, 1) as it:
        address = it.config.addresses[1]
        token = enrolled(it.config, "alice")
        large, small = image(12 * MEBIBYTE), image(100_000)
        assert "disk is full" in refused(
            ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large), Problem.DISK_FULL
        )
        sealed = ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large[: 6 * MEBIBYTE])
        assert sealed.status == 201  # what the large one had taken is free again
        opened = ask(address, "PUT /v1/opened/a.png", token, body=sealed.body)
        assert opened.body == large[: 6 * MEBIBYTE]
        with pytest.raises(OSError, match="No space"):
            (tiny / "filler").write_bytes(bytes(16 * MEBIBYTE))
        refused(ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large), Problem.DISK_FULL)
        refused(ask(address, "PUT /v1/users/bob", BOB), Problem.DISK_FULL)
        assert ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=small).status == 201
        (tiny / "filler").unlink()
        assert ask(address, "PUT /v1/users/bob", BOB).status == 201
        assert all(line.startswith("Node 1: ") for line in it.said(1)), it.said(1)


@contextmanager
def full_vault(directory: Path, size: int, *, files: int = 0) -> Iterator[tuple[Running, str, list[str]]]:
    """A node whose vault is as full as uploads of that size make it; a user's token, and what that user has there."""
    with small_disk(directory / "vault", 4, files=files) as disk, running(directory, 1, vault=disk.as_uri()) as it:
        token, kept = enrolled(it.config, "alice"), list[str]()
        for number in count():
            path = f"/v1/images/{number}.png"
            answer = ask(it.config.addresses[1], f"PUT {path}", token, "Prefer: return=minimal", body=image(size))
            if answer.status != 201:
                assert "the vault is full" in refused(answer, Problem.DISK_FULL)
                break
            kept.append(path)
        if not files:  # what uploads of any size leave
            with pytest.raises(OSError, match="No space"):
                (disk / ".filler").write_bytes(bytes(5 * MEBIBYTE))
        yield it, token, kept


@pytest.mark.parametrize(("size", "files"), [(300_000, 0), (100, 60)], ids=["bytes", "files"])
def test_a_full_vault_can_be_emptied_by_its_users(tmp_path: Path, size: int, files: int) -> None:
    with full_vault(tmp_path, size, files=files) as (it, token, kept):
        address = it.config.addresses[1]
        assert len(kept) > 8
        while len(kept) > 2:
            path = kept.pop()
            assert ask(address, f"DELETE {path}", token).status == 204
            refused(ask(address, f"GET {path}", token), Problem.NOT_FOUND)
        if not files:  # a removed image has as many files as before: its body's, in exchange for the tombstone's
            (tmp_path / "vault" / ".filler").unlink()
            assert ask(address, "PUT /v1/images/again.png", token, body=image(size)).status == 201
        for path in kept:
            assert ask(address, f"GET {path}", token).status == 200
        spares = [path.stat().st_size for path in (tmp_path / "vault").glob(".spare-*")]
        assert spares == [4096] * 16  # what was used was put back


def test_where_nothing_else_fits_a_user_is_revoked_all_the_same(tmp_path: Path) -> None:
    with full_vault(tmp_path, 300_000) as (it, _, _):
        assert asyncio.run(admin.revoke(it.config, "alice")) == "alice is revoked. The images stay."


def test_a_full_vault_says_how_much_is_missing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "vault", 4) as disk, running(tmp_path, 1, vault=disk.as_uri()) as it:
        token, address = enrolled(it.config, "alice"), it.config.addresses[1]
        detail = refused(ask(address, "PUT /v1/images/a.png", token, body=image(6 * MEBIBYTE)), Problem.DISK_FULL)
        assert "6 MiB needed, 3.9 MiB free, 2.1 MiB missing" in detail
        assert str(disk) not in detail
        assert "2.1 MiB missing" in it.wait_for_line(1, "the disk is full")
