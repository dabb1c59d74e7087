"""An attacker who writes to the vault, has no key, and may be a user as well: can destroy and roll back, but never
read, forge or pose as another. See docs/security.md.

Each attack is made on a vault with images of two users, and then a process that has just started, and so remembers
nothing, is asked for all images of both.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from safelight.config import Config
from safelight.errors import SafelightError
from safelight.node.state.data_directory import find_keyring
from safelight.node.state.users import Users
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import Image
from safelight.vault.vault import Vault
from safelight.wire.messages import Refusal, fingerprint
from tests.cli.commandline import safelight
from tests.mission.support import seal
from tests.running import SETTLED, Running, running

PNG = b"\x89PNG\r\n\x1a\n"
CONTENTS = {
    "ann": {"a.png": PNG + b"what ann alone may see", "b.png": PNG + b"ann's other image......"},
    "eve": {"e.png": PNG + b"of eve's own.........."},
}
"""What each user keeps, by the names of the files."""

T = TypeVar("T")


class Store(NamedTuple):
    """A vault's directory, and where in it the images of ann (two) and eve (one) are."""

    root: Path
    ann: list[Image]
    eve: Image
    users: dict[str, str]
    """The chain of each user."""

    def body(self, image: Image) -> Path:
        return self.root / image.body

    def record(self, image: Image, number: int = 1) -> Path:
        [folder] = [each for each in (self.root / "records").iterdir() if each.name == image.body.split("/")[1]]
        return folder / f"{image.body.split('/')[2].split('.')[0]}.{number}"


Attack = Callable[[Store], object]


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def give_record_to_eve(store: Store) -> None:
    """Ann's record as the next generation of eve's image, ann's body where eve's is."""
    shutil.copy(store.record(store.ann[0]), store.record(store.eve, 2))
    shutil.copy(store.body(store.ann[0]), store.body(store.eve))


def move_folder_to_eve(store: Store) -> None:
    """All that is ann's under eve's folders."""
    for kind in ("records", "bodies"):
        ann, eve = (store.root / kind / image.body.split("/")[1] for image in (store.ann[0], store.eve))
        shutil.copytree(ann, eve, dirs_exist_ok=True)


def make_eve_ann(store: Store) -> None:
    """Eve's user record in the place of ann's, and eve's token claims ann's name."""
    shutil.copy(store.root / f"{store.users['eve']}.1", store.root / f"{store.users['ann']}.1")
    for token in (store.root / "tokens").iterdir():
        token.write_text(store.users["ann"].removeprefix("users/"))


ATTACKS: dict[str, Attack] = {
    "two records of a user swapped": lambda store: swap(store.record(store.ann[0]), store.record(store.ann[1])),
    "two bodies of a user swapped": lambda store: swap(store.body(store.ann[0]), store.body(store.ann[1])),
    "bodies of two users swapped": lambda store: swap(store.body(store.ann[0]), store.body(store.eve)),
    "records of two users swapped": lambda store: swap(store.record(store.ann[0]), store.record(store.eve)),
    "a record given to another user": give_record_to_eve,
    "a folder given to another user": move_folder_to_eve,
    "a user record given to another": make_eve_ann,
    "a bit of a record flipped": lambda store: flip(store.record(store.ann[0]), 40),
    "the version of a record flipped": lambda store: flip(store.record(store.ann[0]), 0),
    "a bit of a body's header flipped": lambda store: flip(store.body(store.ann[0]), 30),
    "a bit of a body flipped": lambda store: flip(store.body(store.ann[0]), -1),
    "a body cut": lambda store: store.body(store.ann[0]).write_bytes(store.body(store.ann[0]).read_bytes()[:-20]),
    "a body with more at its end": lambda store: store.body(store.ann[0]).write_bytes(
        store.body(store.ann[0]).read_bytes() * 2
    ),
    "a next generation planted": lambda store: store.record(store.ann[0], 2).write_bytes(b"\x01" * 200),
    "a generation played again as the next": lambda store: store.record(store.ann[0], 2).write_bytes(
        store.record(store.ann[0]).read_bytes()
    ),
    "a body in place of a record": lambda store: store.record(store.ann[0]).write_bytes(
        store.body(store.ann[0]).read_bytes()[:60_000]
    ),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A cluster's configuration, whose nodes have stopped, and a copy of its vault."""
    directory = tmp_path_factory.mktemp("kept")
    with running(directory / "cluster", nodes=1, heartbeat=SETTLED) as it:
        for user, images in CONTENTS.items():
            for name, content in images.items():
                (directory / name).write_bytes(content)
                seal(it.config, directory / name, directory / "images", user=user)
        it.cluster.stop()
        shutil.copytree(it.config.data_dir / "vault", directory / "vault")
        yield it, directory / "vault"


@pytest.fixture
def store(kept: tuple[Running, Path]) -> Store:
    """The vault as it was."""
    cluster, copy = kept
    root = cluster.config.data_dir / "vault"
    shutil.rmtree(root)
    shutil.copytree(copy, root)

    async def look(vault: Vault) -> Store:
        images = {image.original: image for user in CONTENTS for image in await all_images(vault, user)}
        users = {user: vault.records.user(user) for user in CONTENTS}
        return Store(root, [images["a.png"], images["b.png"]], images["e.png"], users)

    return asyncio.run(with_vault(cluster.config, look))


async def with_vault(config: Config, work: Callable[[Vault], Awaitable[T]]) -> T:
    """As a process that has just started."""
    ring = find_keyring(config.data_dir).read()
    vault = await open_vault(config.vault_url, config.data_dir, lambda: ring)
    try:
        return await work(vault)
    finally:
        await vault.store.close()


async def all_images(vault: Vault, user: str) -> list[Image]:
    return [image async for image in vault.images(user)]


def seen_by(config: Config, token: str) -> dict[str, bytes]:
    """All that the owner of a token can read, by the names of the files."""

    async def read(vault: Vault) -> dict[str, bytes]:
        seen: dict[str, bytes] = {}
        with suppress(Refusal, SafelightError):
            user = (await Users(lambda: vault).account(fingerprint(token))).user
            for image in await all_images(vault, user):
                with suppress(SafelightError):
                    async with aclosing(vault.part(image, 0, image.size)) as parts:
                        seen[image.original] = b"".join([bytes(part) async for part in parts])
        return seen

    return asyncio.run(with_vault(config, read))


def test_every_user_sees_the_own_images_before_an_attack(kept: tuple[Running, Path], store: Store) -> None:
    config = kept[0].config
    assert {user: seen_by(config, token_of(config, user)) for user in CONTENTS} == CONTENTS


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_writer_without_a_key_can_destroy_but_not_read_forge_or_pose(
    kept: tuple[Running, Path], store: Store, attack: str, tmp_path: Path
) -> None:
    config = kept[0].config
    ATTACKS[attack](store)
    for user, own in CONTENTS.items():
        seen = seen_by(config, token_of(config, user))
        assert seen.items() <= own.items(), f"{user} sees what is not under this name"
    verified = safelight("verify", config=config, cwd=tmp_path)
    assert verified.returncode == 1
    assert "Traceback" not in verified.stderr


def test_what_a_writer_deletes_is_missed(kept: tuple[Running, Path], store: Store, tmp_path: Path) -> None:
    store.body(store.ann[0]).unlink()
    assert safelight("verify", config=kept[0].config, cwd=tmp_path).returncode == 1


def token_of(config: Config, user: str) -> str:
    [path] = (config.client_dir / "tokens").rglob(user)
    return path.read_text().strip()
