"""An upload that is sent twice at the same time, and whose image is removed while the two are compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from safelight.encryption import Scheme, seal
from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import read_header
from safelight.vault.records import Image
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import AlreadyRemoved, Draft, ImageMetadata, Vault

CONTENT = b"an image"


class RemovesInBetween(Vault):
    """Another client removes the image as soon as somebody wants to read it."""

    async def digest(self, image: Image) -> bytes:
        await Vault(self.store, self.keyring).remove(image.user, image.name)
        return await super().digest(image)


async def written(vault: Vault) -> tuple[Draft, bytes]:
    draft = await vault.begin("alice", "a.png", "1" * 32)
    assert isinstance(draft, Draft)
    sealer = seal(Scheme.SEALED, "alice", vault.keyring())
    sealed = b"".join([*sealer.update(CONTENT), sealer.finish()])
    await draft.body.write([sealed])
    return draft, sealed[: read_header(sealed).length]


def test_the_second_of_two_learns_that_its_image_was_removed(tmp_path: Path) -> None:
    async def go() -> None:
        DirectoryStore.make(tmp_path / "vault")
        keyring, metadata = Keyring.new(), ImageMetadata(len(CONTENT), "image/png", "a.png", None)
        vault = RemovesInBetween(DirectoryStore(tmp_path / "vault"), lambda: keyring)
        (first, header), (second, second_header) = await written(vault), await written(vault)
        await vault.commit(first, header, metadata)
        with pytest.raises(AlreadyRemoved):
            await vault.commit(second, second_header, metadata)
        assert not [path for path in (tmp_path / "vault" / "bodies").rglob("*") if path.is_file()]

    asyncio.run(go())
