"""After a day's work, what anybody can see holds no secret: the log, the process list, the answers, the files."""

from __future__ import annotations

import base64
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight.client.session import Session
from safelight.encryption.keys import Keyring
from safelight.encryption.sealed import read_header
from safelight.local.cluster import environment
from safelight.node.state.data_directory import find_keyring
from tests.node.raw_http import ask, enrolled, image
from tests.running import Running, as_user


def spellings(secret: bytes) -> Iterator[str]:
    """A secret as it might be written."""
    yield secret.hex()
    yield base64.b64encode(secret).decode().rstrip("=")
    yield base64.urlsafe_b64encode(secret).decode().rstrip("=")
    yield repr(secret)


def keys(keyring: Keyring, user: str) -> list[bytes]:
    key = keyring.current
    return [key.secret, keyring.node_secret, key.user_key(user), keyring.derive("tickets"), keyring.derive("peers")]


def data_key(sealed_file: Path, keyring: Keyring) -> bytes:
    header = read_header(sealed_file.read_bytes())
    user_key = AESGCM(keyring.current.user_key(header.user))
    return user_key.decrypt(header.nonce, header.wrapped_key, header.fixed)


def test_nobody_sees_a_secret(cluster: Running, photograph: Path, tmp_path: Path) -> None:
    def safelight(*arguments: str) -> None:
        command = [sys.executable, "-m", "safelight", *arguments, "--user", "alice"]
        subprocess.run(command, env=environment(cluster.config), cwd=tmp_path, check=True, capture_output=True)

    safelight("upload", str(photograph))
    safelight("decrypt", *map(str, (tmp_path / "images").iterdir()))
    header = enrolled(cluster.config, "bob")
    secrets = {header.split()[-1]}
    answers: list[bytes] = []
    for address in cluster.config.addresses.values():
        for start, body in [("PUT /v1/images/a.png", image(1000)), ("PUT /v1/opened/a.png", image(1000))]:
            answer = ask(address, start, header, body=body)
            if location := answer.headers.get("location"):
                secrets.add(location.partition("ticket=")[2])
                target = location.split("/", 3)[3]
                leader = cluster.config.addresses[3]
                used, used_up = (ask(leader, f"PUT /{target}", body=body) for _ in range(2))
                assert used_up.status == 403
                answers += [used_up.body] if used.status == 201 else [used.body, used_up.body]
            elif answer.status != 201:
                answers.append(answer.body)
        answers += [ask(address, "PUT /v1/images/a.png", header + bad, body=b"hello").body for bad in "\x01éx"]
        offer = msgspec.json.encode({"user": "alice", "upload": "0" * 32, "name": "a", "size": 5})
        answers.append(ask(address, "POST /v1/offers", header, body=offer).body)
        answers.append(ask(address, "GET /v1/status").body)
    [token] = [path.read_text().strip() for path in (cluster.config.client_dir / "tokens").rglob("alice")]
    keyring = find_keyring(cluster.config.data_dir).read()
    secrets |= {token, *(each for user in ("alice", "bob") for key in keys(keyring, user) for each in spellings(key))}
    secrets |= {each for path in (tmp_path / "images").iterdir() for each in spellings(data_key(path, keyring))}
    cluster.cluster.stop()
    visible = {
        "the nodes' output": "\n".join(each for node in cluster.config.addresses for each in cluster.said(node)),
        "the answers": "\n".join(each.decode("latin-1") for each in answers),
        "the users' files": "\n".join(
            path.read_text() for path in (cluster.config.data_dir / "users").rglob("*") if path.is_file()
        ),
    }
    assert "Encrypted an image for bob" in visible["the nodes' output"]
    assert [(where, each[:9]) for where, text in visible.items() for each in secrets if each in text] == []


def test_the_process_list_shows_which_node_is_which_and_no_secret(shared_cluster: Running) -> None:
    for node in shared_cluster.config.addresses:
        arguments = Path(f"/proc/{shared_cluster.cluster.pid(node)}/cmdline").read_bytes().decode().split("\0")
        assert arguments[arguments.index("safelight") + 1 :] == ["server", str(node), "--until-eof", ""]


def test_files_with_secrets_are_their_owners_alone(shared_cluster: Running) -> None:
    as_user(shared_cluster.config, "alice", Session.fingerprint)
    config = shared_cluster.config
    files = [path for top in (config.data_dir, config.client_dir) for path in top.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
