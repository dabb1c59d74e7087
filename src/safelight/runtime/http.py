"""aiohttp, imported at half the price, for all who use it.

On import it reads the system's certificate authorities for a default context: some 55 ms, a sixth of a node's start.
No request uses that context: `tls.client_tls` makes one where there is TLS. So aiohttp's own gets no authorities, and a
request without a context of its own is refused.
"""

import ssl

_read = ssl.SSLContext.set_default_verify_paths
ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
try:
    import aiohttp
    from aiohttp import HttpVersion11, StreamReader, web
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
finally:
    ssl.SSLContext.set_default_verify_paths = _read  # type: ignore[method-assign]

__all__ = [
    "AbstractStreamWriter",
    "HttpProcessingError",
    "HttpVersion11",
    "LineTooLong",
    "StreamReader",
    "aiohttp",
    "web",
]
