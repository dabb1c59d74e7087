"""A node that cannot serve says why in one line, says what to do, and ends with exit status 1."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safelight.cli.admin import users as admin
from safelight.config import Config
from safelight.local.cluster import environment, ephemeral_config
from safelight.node.state.data_directory import create_cluster
from safelight.wire.messages import Problem
from tests.node.raw_http import ask, refused, token
from tests.node.test_tls import papers
from tests.running import GENEROUS, running


def refusal(config: Config) -> str:
    """Start a node that cannot serve; its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "safelight", "server", "1", "--until-eof"],
        env=environment(config),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("safelight: ")


@pytest.fixture
def made(tmp_path: Path) -> Config:
    """The configuration of a cluster that has its keyring."""
    config = ephemeral_config(tmp_path, 1)
    create_cluster(config.data_dir)
    return config


def with_(config: Config, **settings: Any) -> Config:
    return Config(**{**{key: getattr(config, key) for key in config.__struct_fields__}, **settings})


def test_a_port_in_use_is_named_with_a_way_out(made: Config) -> None:
    address = made.addresses[1]
    with socket.create_server((address.host, address.port)):
        line = refusal(made)
    assert str(address.port) in line
    assert "--base-port" in line


@pytest.mark.parametrize("node", [0, 2, -1, 10**30])
def test_an_unknown_node_is_refused_with_those_there_are(made: Config, node: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safelight", "server", "--until-eof", "--", str(node)],
        env=environment(made),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 1
    assert f"no node {node}" in done.stderr
    assert "nodes 1" in done.stderr


def test_an_address_that_is_not_this_machines_is_refused(made: Config) -> None:
    assert "192.0.2.77" in refusal(with_(made, servers=("192.0.2.77:8001",), insecure_http=True))


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "no JSON": lambda text: b"my keys",
    "no UTF-8": lambda text: b'{"version": 1, "cluster": "\xff"}',
    "cut": lambda text: text[: len(text) // 2],
    "another version": lambda text: text.replace(b'"version": 1', b'"version": 7'),
    "a flipped bit in a key": lambda text: text.replace(b'"secret": "', b'"secret": "AAAA')[:-1] + b"\n",
    "deeply nested": lambda text: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_keyring_is_refused_and_left_alone(made: Config, damage: Callable[[bytes], bytes]) -> None:
    keyring = made.data_dir / "keyring.json"
    damaged = damage(keyring.read_bytes())
    keyring.write_bytes(damaged)
    line = refusal(made)
    assert str(keyring) in line
    assert keyring.read_bytes() == damaged


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
def test_a_keyring_that_others_can_read_is_refused(made: Config, mode: int) -> None:
    keyring = made.data_dir / "keyring.json"
    keyring.chmod(mode)
    assert f"chmod 600 {keyring}" in refusal(made)


def test_a_keyring_that_was_lost_while_there_are_users_is_not_made_anew(made: Config) -> None:
    asyncio.run(admin.add(made, "alice", "0" * 64))
    (made.data_dir / "keyring.json").unlink()
    assert "backup" in refusal(made)
    assert not (made.data_dir / "keyring.json").exists()


def test_beyond_loopback_no_keyring_is_made_by_itself(tmp_path: Path) -> None:
    config = with_(ephemeral_config(tmp_path, 1), insecure_http=True)
    config = with_(config, servers=(*config.servers, "192.0.2.77:8001"))
    assert "safelight init" in refusal(config)
    assert not (config.data_dir / "keyring.json").exists()


def test_a_damaged_epoch_is_named(made: Config) -> None:
    (made.data_dir / "epoch-1.json").write_bytes(b"\xff")
    assert "epoch-1.json" in refusal(made)


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in refusal(ephemeral_config(tmp_path, 1))


def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        line = refusal(config)
        tmp_path.chmod(0o700)
    else:  # to the superuser every directory is open: /proc is not
        line = refusal(with_(config, data_dir=Path("/proc/safelight")))
    assert "data directory" in line


def test_beyond_loopback_plain_http_takes_an_explicit_word(made: Config) -> None:
    line = refusal(with_(made, servers=("192.0.2.77:8001",)))
    assert "tls_certificate" in line
    assert "--insecure-http" in line


def test_an_address_that_says_http_is_not_believed_beyond_loopback(made: Config) -> None:
    assert "--insecure-http" in refusal(with_(made, servers=("http://192.0.2.77:8001",)))
    others = (*made.servers, "http://192.0.2.77:8001")
    assert "--insecure-http" in refusal(with_(made, servers=others))  # what it would say to that node is readable, too


def test_an_address_that_says_https_takes_a_certificate(made: Config) -> None:
    line = refusal(with_(made, servers=(f"https://{made.servers[0]}",)))
    assert "https://" in line
    assert "tls_certificate" in line


def test_a_certificate_takes_an_address_that_says_https(made: Config) -> None:
    files = dict.fromkeys(("tls_certificate", "tls_key"), made.data_dir / "keyring.json")
    line = refusal(with_(made, servers=(f"http://{made.servers[0]}",), **files))
    assert "tls_certificate" in line
    assert "https://" in line


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="only Linux tells a process's limits")
def test_a_node_that_crashes_leaves_no_keys_in_a_core_dump(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        limits = Path(f"/proc/{it.cluster.pid(1)}/limits").read_text().splitlines()
        [core] = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
        assert core == ["0", "0"]


@pytest.mark.parametrize("missing", [True, False])
def test_a_certificate_that_is_none_is_named(made: Config, tmp_path: Path, missing: bool) -> None:
    for name in ("certificate.pem", "key.pem"):
        if not missing:
            (tmp_path / name).write_text("no certificate")
    line = refusal(with_(made, tls_certificate=tmp_path / "certificate.pem", tls_key=tmp_path / "key.pem"))
    assert "certificate.pem" in line


def test_what_holds_secrets_is_its_owners_alone_even_without_a_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with running(tmp_path, 1) as it:
            pass
    finally:
        os.umask(before)
    made = [it.config.data_dir, *it.config.data_dir.rglob("*")]
    assert {path.name for path in made} >= {"keyring.json", "vault", "epoch-1.json"}
    assert [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_node_whose_data_directory_vanishes_keeps_its_traceback_to_itself(tmp_path: Path) -> None:
    with running(tmp_path, 1) as it:
        shutil.rmtree(it.config.data_dir)
        answer = ask(it.config.addresses[1], "PUT /v1/users/alice", f"Authorization: Bearer {token('a')}")
        assert str(tmp_path) not in refused(answer, Problem.VAULT_AWAY)
        assert not [line for line in it.said(1) if "Traceback" in line]


@pytest.mark.parametrize(
    ("host", "hosts", "said"),
    [
        ("one.example", "127.0.1.1 one.example one", "one.example resolves to 127.0.1.1 here, where no other machine"),
        ("one.example", "::1 one.example", "one.example resolves to ::1 here, where no other machine"),
        ("localhost", "198.51.100.1 localhost", "localhost resolves to 198.51.100.1 here, which is not loopback"),
        ("one.example", "127.0.1.1 one.example\n192.0.2.1 one.example", "cannot listen on one.example"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_node_is_on_loopback_if_and_only_if_its_configuration_says_so(
    tmp_path: Path, host: str, hosts: str, said: str, tls: bool
) -> None:
    """As Debian has it: /etc/hosts says that the machine's own name is 127.0.1.1."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("only the superuser can have an /etc/hosts of its own")
    (tmp_path / "hosts").write_text(f"{hosts}\n")
    config = ephemeral_config(tmp_path, 1)
    port = config.addresses[1].port
    settings: dict[str, Any] = {"servers": (f"{host}:{port}", f"two.example:{port}"), "insecure_http": not tls}
    if tls:
        files = papers(tmp_path / "papers")
        settings |= {"tls_certificate": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
    create_cluster(config.data_dir)
    command = 'mount --bind "$1" /etc/hosts && exec "$2" -m safelight server 1'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(tmp_path / "hosts"), sys.executable],
        env=environment(with_(config, **settings)),
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert done.stderr.startswith(f"safelight: {said}")
