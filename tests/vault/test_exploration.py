"""For any order of steps and any crash on one name: no acknowledged image is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest

from safelight.encryption.sealed import read_header, rewrapped
from safelight.vault import maintenance
from safelight.vault.chain import Chains, Generation, key_of
from safelight.vault.records import Aborted, Image, Removed, target_generation
from safelight.vault.stores.base import Body
from safelight.vault.vault import Draft, ImageMetadata, UploadConflict, Vault

from .explore import (
    CASTS,
    FIRST,
    FORGER,
    KEPT,
    LEADER,
    OTHER,
    REMOVER,
    REWRAPPER,
    SECOND_REWRAPPER,
    SWEEPER,
    Broken,
    Cast,
    Explorer,
    Request,
    ask,
    blind,
)


@pytest.mark.parametrize("who", CASTS)
def test_no_order_of_steps_breaks_a_promise(who: str) -> None:
    Explorer(CASTS[who]).explore()


@pytest.mark.parametrize("who", [who for who, cast in CASTS.items() if blind(cast) != cast])
def test_nor_does_who_writes_without_looking(who: str) -> None:
    Explorer(blind(CASTS[who])).explore()


# -- bugs, to show that the exploration would notice them --------------------------------------------


class Bug(NamedTuple):
    owner: Any
    name: str
    instead: Callable[..., Any]
    cast: Cast
    noticed: str


async def sweeps_without_aborted(vault: Vault, body: str) -> bool:
    aim = target_generation(body)
    assert aim
    record, _ = await vault.latest(aim[0])
    if not isinstance(record, Image) or record.body != body:
        await vault.store.delete(body)
    return True


async def sweeps_whatever_lost(vault: Vault, body: str) -> bool:
    aim = target_generation(body)
    assert aim
    record, latest = await vault.latest(aim[0])
    if isinstance(record, Image) and record.body == body:
        return False
    if latest < aim[1]:
        await vault.append(aim[0], aim[1], Aborted(0.0))
    await vault.store.delete(body)
    return True


async def sweeps_images(vault: Vault, body: str) -> bool:
    aim = target_generation(body)
    assert aim
    _, latest = await vault.latest(aim[0])
    if latest < aim[1]:
        await vault.append(aim[0], aim[1], Aborted(0.0))
    await vault.store.delete(body)
    return True


async def overwrites(
    chains: Chains, name: str, number: int, data: bytes, *, body: Body | None = None, reserve: bool = False
) -> bool:
    if body is not None:
        await body.finish()
    await ask(Request("overwrite", key_of(name, number), data))
    await ask(Request("sync", key_of(name, number)))
    return True


async def appends_to_what_is_not_durable(
    chains: Chains, name: str, number: int, data: bytes, *, body: Body | None = None, reserve: bool = False
) -> bool:
    if body is not None:
        await body.finish()
    return await chains._store.create(key_of(name, number), data)


async def removes_body_first(vault: Vault, user: str, name: str) -> None:
    chain = vault.records.chain(user, name)
    record, number = await vault.latest(chain)
    if isinstance(record, Image):
        await vault._drop(record.body)
        await vault.append(chain, number + 1, Removed(user, name, record.upload, 0.0))


async def rewrap_leaves_a_gap(vault: Vault, generation: Generation) -> str:
    return await _rewrap(vault, generation, 2)


async def rewrap_revives(vault: Vault, generation: Generation) -> str:
    """Who loses the next generation takes the one after it, as if nothing had happened."""
    return await _rewrap(vault, generation, 1)


async def _rewrap(vault: Vault, generation: Generation, step: int) -> str:
    record = vault.read(generation)
    if isinstance(record, Image):
        header = rewrapped(read_header(record.header), vault.keyring(), random=bytes)
        record = msgspec.structs.replace(record, header=header.encode())
        number = generation.number + step
        while not await vault.append(generation.name, number, record):
            number += 1
    await vault.ensure_durable(generation.name, generation.number)
    return ""


async def rewrap_tries_once(vault: Vault, generation: Generation) -> str:
    record = vault.read(generation)
    if isinstance(record, Image) and maintenance.keys_of(generation, record) != {vault.keyring().current_id}:
        header = rewrapped(read_header(record.header), vault.keyring(), random=bytes)
        record = msgspec.structs.replace(record, header=header.encode())
        await vault.append(generation.name, generation.number + 1, record)
    return ""


async def ensures_nothing(vault: Vault, chain: str, number: int) -> None:
    pass


def _image(draft: Draft, header: bytes, metadata: ImageMetadata) -> Image:
    return Image(draft.user, draft.name, draft.upload, draft.key, header, metadata.size, 0.0, metadata.type)


async def commits_before_body(vault: Vault, draft: Draft, header: bytes, metadata: ImageMetadata) -> Image:
    image = _image(draft, header, metadata)
    await vault.append(draft.chain, draft.number, image)
    await draft.body.finish()
    return image


async def believes_it_won(vault: Vault, draft: Draft, header: bytes, metadata: ImageMetadata) -> Image:
    await draft.body.finish()
    image = _image(draft, header, metadata)
    await vault.append(draft.chain, draft.number, image)
    return image


async def takes_what_it_finds(vault: Vault, draft: Draft, header: bytes, metadata: ImageMetadata) -> Image:
    """Who loses compares neither bodies' names, which may be one, nor what is in them."""
    await draft.body.finish()
    image = _image(draft, header, metadata)
    if await vault.append(draft.chain, draft.number, image):
        return image
    await vault._drop(draft.key)
    there = await vault.begin(draft.user, draft.name, draft.upload)
    if not isinstance(there, Image):
        raise UploadConflict("begin again")
    return there


