import base64
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from safelight.client.transport.tokens import TokenError, load, load_or_create
from safelight.names import InvalidName
from safelight.wire.messages import fingerprint
from tests.client.test_atomic_output import together

CLUSTER = "00ff" * 8


def token_file(directory: Path) -> Path:
    return directory / "tokens" / CLUSTER / "alice"


def test_a_token_is_made_once_and_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "share" / "safelight"
    assert load(directory, CLUSTER, "alice") is None
    token, created = load_or_create(directory, CLUSTER, "alice")
    assert created
    assert load_or_create(directory, CLUSTER, "alice") == (token, False)
    assert load(directory, CLUSTER, "alice") == token
    assert os.listdir(token_file(directory).parent) == ["alice"]


def test_every_user_and_every_cluster_has_a_token_of_its_own(tmp_path: Path) -> None:
    tokens = {load_or_create(tmp_path, cluster, user)[0] for cluster in (CLUSTER, "abcd") for user in ("alice", "bob")}
    assert len(tokens) == 4


def test_a_token_is_32_bytes_that_a_secret_scanner_can_know(tmp_path: Path) -> None:
    token, _ = load_or_create(tmp_path, CLUSTER, "alice")
    assert token.startswith("slt_")
    assert len(base64.urlsafe_b64decode(token.removeprefix("slt_") + "=")) == 32


def test_nobody_else_can_read_a_token_or_list_the_users(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create(tmp_path / "client", CLUSTER, "alice")
    finally:
        os.umask(before)
    path = token_file(tmp_path / "client")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in list(path.parents)[:3]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_token_goes_into_a_header_and_not_into_a_log(tmp_path: Path) -> None:
    token, _ = load_or_create(tmp_path, CLUSTER, "alice")
    secret = token_file(tmp_path).read_text().strip()
    assert f"Bearer {token}" == f"Bearer {secret}"
    assert secret not in repr({"token": token})


def test_the_fingerprint_is_the_sha256_of_what_is_sent(tmp_path: Path) -> None:
    token, _ = load_or_create(tmp_path, CLUSTER, "alice")
    assert fingerprint(token) == hashlib.sha256(token_file(tmp_path).read_bytes().strip()).hexdigest()


def test_clients_that_begin_at_once_end_with_the_same_token(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from safelight.client.transport.tokens import load_or_create
print("ready", flush=True)
sys.stdin.readline()
for n in range(50):
    token, created = load_or_create(Path(sys.argv[1]), sys.argv[2], f"user{n}")
    print(token + "", created)
"""
    for of_one_user in zip(*together(script, tmp_path, CLUSTER), strict=True):
        tokens, created = zip(*(answer.split() for answer in of_one_user), strict=True)
        assert len(set(tokens)) == 1
        assert created.count("True") == 1
    assert len(os.listdir(tmp_path / "tokens" / CLUSTER)) == 50


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_token_that_others_can_reach_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "my files"
    load_or_create(directory, CLUSTER, "alice")
    token_file(directory).chmod(mode)
    with pytest.raises(TokenError) as refused:
        load(directory, CLUSTER, "alice")
    command = str(refused.value).partition("run: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert load(directory, CLUSTER, "alice")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"slt_short\n",
        b"ghp_" + b"x" * 43,
        b"slt_" + b"x" * 44,
        b"slt_" + b"x" * 43 + b"\n\n",
        b"\xff" * 999,
    ],
)
def test_a_damaged_token_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    load_or_create(tmp_path, CLUSTER, "alice")
    token_file(tmp_path).write_bytes(content)
    with pytest.raises(TokenError, match="does not hold a token") as refused:
        load_or_create(tmp_path, CLUSTER, "alice")
    assert "slt_" not in str(refused.value)
    assert "xxx" not in str(refused.value)
    assert token_file(tmp_path).read_bytes() == content


def test_a_token_may_be_kept_elsewhere_behind_a_symlink(tmp_path: Path) -> None:
    token, _ = load_or_create(tmp_path, CLUSTER, "alice")
    elsewhere = token_file(tmp_path).rename(tmp_path / "on a stick")
    token_file(tmp_path).symlink_to(elsewhere)
    assert load(tmp_path, CLUSTER, "alice") == token


def test_a_dangling_symlink_is_an_error_and_not_a_new_token(tmp_path: Path) -> None:
    load_or_create(tmp_path, CLUSTER, "alice")
    token_file(tmp_path).unlink()
    token_file(tmp_path).symlink_to(tmp_path / "stick that is not plugged in")
    with pytest.raises(TokenError, match="leads nowhere"):
        load_or_create(tmp_path, CLUSTER, "alice")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_accounts_token_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, CLUSTER, "alice")
    os.chown(token_file(tmp_path), 65534, -1)
    with pytest.raises(TokenError, match="another account"):
        load(tmp_path, CLUSTER, "alice")


def test_a_pipe_in_a_tokens_place_is_refused_without_waiting(tmp_path: Path) -> None:
    load_or_create(tmp_path, CLUSTER, "alice")
    token_file(tmp_path).unlink()
    os.mkfifo(token_file(tmp_path), 0o600)
    with pytest.raises(TokenError, match="not a regular file"):
        load(tmp_path, CLUSTER, "alice")


@pytest.mark.parametrize("cluster_id", ["", "..", "../../etc", "ABCD", "12 34", "0" * 65, "ab\n"])
def test_a_clusters_id_that_is_not_hex_never_becomes_a_path(tmp_path: Path, cluster_id: str) -> None:
    with pytest.raises(TokenError, match="not a cluster's id"):
        load_or_create(tmp_path, cluster_id, "alice")
    assert os.listdir(tmp_path) == []


def test_a_user_name_that_breaks_the_rules_never_becomes_a_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        load_or_create(tmp_path, CLUSTER, "../alice")
    assert os.listdir(tmp_path) == []


def test_a_client_directory_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "client").touch()
    with pytest.raises(TokenError, match="not a directory"):
        load_or_create(tmp_path / "client", CLUSTER, "alice")
