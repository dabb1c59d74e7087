"""What an error of the object store's library, obstore, means.

The library has a few classes of errors, and puts everything else into their text: the status and the code of the
answer, or why there is none. Only this module reads that text. It is never shown: it contains addresses, and those may
contain secrets.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_FULL = {"QuotaExceeded", "AccountQuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_METADATA_SERVICES = (" http://169.254.169.254", " http://169.254.170.2")


class Cause(Enum):
    """Why a request failed."""

    MISSING = auto()
    NO_BUCKET = auto()
    FULL = auto()
    UNSUPPORTED = auto()
    NO_CREDENTIALS = auto()
    DENIED = auto()
    OTHER_REGION = auto()
    STATUS = auto()  # any other answer
    TIMEOUT = auto()
    REFUSED = auto()
    UNKNOWN_HOST = auto()
    CERTIFICATE = auto()
    CONNECTION = auto()  # any other reason why there is no answer


class ProviderError(NamedTuple):
    """A failed request: why, and the status and the code (S3's, such as "SlowDown") of the answer, if there is one."""

    cause: Cause
    status: int | None = None
    code: str = ""

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
