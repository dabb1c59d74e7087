"""aiohttp, imported at half the price, for all who use it.

On import it reads the system's certificate authorities, for a default context: some 55 ms, a sixth of a node's start.
Nothing here calls anyone with that context: `tls.client_tls` makes one where there is TLS, and where there is not none
is needed. So aiohttp's own knows no authority; whoever forgets to bring a context is refused.
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
