"""A cluster over TLS, whose authority is made here: nodes, links and clients believe it, and nothing else."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from safelight.config import Config, ConfigError
from safelight.local.cluster import environment
from safelight.runtime.tls import client_tls, server_tls
from safelight.wire.messages import Problem
from tests.node.raw_http import ask, line, refused
from tests.running import GENEROUS, Running, running

HASTY = {"SAFELIGHT_TIMEOUT": "0.5"}
"""For commands that look for a server in vain."""


@dataclass
class Papers:
    """PEM files: an authority, and a certificate of its own for 127.0.0.1, with the key."""

    authority: Path
    certificate: Path
    key: Path


def papers(directory: Path) -> Papers:
    """The authority lacks extensions of RFC 5280, as many self-made ones do: every Python must accept it."""
    directory.mkdir()
    authority_key, node_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate("Test authority", authority_key, None, authority_key)
    node = certificate("Test node", node_key, authority, authority_key)
    files = Papers(directory / "authority.pem", directory / "certificate.pem", directory / "key.pem")
    pem = serialization.Encoding.PEM
    files.authority.write_bytes(authority.public_bytes(pem))
    files.certificate.write_bytes(node.public_bytes(pem))
    files.key.touch(0o600)
    files.key.write_bytes(node_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("tls")
    files = papers(directory / "papers")
    with running(directory, 3, tls_certificate=files.certificate, tls_key=files.key, tls_ca=files.authority) as it:
        yield it


def client(config: Config, directory: Path, *arguments: str, **other: str) -> subprocess.CompletedProcess[str]:
    """A command, knowing the addresses only; and what `other` says."""
    settings = {"SAFELIGHT_SERVERS": ",".join(address.url for address in config.addresses.values()), **other}
    kept = {key: value for key, value in environment(config).items() if not key.startswith("SAFELIGHT_")}
    return subprocess.run(
        [sys.executable, "-m", "safelight", *arguments, "--client-dir", str(directory / "client")],
        env={**kept, "SAFELIGHT_CONFIG": os.devnull, **settings},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )


def test_an_image_goes_there_and_back_over_tls(secure: Running, photograph: Path, tmp_path: Path) -> None:
    assert all(address.scheme == "https" for address in secure.config.addresses.values())
    believing = {"SAFELIGHT_TLS_CA": str(secure.config.tls_ca)}
    sealed = client(secure.config, tmp_path, "upload", str(photograph), "--user", "alice", "--quiet", **believing)
    assert sealed.returncode == 0, sealed.stderr
    back = client(secure.config, tmp_path, "decrypt", sealed.stdout.strip(), "--user", "alice", "--quiet", **believing)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / back.stdout.strip()).read_bytes() == photograph.read_bytes()


def test_the_nodes_are_linked_over_tls(secure: Running) -> None:
    with line(secure.config.addresses[3], client_tls(secure.config)) as connection:
        connection.request("GET /v1/status")
        assert [load["node"] for load in connection.answer().json()["nodes"]] == [1, 2, 3]


@pytest.mark.parametrize("command", [["upload", "{photograph}"], ["status"]], ids=["upload", "status"])
def test_a_client_that_does_not_know_the_authority_says_so_in_one_line(
    secure: Running, photograph: Path, tmp_path: Path, command: list[str]
) -> None:
    arguments = [each.format(photograph=photograph) for each in command]
    if command[0] == "upload":
        arguments += ["--user", "alice"]
    done = client(secure.config, tmp_path, *arguments, **HASTY)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "tls_ca" in said
    assert "Traceback" not in said
    assert all("tls_ca" in each for each in done.stderr.splitlines() if "trusted" in each)


@pytest.mark.parametrize("setting", ["tls_ca", "tls_certificate", "tls_key"])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "it is not a regular file"),
        ("socket", "it is not a regular file"),
        ("device", "it is not a regular file"),
        ("directory", "it is not a regular file"),
        ("large", "it is larger than 1 MiB, which no PEM file is"),
        ("missing", "no such file or directory"),
    ],
)
def test_what_is_no_pem_file_is_refused_without_waiting(tmp_path: Path, kind: str, why: str, setting: str) -> None:
    path = tmp_path / "file.pem"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.touch(0o600)
        os.truncate(path, (1 << 20) + 1)
    files = papers(tmp_path / "papers")
    given = {"tls_certificate": files.certificate, "tls_key": files.key, setting: path}

    def use() -> None:
        if setting == "tls_ca":
            client_tls(Config(servers=("127.0.0.1:1",), tls_ca=path))
        else:
            server_tls(given["tls_certificate"], given["tls_key"])

    with pytest.raises(ConfigError) as refused:
        use()
    assert str(refused.value) == f"cannot use {setting} {path}: {why}"


def test_a_pipe_for_the_authority_ends_a_command_at_once(secure: Running, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = client(secure.config, tmp_path, "status", SAFELIGHT_TLS_CA=str(tmp_path / "pipe"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert "tls_ca" in done.stderr
    assert "it is not a regular file" in done.stderr


def test_an_authority_among_comments_is_believed_and_none_at_all_is_an_error(secure: Running, tmp_path: Path) -> None:
    assert secure.config.tls_ca is not None
    path = tmp_path / "bundle.pem"
    path.write_bytes("# Tanúsítvány\n".encode() + secure.config.tls_ca.read_bytes())
    done = client(secure.config, tmp_path, "status", SAFELIGHT_TLS_CA=str(path))
    assert done.returncode == 0, done.stderr
    for content in (b"", b"# Tan\xfas\n"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="not in PEM format"):
            client_tls(Config(servers=("127.0.0.1:1",), tls_ca=path))


def test_another_authority_is_not_believed(secure: Running, photograph: Path, tmp_path: Path) -> None:
    others = papers(tmp_path / "papers")
    done = client(
        secure.config,
        tmp_path,
        "upload",
        str(photograph),
        "--user",
        "alice",
        SAFELIGHT_TLS_CA=str(others.authority),
        **HASTY,
    )
    assert done.returncode == 1
    assert "not trusted" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["status"], ["token", "alice"]], ids=str)
def test_a_client_sends_nothing_readable_beyond_loopback_unless_told_to(
    secure: Running, tmp_path: Path, command: list[str]
) -> None:
    readable = {"SAFELIGHT_SERVERS": "http://192.0.2.77:8001", **HASTY}
    done = client(secure.config, tmp_path, *command, **readable)
    assert done.returncode == 1
    [complaint] = done.stderr.splitlines()
    assert "192.0.2.77" in complaint
    assert "--insecure-http" in complaint
    told = client(secure.config, tmp_path, *command, SAFELIGHT_INSECURE_HTTP="1", **readable)
    assert "--insecure-http" not in told.stdout + told.stderr


def test_plain_http_to_a_secure_node_is_hung_up_on_without_a_word_in_the_log(secure: Running) -> None:
    before = secure.said(3)
    with line(secure.config.addresses[3]) as connection:
        connection.send(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.ended()
    assert secure.leader() == 3
    assert secure.said(3) == before


def test_tls_to_a_plain_node_is_refused(shared_cluster: Running) -> None:
    address = shared_cluster.config.addresses[1]
    with pytest.raises(ssl.SSLError), line(address, ssl._create_unverified_context()):  # noqa: S323 — the node has no TLS
        pass
    refused(ask(address, "GET /nowhere"), Problem.NOT_FOUND)
