"""A vault that is not there is not an empty vault: while it is away nothing is acknowledged, missing, or made."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commandline import safelight
from tests.mission.support import MEBIBYTE
from tests.mounts import seen_at
from tests.node.raw_http import image
from tests.node.test_vault_http import OTHER, UPLOAD, ask, names
from tests.running import SETTLED, Running, eventually, running


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Running]:
    """A node whose vault is at `tmp_path / "vault"`, with an image in it."""
    with running(tmp_path / "cluster", 1, vault=(tmp_path / "vault").as_uri(), heartbeat=SETTLED) as it:
        assert ask(it.config, "PUT", "/v1/images/a.png", image(100)).status == 201
        yield it


def is_away(it: Running) -> None:
    """Nothing is kept, and nothing is said to be missing; `status` says so."""
    for method, path, size in (
        ("PUT", "/v1/images/new.png", 100),
        ("PUT", "/v1/images/large.png", 3 * MEBIBYTE),
        ("GET", "/v1/images", 0),
        ("GET", "/v1/images/a.png", 0),
        ("GET", "/v1/images/never.png", 0),
        ("DELETE", "/v1/images/a.png", 0),
        ("DELETE", "/v1/images/never.png", 0),
    ):
        answer = ask(it.config, method, path, image(size))
        assert (answer.status, answer.problem) == (503, "vault-away"), (method, path)
        assert answer.headers["retry-after"]


def test_an_unmounted_vault_gets_nothing_and_nothing_is_made_underneath(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with (
        seen_at(tmp_path / "disk", tmp_path / "mounted") as mount,
        running(tmp_path / "cluster", 1, vault=(tmp_path / "mounted").as_uri(), heartbeat=SETTLED) as it,
    ):
        acknowledged: list[str] = []
        over = threading.Event()

        def upload() -> None:
            while not over.is_set():
                name, content = f"{len(acknowledged)}.png", image(100)
                while ask(it.config, "PUT", f"/v1/images/{name}", content, Safelight_Upload=UPLOAD).status != 201:
                    pass  # it may be kept all the same, if it was under way: then the next attempt finds itself
                acknowledged.append(name)

        assert ask(it.config, "PUT", "/v1/images/a.png", image(100)).status == 201
        uploading = threading.Thread(target=upload, daemon=True)
        uploading.start()
        for _ in range(2):
            before = len(acknowledged)
            eventually(lambda before=before: len(acknowledged) > before + 5, "uploads go on")  # type: ignore[misc]
            mount(False)
            is_away(it)
            assert list((tmp_path / "mounted").iterdir()) == []
            mount(True)
        over.set()
        uploading.join()
        assert {*names(it.config)} == {"a.png", *acknowledged}
        assert [ask(it.config, "GET", f"/v1/images/{name}").status for name in acknowledged] == [200] * len(
            acknowledged
        )
        assert safelight("verify", config=it.config, cwd=tmp_path).returncode == 0


def test_a_vault_whose_contents_are_gone_gets_nothing_until_they_are_back(one: Running, tmp_path: Path) -> None:
    vault, copy = tmp_path / "vault", tmp_path / "copy"
    shutil.copytree(vault, copy)
    for each in vault.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    is_away(one)
    assert list(vault.iterdir()) == []
    one.wait_for_line(1, "no object 'vault'")
    for command in ("verify", "rewrap"):
        done = safelight(command, config=one.config, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "no object 'vault'" in done.stderr
    assert list(vault.iterdir()) == []
    shutil.copytree(copy, vault, dirs_exist_ok=True)
    assert names(one.config) == ["a.png"]
    assert ask(one.config, "PUT", "/v1/images/b.png", image(100)).status == 201


def test_a_trouble_of_the_vault_is_one_line_however_many_requests_fail(one: Running, tmp_path: Path) -> None:
    vault, before = tmp_path / "vault", len(one.said(1))
    vault.rename(tmp_path / "aside")
    for _ in range(5):
        is_away(one)
    (tmp_path / "aside").rename(vault)
    eventually(lambda: ask(one.config, "PUT", "/v1/images/b.png", image(100)).status in (201, 409), "it is back")
    one.wait_for_line(1, "the vault can be used again")
    said = [line for line in one.said(1)[before:] if "the vault" in line and "election" not in line]
    assert len(said) == 2, said
    assert "is missing" in said[0]
    vault.rename(tmp_path / "aside")
    is_away(one)
    assert len([line for line in one.said(1)[before:] if "is missing" in line and "election" not in line]) == 2
    (tmp_path / "aside").rename(vault)


def test_another_vault_in_its_place_gets_nothing(one: Running, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    owner = (vault / "vault").read_bytes()
    (vault / "vault").write_bytes(owner.replace(b'"cluster":"', b'"cluster":"0')[:-2] + b'"}')
    is_away(one)
    (vault / "vault").write_bytes(owner)
    assert ask(one.config, "GET", "/v1/images/a.png").status == 200


def test_what_was_remembered_of_a_vault_is_read_again_when_another_state_of_it_is_there(
    one: Running, tmp_path: Path
) -> None:
    config, vault, copy = one.config, tmp_path / "vault", tmp_path / "copy"
    shutil.copytree(vault, copy)
    content = image(100)
    assert ask(config, "PUT", "/v1/images/b.png", content, Safelight_Upload=UPLOAD).status == 201
    assert ask(config, "DELETE", "/v1/images/a.png").status == 204
    vault.rename(tmp_path / "newer")
    is_away(one)
    copy.rename(vault)
    one.wait_for_line(1, f"WARNING: another directory is at {vault} than before")
    assert names(config) == ["a.png"]
    assert ask(config, "GET", "/v1/images/a.png").status == 200
    assert ask(config, "GET", "/v1/images/b.png").status == 404
    assert ask(config, "PUT", "/v1/images/b.png", content, Safelight_Upload=OTHER).status == 201
    assert safelight("verify", config=config, cwd=tmp_path).returncode == 0


def test_verify_and_rewrap_begin_no_vault(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        config = it.config
    vault, marker = config.data_dir / "vault", config.data_dir / "vault.json"
    shutil.rmtree(vault)
    for command, there in (("verify", False), ("rewrap", True), ("verify", True)):
        if there:
            vault.mkdir(exist_ok=True)
        done = safelight(command, config=config, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "mount it, or restore it" in done.stderr
        assert (list(vault.iterdir()) == []) if there else not vault.exists()
        marker.unlink(missing_ok=True)
    assert not marker.exists()
