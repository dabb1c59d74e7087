"""TLS: the certificate that a node shows, how clients verify it, and when plain HTTP is allowed."""

import errno
import os
import ssl
import stat
from pathlib import Path

from safelight.config import Address, Config, ConfigError
from safelight.errors import reason
from safelight.runtime import private_file
from safelight.sizes import human_size

MAX_PEM = 1 << 20
"""Bytes of a PEM file; all the authorities that a system believes are a quarter of it."""


def client_tls(config: Config) -> ssl.SSLContext | None:
    """The context for calling nodes; None where no node is called over TLS. Raises ConfigError."""
    for address in config.addresses.values():
        check_plain_http(config, address)
    if all(address.scheme == "http" for address in config.addresses.values()):
        return None
    if config.tls_ca is None:
        return _verifying(None)
    text = _read("tls_ca", config.tls_ca).decode("ascii", errors="ignore")  # comments may be in any language
    try:
        return _verifying(text or "\n")  # without any it would believe the system's authorities
    except OSError as error:  # ssl.SSLError is one, too
        raise ConfigError(f"cannot use tls_ca {config.tls_ca}: {_why(error)}") from None


def _verifying(authorities: str | None) -> ssl.SSLContext:
    """The default context, with the same rules for certificates on every Python.

    Python 3.13 began to refuse authorities that lack extensions of RFC 5280, which a self-made one often does. Such a
    cluster must not break because a node gets a newer Python.
    """
    context = ssl.create_default_context(cadata=authorities)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def check_plain_http(config: Config, address: Address) -> None:
    """Raises ConfigError where tokens and images would cross a network readable and nobody has said that they may."""
    if address.scheme == "http" and not (address.loopback or config.insecure_http):
        raise ConfigError(
            f"{address.host} is not loopback: leave out http:// and use TLS, or say --insecure-http "
            "if tokens and images may cross the network readable"
        )


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context for serving with these PEM files. Raises ConfigError."""
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        _read(name, file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")  # otherwise OpenSSL asks the terminal for one
    except OSError as error:
        raise ConfigError(f"cannot use tls_certificate {certificate} with tls_key {key}: {_why(error)}") from None
    try:
        private_file.read(key, 0)
    except private_file.NotPrivate as error:
        raise ConfigError(f"cannot use this tls_key: {error}") from None
    return context


def _read(name: str, path: Path) -> bytes:
    """What a PEM file has in it, without waiting for a pipe or a device, as OpenSSL would. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"cannot use {name} {path}: it is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_PEM + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        why = "it is not a regular file" if error.errno == errno.ENXIO else _why(error)  # a socket
        raise ConfigError(f"cannot use {name} {path}: {why}") from None
    if len(content) > MAX_PEM:
        raise ConfigError(f"cannot use {name} {path}: it is larger than {human_size(MAX_PEM)}, which no PEM file is")
    return content


def _why(error: OSError) -> str:
    """Without the jargon of errno and OpenSSL."""
    if not isinstance(error, ssl.SSLError):
        return reason(error)
    if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):  # another key; one of another kind
        return "this key is not that certificate's"
    return "what is in there is not in PEM format, or the key is encrypted"
