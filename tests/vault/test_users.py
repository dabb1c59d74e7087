"""Users in a vault through a rotation of its key, and under a verification."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from safelight.encryption.keys import ClusterKey, Keyring
from safelight.node.state.users import Users
from safelight.vault.maintenance import rewrap
from safelight.vault.records import IDENTITY, Removed
from safelight.vault.stores.base import Entry
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import Vault
from safelight.vault.verify import verify
from safelight.wire.messages import Refusal, fingerprint

OLD, NEW = ClusterKey(b"old key." * 4), ClusterKey(b"new key." * 4)
BEFORE, BETWEEN, AFTER = (
    Keyring("0" * 32, b"a secret" * 4, keys, keys[-1].id) for keys in ((OLD,), (OLD, NEW), (NEW,))
)
MINE, ANOTHERS, THIRD = (fingerprint(f"slt_{each}") for each in ("mine", "anothers", "third"))


def do(root: Path, work: Callable[[Vault, Users], Awaitable[None]], keyring: Keyring = BEFORE) -> None:
    async def go() -> None:
        vault = Vault(DirectoryStore(root), lambda: keyring)
        await work(vault, Users(lambda: vault))

    asyncio.run(go())


async def populate(vault: Vault, users: Users) -> None:
    """One user who has had two tokens, one who is revoked, and one with nothing to tell."""
    await vault.store.create(IDENTITY, b"{}")
    await users.enrol("ann", MINE)
    await users.give("ann", ANOTHERS)
    await users.enrol("ben", THIRD)
    await users.revoke("ben")
    await users.enrol("carl", fingerprint("slt_carl"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    do(tmp_path, populate)
    return tmp_path


def test_after_a_rewrap_users_need_the_old_key_no_more(root: Path) -> None:
    async def bring(vault: Vault, users: Users) -> None:
        counts: Counter[str] = Counter()
        async for now in rewrap(vault):
            counts = now.copy()
        assert counts == {OLD.id: 3}
        async for now in rewrap(vault):
            counts = now.copy()
        assert counts == {NEW.id: 3}

    async def look(vault: Vault, users: Users) -> None:
        assert (await users.account(fingerprint("slt_anothers"))).user == "ann"
        assert (await users.account(fingerprint("slt_carl"))).user == "carl"
        for token in ("slt_mine", "slt_third"):
            with pytest.raises(Refusal, match="belongs to no user"):
                await users.account(fingerprint(token))
        assert await users.give("ben", THIRD)

    do(root, bring, BETWEEN)
    do(root, look, AFTER)


def test_a_rewrap_takes_no_change_back(root: Path) -> None:
    async def meet(vault: Vault, users: Users) -> None:
        async for _ in rewrap(vault):
            await Users(lambda: Vault(DirectoryStore(root), lambda: BETWEEN)).revoke("ann")
        with pytest.raises(Refusal):
            await users.account(fingerprint("slt_anothers"))

    do(root, meet, BETWEEN)


def troubles(root: Path) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []

    async def look(vault: Vault, users: Users) -> None:
        found.extend([(each.fault, each.key, each.user) async for each in verify(vault) if each.fault])

    do(root, look)
    return found


def test_a_verification_finds_users_in_order_and_names_those_that_are_not(root: Path) -> None:
    assert troubles(root) == []
    names = {}

    async def look(vault: Vault, users: Users) -> None:
        names.update({name: vault.records.user(name) for name in ("ann", "ben", "carl")})
        names.update({mine: vault.records.token(mine) for mine in (MINE, ANOTHERS, THIRD)})

    do(root, look)
    carl = root / f"{names['carl']}.1"
    sealed = carl.read_bytes()
    carl.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    (root / f"{names['ann']}.1").unlink()
    (root / names[ANOTHERS]).unlink()
    (root / names[THIRD]).write_bytes((root / names[MINE]).read_bytes())
    (root / "tokens" / "mine").write_text("carl")
    assert sorted(troubles(root)) == [
        ("damaged", names[THIRD], "ben"),
        ("damaged", f"{names['carl']}.1", ""),
        ("foreign", "tokens/mine", ""),
        ("missing", names[ANOTHERS], "ann"),
        ("missing", f"{names['ann']}.1", ""),
    ]


def test_a_user_who_enrols_while_a_verification_lists_the_vault_is_no_loss(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    async def look(vault: Vault, users: Users) -> None:
        listed = vault.store.list

        async def slow(prefix: str) -> AsyncIterator[Entry]:
            """Comes to the records when it has been through the users."""
            for entry in [entry async for entry in listed(prefix)]:
                yield entry
            monkeypatch.undo()
            await users.enrol("dora", fingerprint("slt_dora"))
            await vault.append(vault.records.chain("dora", "a.png"), 1, Removed("dora", "a.png", "0" * 32, 0.0))
            async for entry in listed("records/"):
                yield entry

        monkeypatch.setattr(vault.store, "list", slow)
        found.extend([f"{each.key}: {each.why}" async for each in verify(vault) if each.fault])

    do(root, look)
    assert found == []
