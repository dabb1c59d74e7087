"""The address that a node listens on: its socket, and whether it serves TLS there."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from typing import Any

from safelight.config import Address, Config
from safelight.errors import SafelightError
from safelight.runtime.tls import check_plain_http, server_tls


class CannotServe(SafelightError):
    """This node cannot start; the message says what to do about it."""


def bind(address: Address) -> socket.socket:
    """A socket bound to the node's address. It is on loopback if and only if the configuration says so, as open
    enrolment and plain HTTP depend on that.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotServe(f"{address.host} is not an address of this machine: {error.strerror}") from None
    suitable = [each for each in found if _is_loopback(each[4]) == address.loopback]
    if not suitable:
        means = ", ".join(sorted({str(each[4][0]) for each in found}))
        if address.loopback:
            raise CannotServe(
                f"{address.host} resolves to {means} here, which is not loopback: correct /etc/hosts or use 127.0.0.1"
            )
        raise CannotServe(
            f"{address.host} resolves to {means} here, where no other machine can reach this node: correct /etc/hosts, "
            "or write this machine's own address in servers; for nodes on this machine alone, write 127.0.0.1"
        )
    family, kind, protocol, _, where = suitable[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotServe(
                f"port {address.port} is already in use: stop what listens there, "
                "or choose other ports with --base-port or --servers"
            ) from None
        raise CannotServe(f"cannot listen on {address.netloc}: {error.strerror}") from None
    return listener


def _is_loopback(where: tuple[Any, ...]) -> bool:
    """Whether a socket's address can be reached from this machine alone, also as an IPv4 address within IPv6."""
    host = ipaddress.ip_address(where[0])
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


def server_tls_of(config: Config, address: Address) -> ssl.SSLContext | None:
    """The context for serving at this address; None for plain HTTP, where that is allowed."""
    if config.tls_certificate is None or config.tls_key is None:
        if address.scheme == "https":
            plain = (
                "; or remove https:// in servers and pass --insecure-http, if the network may read tokens and images"
            )
            raise CannotServe(
                f"{address.url} needs a certificate: set tls_certificate and tls_key{'' if address.loopback else plain}"
            )
        check_plain_http(config, address)
        return None
    if address.scheme == "http":
        raise CannotServe(
            f"{address.url} would be plain HTTP, and this node has a tls_certificate: write https:// in servers, "
            "or do not set tls_certificate"
        )
    return server_tls(config.tls_certificate, config.tls_key)
