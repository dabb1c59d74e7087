"""A clock that is set back, stands still or runs ahead changes the order of a listing, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from safelight.encryption import Scheme, seal
from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import read_header
from safelight.vault.maintenance import sweep
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import Draft, ImageMetadata, Vault

TIMES = [1000.0, 500.0, 500.0, 0.0, 4e9, 500.0, 1000.0, -1.0]


def test_whatever_the_clock_said_each_image_is_listed_once_and_none_is_swept(tmp_path: Path) -> None:
    async def go() -> None:
        DirectoryStore.make(tmp_path / "vault")
        keyring, now = Keyring.new(), _clock()
        vault = Vault(DirectoryStore(tmp_path / "vault"), lambda: keyring, clock=lambda: next(now))
        for number in range(len(TIMES)):
            await _keep(vault, f"{number}.png", f"image {number}".encode())
        pages, before = [], None
        while page := await vault.newest("alice", 3, before=before, wanted=lambda image: True):
            pages.append([image.name for image in page])
            before = page[-1].created, page[-1].name
        assert pages == [["4.png", "6.png", "0.png"], ["5.png", "2.png", "1.png"], ["3.png", "7.png"]]
        for moment in (-1e9, 0.0, 1e12):
            assert await sweep(Vault(vault.store, lambda: keyring, clock=lambda: moment)) == 0  # noqa: B023
        for number in range(len(TIMES)):
            image = await vault.find("alice", f"{number}.png")
            parts = [bytes(part) async for part in vault.part(image, 0, image.size)]
            assert b"".join(parts) == f"image {number}".encode()

    asyncio.run(go())


def _clock() -> Iterator[float]:
    yield from TIMES


async def _keep(vault: Vault, name: str, content: bytes) -> None:
    draft = await vault.begin("alice", name, content.hex().ljust(32, "0")[:32])
    assert isinstance(draft, Draft)
    sealer = seal(Scheme.SEALED, "alice", vault.keyring())
    sealed = b"".join([*sealer.update(content), sealer.finish()])
    await draft.body.write([sealed])
    await vault.commit(
        draft, sealed[: read_header(sealed).length], ImageMetadata(len(content), "image/png", name, None)
    )
