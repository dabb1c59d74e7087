"""Why a node could not be reached, as clients and nodes report it."""

import errno

from safelight.runtime.http import aiohttp


class WrongCluster(aiohttp.ClientConnectionError):
    """A process that is no node of this cluster answers; the message says so in a few words."""


def why_unreachable(error: BaseException) -> str:
    """An error of aiohttp or the operating system, in a few words for the middle of a line."""
    if isinstance(error, WrongCluster):
        return str(error)
    if isinstance(error, TimeoutError | aiohttp.ServerTimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted: set tls_ca"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS: check http and https"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "connection refused"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such host"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror.lower()
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return "the connection broke"
    return "no usable answer"


def is_final(error: BaseException) -> bool:
    """Whether the error is definite: waiting longer hardly helps.

    A timeout is not: a node that hangs, or whose machine has just died, looks the same.
    """
    if isinstance(error, WrongCluster | aiohttp.ClientSSLError | aiohttp.ClientConnectorDNSError):
        return True
    return isinstance(error, OSError) and error.errno in (
        errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM
    )  # fmt: skip
