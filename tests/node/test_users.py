"""Users through crashes, races, revocation and other tokens: nobody loses a name, nobody gets two or another's."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from safelight.cli.admin import users as admin
from safelight.cli.output.documents import Outcome
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.local.cluster import environment, ephemeral_config
from safelight.node.state.data_directory import DataError, create_cluster, find_keyring
from safelight.node.state.users import FRESH, MISSED, NoSuchUser, Users
from safelight.vault.records import TOKENS, USERS
from safelight.vault.stores.base import StoreError
from safelight.vault.stores.directory import DirectoryStore
from safelight.vault.vault import Vault
from safelight.wire.messages import Problem, Refusal, fingerprint
from tests.accounts import ordinary_account
from tests.running import GENEROUS

MINE, ANOTHERS, THIRD = (fingerprint(f"slt_{each}") for each in ("mine", "anothers", "third"))
_T = TypeVar("_T")


class Crash(Exception):
    """The node dies here."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return made(tmp_path)


def made(directory: Path, **settings: Any) -> Config:
    config = ephemeral_config(directory, **settings)
    create_cluster(config.data_dir)
    return config


def do(config: Config, work: Callable[[Users], Awaitable[_T]]) -> _T:
    """As a process that has just started: it knows of nothing but what is on the disk."""

    async def go() -> _T:
        async with admin.opened(config) as users:
            return await work(users)

    return asyncio.run(go())


def enrol(config: Config, name: str, mine: str) -> bool:
    return do(config, lambda users: users.enrol(name, mine))


async def of_token(users: Users, token: str) -> str:
    return (await users.account(fingerprint(token))).user


def whose(config: Config, token: str) -> str | None:
    try:
        return do(config, lambda users: of_token(users, token))
    except Refusal as refusal:
        if refusal.problem is not Problem.UNKNOWN_TOKEN:
            raise
        return None


def problem(attempt: Callable[[], object]) -> Problem:
    with pytest.raises(Refusal) as raised:
        attempt()
    return raised.value.problem