async def ignores_upload_ids(
    vault: Vault, user: str, name: str, upload: str, *, skip_lookup: bool = False
) -> Draft | Image:
    record, _ = await vault.latest(vault.records.chain(user, name))
    return record if isinstance(record, Image) else await _begin(vault, user, name, upload)


_begin = Vault.begin
BUGS = [
    Bug(maintenance, "_sweep", sweeps_without_aborted, Cast((FIRST, SWEEPER)), "body was deleted"),
    Bug(maintenance, "_sweep", sweeps_whatever_lost, Cast((FIRST, SWEEPER)), "body was deleted"),
    Bug(maintenance, "_sweep", sweeps_images, Cast((SWEEPER,), KEPT), "body was deleted"),
    Bug(Chains, "append", overwrites, Cast((FIRST, OTHER)), "overwritten"),
    Bug(Chains, "append", appends_to_what_is_not_durable, Cast((FIRST, REMOVER)), "gap"),
    Bug(Vault, "remove", removes_body_first, Cast((REMOVER,), KEPT), "body was deleted"),
    Bug(maintenance, "_rewrap", rewrap_leaves_a_gap, Cast((REWRAPPER,), KEPT), "gap"),
    Bug(maintenance, "_rewrap", rewrap_revives, Cast((REMOVER, REWRAPPER), KEPT), "the chain says"),
    Bug(maintenance, "_rewrap", rewrap_tries_once, Cast((REWRAPPER, SECOND_REWRAPPER), KEPT), "needs the old key"),
    Bug(Vault, "ensure_durable", ensures_nothing, Cast((FIRST, LEADER)), "an acknowledged image is lost"),
    Bug(Vault, "ensure_durable", ensures_nothing, Cast((REMOVER, SWEEPER), KEPT), "body was deleted"),
    Bug(Vault, "ensure_durable", ensures_nothing, Cast((REWRAPPER, SECOND_REWRAPPER), KEPT), "needs the old key"),
    Bug(Vault, "commit", commits_before_body, Cast((FIRST,)), "body was deleted"),
    Bug(Vault, "commit", believes_it_won, Cast((FIRST, OTHER)), "an acknowledged image is lost"),
    Bug(Vault, "commit", takes_what_it_finds, Cast((FIRST,), faults=1), "body was deleted"),
    Bug(Vault, "commit", takes_what_it_finds, Cast((FIRST, FORGER)), "acknowledged as another"),
    Bug(Vault, "begin", ignores_upload_ids, Cast((FIRST, OTHER)), "an acknowledged image is lost"),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.instead.__name__)
def test_exploration_notices(bug: Bug) -> None:
    with patch.object(bug.owner, bug.name, bug.instead), pytest.raises(Broken, match=bug.noticed):
        Explorer(bug.cast).explore()
