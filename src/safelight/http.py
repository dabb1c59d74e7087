"""aiohttp, imported at half the price, for all who use it.

On import it reads the system's certificate authorities for a default context: some 55 ms, a sixth of a node's start.
Nothing here calls anyone with that context: `tls.client_tls` makes one where there is TLS, and where there is not none
is needed. So aiohttp gets one that trusts nobody; whoever forgets to bring their own is refused.
"""

import ssl
from typing import Any


def _trusting_nobody(*_: Any, **__: Any) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_real = ssl.create_default_context
ssl.create_default_context = _trusting_nobody
try:
    import aiohttp
    from aiohttp import HttpVersion11, StreamReader, web
    from aiohttp.helpers import parse_http_date
    from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
finally:
    ssl.create_default_context = _real

__all__ = ["HttpProcessingError", "HttpVersion11", "LineTooLong", "StreamReader", "aiohttp", "parse_http_date", "web"]