def before_creating(
    monkeypatch: pytest.MonkeyPatch, prefix: str, happens: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Have something happen once, just before the next object with such a key would be made."""
    create = DirectoryStore.create
    pending = [happens]

    async def interrupted(store: DirectoryStore, key: str, data: bytes, *, reserve: bool = False) -> bool:
        if key.startswith(prefix) and pending:
            await pending.pop()()
        return await create(store, key, data, reserve=reserve)

    monkeypatch.setattr(DirectoryStore, "create", interrupted)


async def crash() -> None:
    raise Crash


# -- enrolment that is cut short --


@pytest.fixture
def half_enrolled(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A cluster in which my enrolment as ann was cut short after its first object."""
    with monkeypatch.context() as patched:
        before_creating(patched, USERS, crash)
        with pytest.raises(Crash):
            enrol(config, "ann", MINE)
    return config


def test_a_half_enrolled_user_is_unknown_until_enrolled_again(half_enrolled: Config) -> None:
    assert whose(half_enrolled, "slt_mine") is None
    assert enrol(half_enrolled, "ann", MINE)
    assert whose(half_enrolled, "slt_mine") == "ann"
    assert not enrol(half_enrolled, "ann", MINE)


def test_a_half_enrolled_token_gets_no_other_name(half_enrolled: Config) -> None:
    assert problem(lambda: enrol(half_enrolled, "ben", MINE)) is Problem.WRONG_USER
    assert enrol(half_enrolled, "ann", MINE)


def test_a_half_enrolled_name_is_free_for_another(half_enrolled: Config) -> None:
    assert enrol(half_enrolled, "ann", ANOTHERS)
    assert whose(half_enrolled, "slt_anothers") == "ann"
    assert whose(half_enrolled, "slt_mine") is None
    assert problem(lambda: enrol(half_enrolled, "ann", MINE)) is Problem.NAME_TAKEN


def test_a_token_that_asked_for_a_taken_name_may_have_another(config: Config) -> None:
    assert enrol(config, "ann", ANOTHERS)
    assert problem(lambda: enrol(config, "ann", MINE)) is Problem.NAME_TAKEN
    assert enrol(config, "ben", MINE)
    assert whose(config, "slt_mine") == "ben"


@pytest.mark.parametrize("name", ["../x", "", "a/b", "."])
def test_a_name_that_is_none_is_refused_before_anything_is_written(config: Config, name: str) -> None:
    with pytest.raises(SafelightError, match="name"):
        enrol(config, name, MINE)
    assert not (config.data_dir / "vault" / "tokens").exists()


# -- revoking, and other tokens --


def test_a_revoked_users_token_is_nobodys_and_the_name_nobody_elses(config: Config) -> None:
    enrol(config, "ann", MINE)
    assert do(config, lambda users: users.revoke("ann"))
    assert not do(config, lambda users: users.revoke("ann"))
    assert whose(config, "slt_mine") is None
    assert problem(lambda: enrol(config, "ann", MINE)) is Problem.USER_REVOKED
    assert problem(lambda: enrol(config, "ann", ANOTHERS)) is Problem.USER_REVOKED
    assert problem(lambda: enrol(config, "ben", MINE)) is Problem.WRONG_USER
    assert enrol(config, "ben", ANOTHERS)


def test_another_token_takes_the_place_of_the_first_and_may_be_taken_back(config: Config) -> None:
    enrol(config, "ann", MINE)
    assert do(config, lambda users: users.give("ann", ANOTHERS))
    assert not do(config, lambda users: users.give("ann", ANOTHERS))
    assert (whose(config, "slt_mine"), whose(config, "slt_anothers")) == (None, "ann")
    assert problem(lambda: enrol(config, "ann", MINE)) is Problem.NAME_TAKEN
    assert do(config, lambda users: users.give("ann", MINE))
    assert (whose(config, "slt_mine"), whose(config, "slt_anothers")) == ("ann", None)


@pytest.mark.parametrize("token", ["mine", "anothers"])
def test_a_revoked_user_is_active_again_with_a_token_from_the_operator(config: Config, token: str) -> None:
    enrol(config, "ann", MINE)
    do(config, lambda users: users.revoke("ann"))
    assert do(config, lambda users: users.give("ann", fingerprint(f"slt_{token}")))
    assert whose(config, f"slt_{token}") == "ann"


def test_another_users_token_is_not_given(config: Config) -> None:
    enrol(config, "ann", MINE)
    enrol(config, "ben", ANOTHERS)
    assert problem(lambda: do(config, lambda users: users.give("ann", ANOTHERS))) is Problem.WRONG_USER
    assert (whose(config, "slt_mine"), whose(config, "slt_anothers")) == ("ann", "ben")


@pytest.mark.parametrize("change", [lambda users: users.give("zoe", MINE), lambda users: users.revoke("zoe")])
def test_a_user_that_there_is_not_is_not_changed(config: Config, change: Callable[[Users], Awaitable[bool]]) -> None:
    with pytest.raises(NoSuchUser, match="no user zoe"):
        do(config, change)
    assert enrol(config, "ben", MINE)


def test_a_token_that_was_cut_short_on_its_way_to_a_user_changes_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(config, "ann", MINE)
    with monkeypatch.context() as patched:
        before_creating(patched, USERS, crash)
        with pytest.raises(Crash):
            do(config, lambda users: users.give("ann", ANOTHERS))
    assert (whose(config, "slt_mine"), whose(config, "slt_anothers")) == ("ann", None)
    assert do(config, lambda users: users.give("ann", ANOTHERS))
    assert (whose(config, "slt_mine"), whose(config, "slt_anothers")) == (None, "ann")


# -- several at once --


async def elsewhere(config: Config, work: Callable[[Users], Awaitable[object]]) -> None:
    """What somebody else does, with a store and a memory of their own."""
    async with admin.opened(config) as users:
        await work(users)


def test_a_revocation_that_comes_between_is_not_undone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    enrol(config, "ann", MINE)
    before_creating(monkeypatch, USERS, lambda: elsewhere(config, lambda users: users.revoke("ann")))
    with pytest.raises(SafelightError, match="changed by another operator"):
        do(config, lambda users: users.give("ann", ANOTHERS))
    assert whose(config, "slt_mine") is whose(config, "slt_anothers") is None


def test_a_token_that_comes_between_is_revoked_as_well(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    enrol(config, "ann", MINE)
    before_creating(monkeypatch, USERS, lambda: elsewhere(config, lambda users: users.give("ann", ANOTHERS)))
    assert do(config, lambda users: users.revoke("ann"))
    assert whose(config, "slt_mine") is whose(config, "slt_anothers") is None


def test_of_two_tokens_that_meet_one_is_given_and_the_other_told(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(config, "ann", MINE)
    before_creating(monkeypatch, USERS, lambda: elsewhere(config, lambda users: users.give("ann", ANOTHERS)))
    with pytest.raises(SafelightError, match="changed by another operator"):
        do(config, lambda users: users.give("ann", THIRD))
    assert [whose(config, f"slt_{each}") for each in ("mine", "anothers", "third")] == [None, "ann", None]


def contend(config: Config, number: int, rounds: int, barrier: Any) -> list[str]:
    """One of many processes that want the same names at the same moments; how each attempt ended."""

    async def go() -> list[str]:
        results = []
        async with admin.opened(config) as users:
            for each in range(rounds):
                barrier.wait(GENEROUS)
                try:
                    results.append(str(await users.enrol(f"ann{each}", fingerprint(f"slt_{number}_{each}"))))
                except Refusal as refusal:
                    results.append(refusal.problem.name)
        return results

    return asyncio.run(go())


def test_of_many_processes_one_gets_the_name(config: Config) -> None:
    processes, rounds = 4, 12
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        barrier = manager.Barrier(processes)
        ended = [pool.submit(contend, config, number, rounds, barrier) for number in range(processes)]
        results = [each.result() for each in ended]
    for each in range(rounds):
        winners = [number for number in range(processes) if results[number][each] == "True"]
        assert len(winners) == 1
        assert sorted({results[number][each] for number in range(processes)}) == ["NAME_TAKEN", "True"]
        known = [number for number in range(processes) if whose(config, f"slt_{number}_{each}")]
        assert known == winners


def test_whatever_meets_the_outcome_is_one_of_theirs(config: Config) -> None:
    """Enrolments, other tokens and a revocation of one name, all at once, each with a store of its own."""

    async def attempt(work: Callable[[Users], Awaitable[bool]]) -> str:
        try:
            async with admin.opened(config) as users:
                return str(await work(users))
        except Refusal as refusal:
            return refusal.problem.name
        except SafelightError as error:
            return str(error)

    async def meet(name: str) -> tuple[list[str], list[str]]:
        tokens = [f"slt_{name}_{each}" for each in range(6)]
        done = await asyncio.gather(
            *(attempt(partial(Users.enrol, name=name, fingerprint=fingerprint(token))) for token in tokens[:3]),
            *(attempt(partial(Users.give, name=name, fingerprint=fingerprint(token))) for token in tokens[3:]),
            attempt(lambda users: users.revoke(name)),
        )
        working = []
        async with admin.opened(config) as users:
            for token in tokens:
                try:
                    assert await of_token(users, token) == name
                    working.append(token)
                except Refusal:
                    pass
            [state] = [type(each).__name__ for each in await users.all() if each.user == name]
        assert (state == "User") == bool(working)
        return done, [token for token, end in zip(tokens, done, strict=False) if end == "True" and token in working]

    for number in range(15):
        done, kept = asyncio.run(meet(f"ann{number}"))
        enrolled, given, revoked = done[:3], done[3:6], done[6]
        assert enrolled.count("True") <= 1
        assert enrolled.count("True") == 1 or "True" in given or revoked == "True" or "USER_REVOKED" in enrolled
        assert len(kept) == 1 or revoked == "True", done


# -- what a node remembers --


class Counting(DirectoryStore):
    """A store that counts how often it is read, and can be away."""

    reads = 0
    away = False

    async def get(self, key: str) -> bytes:
        self.reads += 1
        if self.away:
            raise StoreError("the store is away")
        return await super().get(key)


def remembering(config: Config, work: Callable[[Users, Counting, list[float]], Awaitable[None]]) -> None:
    """`work` gets a node's users, the store below them, and the node's clock."""

    async def go() -> None:
        async with admin.opened(config) as operator:
            vault = operator._vault()
            assert isinstance(vault.store, DirectoryStore)
            store, clock = Counting(vault.store._files.root.path), [0.0]
            mine = Vault(store, vault.keyring)
            await work(Users(lambda: mine, clock=lambda: clock[0]), store, clock)

    asyncio.run(go())


def test_a_user_at_work_is_looked_up_once_in_a_while(config: Config) -> None:
    enrol(config, "ann", MINE)

    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        assert await asyncio.gather(*(of_token(users, "slt_mine") for _ in range(100))) == ["ann"] * 100
        assert store.reads == 3  # the token, the user's record, and that there is no later one
        clock[0] += FRESH / 2
        await of_token(users, "slt_mine")
        assert store.reads == 3
        clock[0] += FRESH
        await asyncio.gather(*(of_token(users, "slt_mine") for _ in range(100)))
        assert store.reads == 4

    remembering(config, work)


def test_a_revocation_is_noticed_in_time_and_a_new_token_at_once(config: Config) -> None:
    enrol(config, "ann", MINE)

    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        assert await of_token(users, "slt_mine") == "ann"
        await elsewhere(config, lambda others: others.give("ann", ANOTHERS))
        assert await of_token(users, "slt_anothers") == "ann"
        clock[0] += FRESH
        with pytest.raises(Refusal):
            await of_token(users, "slt_mine")
        await elsewhere(config, lambda others: others.revoke("ann"))
        clock[0] += FRESH
        with pytest.raises(Refusal):
            await of_token(users, "slt_anothers")

    remembering(config, work)


def test_where_nobody_can_say_whether_a_user_was_revoked_the_token_is_not_believed(config: Config) -> None:
    enrol(config, "ann", MINE)

    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        assert await of_token(users, "slt_mine") == "ann"
        store.away = True
        clock[0] += FRESH
        with pytest.raises(StoreError):
            await of_token(users, "slt_mine")
        store.away = False
        assert await of_token(users, "slt_mine") == "ann"

    remembering(config, work)


def test_a_token_that_is_nobodys_is_looked_up_once_in_a_while(config: Config) -> None:
    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        for _ in range(100):
            with pytest.raises(Refusal, match="belongs to no user"):
                await of_token(users, "slt_mine")
        assert store.reads == 1
        await elsewhere(config, lambda others: others.enrol("ann", MINE))
        with pytest.raises(Refusal, match="belongs to no user"):  # for a moment
            await of_token(users, "slt_mine")
        clock[0] += FRESH
        assert await of_token(users, "slt_mine") == "ann"

    remembering(config, work)


def test_a_token_is_a_users_as_soon_as_it_is_enrolled_here(config: Config) -> None:
    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        with pytest.raises(Refusal):
            await of_token(users, "slt_mine")
        looking = asyncio.create_task(users._find(MINE))  # it has begun, and ends after the enrolment
        assert await users.enrol("ann", MINE)
        await looking
        assert await of_token(users, "slt_mine") == "ann"

    remembering(config, work)


def test_what_is_remembered_of_tokens_that_are_nobodys_is_bounded(config: Config) -> None:
    async def work(users: Users, store: Counting, clock: list[float]) -> None:
        for number in range(MISSED + 100):
            with pytest.raises(Refusal):
                await of_token(users, f"slt_{number}")
        assert len(users._missed) == MISSED

    remembering(config, work)


# -- one vault, several machines; a vault that comes later --


def machine(directory: Path, like: Config, **settings: Any) -> Config:
    """Another machine of the same cluster: the keyring was copied to it, nothing else."""
    config = ephemeral_config(directory, **settings)
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "keyring.json").write_bytes((like.data_dir / "keyring.json").read_bytes())
    (config.data_dir / "keyring.json").chmod(0o600)
    return config


def test_a_shared_vault_has_users_for_every_machine(tmp_path: Path) -> None:
    shared = (tmp_path / "shared").as_uri()
    one = made(tmp_path / "one", vault=shared)
    two = machine(tmp_path / "two", one, vault=shared)
    assert enrol(one, "ann", MINE)
    assert whose(two, "slt_mine") == "ann"
    do(two, lambda users: users.revoke("ann"))
    assert whose(one, "slt_mine") is None


def test_without_a_shared_vault_every_machine_has_its_own_users(tmp_path: Path, config: Config) -> None:
    other = machine(tmp_path / "other", config)
    assert enrol(config, "ann", MINE)
    assert whose(other, "slt_mine") is None
    assert enrol(other, "ann", MINE)


def before(config: Config, work: Callable[[Users], Awaitable[_T]]) -> _T:
    """As `do`, on a machine that runs Safelight 0.1 without a vault: its users are in the data directory."""

    async def go() -> _T:
        keyring = find_keyring(config.data_dir).read()
        DirectoryStore.make(config.data_dir / "users")
        vault = Vault(DirectoryStore(config.data_dir / "users"), lambda: keyring)
        return await work(Users(lambda: vault))

    return asyncio.run(go())


def test_users_of_the_time_before_the_vault_come_with_it(config: Config) -> None:
    for name, mine in (("ann", MINE), ("ben", ANOTHERS), ("carl", THIRD)):
        before(config, partial(Users.enrol, name=name, fingerprint=mine))
    before(config, lambda users: users.give("ann", fingerprint("slt_new")))
    before(config, lambda users: users.revoke("ben"))
    found = [whose(config, f"slt_{each}") for each in ("new", "mine", "anothers", "third")]
    assert found == ["ann", None, None, "carl"]
    assert problem(lambda: enrol(config, "ben", fingerprint("slt_x"))) is Problem.USER_REVOKED


def test_where_a_vault_knows_a_user_already_it_knows_better(tmp_path: Path) -> None:
    shared = (tmp_path / "shared").as_uri()
    one = made(tmp_path / "one", vault=shared)
    two = machine(tmp_path / "two", one, vault=shared)
    enrol(one, "ann", MINE)
    before(two, lambda users: users.enrol("ann", ANOTHERS))
    before(two, lambda users: users.revoke("ann"))
    assert (whose(two, "slt_mine"), whose(two, "slt_anothers")) == ("ann", None)


# -- damage --


def test_a_damaged_record_is_its_users_trouble_and_nobody_elses(config: Config) -> None:
    enrol(config, "ann", MINE)
    [record] = config.data_dir.rglob("users/*.1")
    enrol(config, "ben", ANOTHERS)
    intact = record.read_bytes()
    record.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert whose(config, "slt_anothers") == "ben"
    with pytest.raises(DataError, match=record.name):
        whose(config, "slt_mine")


def test_a_token_that_was_made_to_name_another_user_is_not_believed(config: Config) -> None:
    enrol(config, "ann", MINE)
    [anns] = config.data_dir.rglob("tokens/*")
    enrol(config, "eve", ANOTHERS)
    [eves] = [path for path in config.data_dir.rglob("tokens/*") if path != anns]
    eves.write_bytes(anns.read_bytes())
    assert whose(config, "slt_anothers") is None
    eves.write_text("../../keyring.json")
    with pytest.raises(DataError, match=TOKENS + eves.name):
        whose(config, "slt_anothers")


# -- the operator's side --


def safelight(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "safelight", *arguments],
        env=environment(config),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )


def test_the_operator_is_told_what_came_of_it(config: Config) -> None:
    def said(work: Coroutine[Any, Any, Outcome]) -> Outcome:
        return asyncio.run(work)

    def refused(work: Coroutine[Any, Any, str]) -> str:
        with pytest.raises(SafelightError) as raised:
            asyncio.run(work)
        return str(raised.value)

    assert said(admin.listing(config)).split() == ["USER", "CREATED", "STATE"]
    assert said(admin.add(config, "ann", MINE)) == "ann may use this cluster now."
    assert said(admin.add(config, "ann", MINE)) == "ann could use this cluster already."
    assert "safelight user token ann" in refused(admin.add(config, "ann", ANOTHERS))
    assert "has claimed the name of ann" in refused(admin.add(config, "ben", MINE))
    said(admin.add(config, "ben", ANOTHERS))
    said(admin.give(config, "ben", THIRD))
    assert "64 hex digits" in refused(admin.give(config, "ben", "slt_oops"))
    assert said(admin.revoke(config, "ann")) == "ann is revoked. The images stay."
    assert said(admin.revoke(config, "ann")) == "ann was revoked already."
    assert "safelight user token ann" in refused(admin.add(config, "ann", fingerprint("slt_new")))
    _, ann, ben = said(admin.listing(config)).splitlines()
    assert (ann.split()[0], ann.split()[3]) == ("ann", "revoked")
    assert (ben.split()[0], ben.split()[3]) == ("ben", "active")
    assert THIRD not in ann + ben
    listed = said(admin.listing(config)).document["users"]
    assert [(each["user"], each["state"], each["fingerprint"]) for each in listed] == [
        ("ann", "revoked", MINE),
        ("ben", "active", THIRD),
    ]


def test_a_user_is_not_revoked_by_a_program_that_was_not_told_to(config: Config) -> None:
    enrol(config, "ann", MINE)
    done = safelight(config, "user", "revoke", "ann")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert whose(config, "slt_mine") == "ann"


@pytest.mark.parametrize(("made", "command"), [(False, ("add", "ann", MINE)), (True, ("list",))], ids=["no", "empty"])
def test_where_there_is_no_cluster_there_are_no_users(tmp_path: Path, made: bool, command: tuple[str, ...]) -> None:
    config = ephemeral_config(tmp_path)
    if made:
        config.data_dir.mkdir()
    done = safelight(config, "user", *command)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert str(config.data_dir) in line
    assert "--data-dir" in line
    assert not (config.data_dir / "users").exists()


def test_users_of_an_unreleased_version_are_not_overlooked(config: Config) -> None:
    (config.data_dir / "users").mkdir()
    (config.data_dir / "users" / "ann.json").write_text("{}")
    done = safelight(config, "user", "add", "ann", ANOTHERS)
    assert done.returncode == 1
    assert "move it away" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make what belongs to somebody else")
def test_a_data_directory_of_somebody_elses_is_said(config: Config) -> None:
    with ordinary_account(), pytest.raises(DataError, match=str(config.data_dir)):
        enrol(config, "ann", MINE)
