"""Files with secrets are checked alike: keyring, its secret, TLS key and token; whose they are, what, and for whom."""

import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from safelight.client.transport.tokens import load, load_or_create
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.node.state.data_directory import create_cluster, find_keyring
from safelight.node.state.key_file import KeyFile, wrapper_of
from safelight.runtime.tls import server_tls
from tests.node.test_tls import papers

CLUSTER = "00" * 16
OTHER = 4242
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")


def keyring(directory: Path) -> tuple[Path, Callable[[], object]]:
    create_cluster(directory)
    return directory / "keyring.json", KeyFile(directory).read


def secret(directory: Path) -> tuple[Path, Callable[[], object]]:
    directory.mkdir(exist_ok=True)
    path = directory / "secret"
    path.touch(0o600)
    path.write_text("correct horse battery staple\n")
    return path, lambda: wrapper_of(Config(keyring_secret_file=path))


def tls_key(directory: Path) -> tuple[Path, Callable[[], object]]:
    directory.mkdir(exist_ok=True)
    files = papers(directory / "papers")
    return files.key, lambda: server_tls(files.certificate, files.key)


def token(directory: Path) -> tuple[Path, Callable[[], object]]:
    load_or_create(directory, CLUSTER, "alice")
    return directory / "tokens" / CLUSTER / "alice", lambda: load(directory, CLUSTER, "alice")


KINDS = pytest.mark.parametrize("kind", [keyring, secret, tls_key, token], ids=lambda kind: kind.__name__)


def refusal(use: Callable[[], object]) -> str:
    with pytest.raises(SafelightError) as refused:
        use()
    line = str(refused.value)
    assert "\n" not in line
    return line


@KINDS
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o660, 0o777])
def test_what_others_can_use_is_refused_with_the_command_that_helps(
    tmp_path: Path, kind: Callable[[Path], tuple[Path, Callable[[], object]]], mode: int
) -> None:
    path, use = kind(tmp_path / "it's")
    assert use()
    path.chmod(mode)
    command = refusal(use).partition("run: ")[2]
    assert command == f"chmod 600 {shlex.quote(str(path))}"
    subprocess.run(["sh", "-c", command], check=True)
    assert use()


@AS_ROOT
@KINDS
def test_what_belongs_to_another_account_is_refused_also_behind_a_link(
    tmp_path: Path, kind: Callable[[Path], tuple[Path, Callable[[], object]]]
) -> None:
    path, use = kind(tmp_path)
    os.chown(path, OTHER, OTHER)
    assert "belongs to another account" in refusal(use)
    os.chown(path, 0, 0)
    assert use()
    path.rename(real := path.with_name("real"))
    path.symlink_to(real)
    assert use()
    os.chown(path, OTHER, OTHER, follow_symlinks=False)
    assert "belongs to another account" in refusal(use)


@KINDS
@pytest.mark.parametrize("thing", ["directory", "pipe", "socket", "nothing"])
def test_what_is_no_file_is_refused_without_waiting_for_it(
    tmp_path: Path,
    kind: Callable[[Path], tuple[Path, Callable[[], object]]],
    thing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, use = kind(tmp_path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as it:
        match thing:
            case "directory":
                path.mkdir(0o700)
            case "pipe":
                os.mkfifo(path, 0o600)
            case "socket":
                monkeypatch.chdir(path.parent)  # such an address has some hundred bytes at most
                it.bind(path.name)
        if thing == "nothing" and kind is token:
            assert use() is None
        else:
            assert str(path) in refusal(use)


@AS_ROOT
@pytest.mark.parametrize(("mode", "usable"), [(0o440, True), (0o640, True), (0o644, False), (0o660, False)])
def test_a_file_of_roots_may_be_there_for_the_group_of_a_service(mode: int, usable: bool) -> None:
    groups = os.getgroups()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path, use = secret(Path(directory))
        os.chown(path, 0, OTHER)
        path.chmod(mode)
        os.setgroups([OTHER])
        os.seteuid(OTHER)
        try:
            if usable:
                assert use()
            else:
                assert "chmod 600" in refusal(use)
        finally:
            os.seteuid(0)
            os.setgroups(groups)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_data_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "my data"
    create_cluster(directory)
    directory.chmod(mode)
    command = refusal(lambda: find_keyring(directory)).partition("run: ")[2]
    assert refusal(lambda: create_cluster(directory)).endswith(command)
    subprocess.run(["sh", "-c", command], check=True)
    assert find_keyring(directory).read()


@AS_ROOT
def test_a_data_directory_of_another_account_is_refused(tmp_path: Path) -> None:
    create_cluster(tmp_path / "data")
    os.chown(tmp_path / "data", OTHER, OTHER)
    assert "belongs to another account" in refusal(lambda: find_keyring(tmp_path / "data"))
