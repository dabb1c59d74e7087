"""What an error of the object store's library, obstore, means.

The library has a few classes of errors, and puts everything else into their text: the status and the code of the
answer, or why there is none. Only this module reads that text. It is never shown: it contains addresses, and those may
contain secrets.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_FULL = {"QuotaExceeded", "AccountQuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_METADATA_SERVICES = (" http://169.254.169.254", " http://169.254.170.2")


CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
"""Environment variables."""


class Cause(Enum):
    """Why a request failed, and what to do, in words."""

    MISSING = "there is no such object"
    NO_BUCKET = "there is no such bucket"
    FULL = "it is full"
    UNSUPPORTED = (
        "its server does not support conditional puts (If-None-Match), and would overwrite images: use another "
        "server, or a newer version of it"
    )
    NO_CREDENTIALS = f"there are no credentials: set {CREDENTIALS}"
    DENIED = f"it denies access: check {CREDENTIALS}, and what they allow"
    OTHER_REGION = "it is in another region: set AWS_REGION"
    STATUS = "it reports an error: try again later"
    TIMEOUT = "it does not answer in time: check the network, or try again later"
    REFUSED = "nothing listens there: is it running, and is the endpoint right?"
    UNKNOWN_HOST = "its host is not known: check the endpoint and the network"
    CERTIFICATE = "its TLS certificate is not trusted"
    CONNECTION = "the connection fails or breaks: check the endpoint and the network, or try again later"


class ProviderError(NamedTuple):
    """A failed request: why, and the status and the code (S3's, such as "SlowDown") of the answer, if there is one."""

    cause: Cause
    status: int | None = None
    code: str = ""

    def __str__(self) -> str:
        answer = f" (status {self.status}{f' {self.code}' if self.code else ''})" if self.status else ""
        return self.cause.value + answer

    @property
    def not_applied(self) -> bool:
        """Whether the store certainly did not do what was asked; after any other error it may have done it."""
        status = self.status or 0
        return (400 <= status < 500 or status in (501, 507)) and status not in (408, 409, 429)


def classify(error: Exception) -> ProviderError:
    """What this error means; TimeoutError is one, too."""
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else ""
    return ProviderError(_cause(error, text, status, code), status, code)


def _cause(error: Exception, text: str, status: int | None, code: str) -> Cause:
    if code in _FULL or status == 507:
        return Cause.FULL
    if code == "NoSuchBucket":
        return Cause.NO_BUCKET
    if isinstance(error, FileNotFoundError):
        return Cause.MISSING
    if any(service in text for service in _METADATA_SERVICES):
        return Cause.NO_CREDENTIALS
    if "without LOCATION" in text:
        return Cause.OTHER_REGION
    if status is not None:
        return _OF_STATUS.get(status, Cause.STATUS)
    if isinstance(error, TimeoutError):
        return Cause.TIMEOUT
    return next((cause for words, cause in _OF_CONNECTION.items() if words in text), Cause.CONNECTION)


_OF_STATUS = {
    301: Cause.OTHER_REGION,
    307: Cause.OTHER_REGION,
    401: Cause.DENIED,
    403: Cause.DENIED,
    501: Cause.UNSUPPORTED,
}
_OF_CONNECTION = {
    "TimedOut": Cause.TIMEOUT,
    "ConnectionRefused": Cause.REFUSED,
    "dns error": Cause.UNKNOWN_HOST,
    "InvalidCertificate": Cause.CERTIFICATE,
}
