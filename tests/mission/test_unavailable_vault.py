"""A vault that is unavailable for seconds costs a client seconds; one that stays so ends a batch early."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safelight.client.requests.feedback import NullFeedback
from safelight.client.session import Session
from tests.cli.commandline import safelight, started
from tests.mission.support import contents, enrolled, seal
from tests.running import SETTLED, Running, running
from tests.vault.s3 import S3, s3_server

pytestmark = pytest.mark.slow

ALICE = ("--user", "alice")
IMAGES = 60


def images(directory: Path, photograph: Path) -> Path:
    directory.mkdir()
    beginning = photograph.read_bytes()[:2000]
    for number in range(IMAGES):
        (directory / f"{number:02}.png").write_bytes(beginning + b"%d" % number)
    return directory


def move_away(vault: Path) -> None:
    vault.rename(vault.with_name("elsewhere"))


def move_back(vault: Path) -> None:
    """Also where a node has made a directory in its place."""
    if vault.exists():
        vault.rename(vault.with_name("made by a node"))
    vault.with_name("elsewhere").rename(vault)


@contextmanager
def later(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, do)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def listed(cluster: Running, cwd: Path) -> list[str]:
    done = safelight("ls", *ALICE, "--json", config=cluster.config, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(line)["original"] for line in done.stdout.splitlines())


def names(source: Path) -> list[str]:
    return sorted(os.listdir(source))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "cluster", heartbeat=SETTLED) as it:
        enrolled(it.config, "alice")
        yield it


def test_a_bulk_upload_waits_for_a_directory_that_is_away_for_seconds(
    cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    source, vault = images(tmp_path / "source", photograph), cluster.config.data_dir / "vault"
    with started("upload", "source", *ALICE, config=cluster.config, cwd=tmp_path) as upload:
        upload.wait_for("05.png →")
        move_away(vault)
        with later(2.0, lambda: move_back(vault)):
            assert upload.end() == 0, upload.lines
    assert upload.lines[-1] == f"{IMAGES} done and kept in the vault, 0 failed"
    assert listed(cluster, tmp_path) == names(source)


def test_all_that_a_user_can_ask_for_waits_for_it(cluster: Running, tmp_path: Path, photograph: Path) -> None:
    config, vault = cluster.config, cluster.config.data_dir / "vault"
    saved = [seal(config, photograph, tmp_path / "images") for _ in range(2)]
    one, other = (each.path.name for each in saved)

    async def upload(session: Session) -> object:
        return await session.seal(photograph, to=tmp_path / "more", feedback=NullFeedback())

    async def ls(session: Session) -> object:
        return [page async for page in session.images.all()]

    async def get(session: Session) -> object:
        image = await session.images.find(one)
        return await session.fetch(image, to=tmp_path / "got", progress=lambda done, total: None)

    async def rm(session: Session) -> object:
        return await session.remove(other, feedback=NullFeedback())

    async def decrypt(session: Session) -> object:
        return await session.open(saved[0].path, to=tmp_path / "opened", feedback=NullFeedback())

    async def work(user: str, do: Callable[[Session], Awaitable[object]]) -> None:
        async with Session(config, user) as session:
            await do(session)

    async def go() -> None:
        users = {"alice": [upload, ls, get, rm, decrypt], "bob": [upload]}  # bob enrols
        await asyncio.gather(*(work(user, do) for user, each in users.items() for do in each))

    move_away(vault)
    with later(2.0, lambda: move_back(vault)):
        asyncio.run(go())
    assert contents(tmp_path / "got") == [photograph.name]
    names = {path.name for path in (tmp_path / "more").iterdir()}
    assert len(names) == 2
    left = safelight("ls", *ALICE, config=config, cwd=tmp_path).stdout
    assert one in left
    assert other not in left


def test_a_vault_that_stays_away_ends_a_batch_and_a_second_run_finishes_it(tmp_path: Path, photograph: Path) -> None:
    source = images(tmp_path / "source", photograph)
    with running(tmp_path / "cluster", heartbeat=SETTLED, timeout=1.5) as cluster:
        enrolled(cluster.config, "alice")
        vault = cluster.config.data_dir / "vault"
        with started("upload", "source", *ALICE, config=cluster.config, cwd=tmp_path) as upload:
            upload.wait_for("05.png →")
            move_away(vault)
            assert upload.end() == 1
        failed = [line for line in upload.lines if line.startswith("safelight: ")]
        assert 8 <= len(failed) <= 16
        assert all("the vault could not be used for" in line for line in failed)
        assert "failed; the rest was not tried: the vault could not be used for" in upload.lines[-1]
        several = safelight("decrypt", *tmp_path.glob("images/*"), *ALICE, config=cluster.config, cwd=tmp_path)
        assert several.returncode == 1
        assert several.stdout.splitlines()[-1].startswith("0 done, 1 failed; the rest was not tried: the vault")
        move_back(vault)
        again = safelight("upload", "source", *ALICE, config=cluster.config, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert listed(cluster, tmp_path) == names(source)


def test_a_bulk_upload_waits_for_a_bucket_that_fails_for_seconds(
    tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = images(tmp_path / "source", photograph)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        vault = f"s3://images/{secrets.token_hex(4)}"
        with running(tmp_path / "cluster", heartbeat=SETTLED, vault=vault) as cluster:
            enrolled(cluster.config, "alice")
            with started("upload", "source", *ALICE, config=cluster.config, cwd=tmp_path) as upload:
                upload.wait_for("05.png →")
                fail(s3)
                with later(10.0, s3.heal):
                    assert upload.end() == 0, upload.lines
            assert upload.lines[-1] == f"{IMAGES} done and kept in the vault, 0 failed"
            assert listed(cluster, tmp_path) == names(source)


def fail(s3: S3) -> None:
    for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        s3.fault(503, method)
