"""What is read out of the texts of obstore's errors: held against texts that it produced."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from obstore import exceptions

from safelight.vault.stores.provider_errors import Cause, ProviderError, classify

TEXT = Path(__file__).with_name("provider_errors.txt").read_text()
RECORDED = {
    name: (kind, text)
    for name, kind, text in re.findall(r"^== ([^:\n]+): (\w+)\n(.*?)\n(?=\n==|\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
MEANING = {
    "no such object": ProviderError(Cause.MISSING, 404, "NoSuchKey"),
    "no such bucket": ProviderError(Cause.NO_BUCKET, 404, "NoSuchBucket"),
    "access denied": ProviderError(Cause.DENIED, 403, "AccessDenied"),
    "unknown access key": ProviderError(Cause.DENIED, 403, "InvalidAccessKeyId"),
    "unauthorized, without a code": ProviderError(Cause.DENIED, 401),
    "quota": ProviderError(Cause.FULL, 403, "QuotaExceeded"),
    "full server": ProviderError(Cause.FULL, 507, "XMinioStorageFull"),
    "full server, without a code": ProviderError(Cause.FULL, 507),
    "another region": ProviderError(Cause.OTHER_REGION),
    "malformed request": ProviderError(Cause.STATUS, 400, "AuthorizationHeaderMalformed"),
    "two puts at once": ProviderError(Cause.STATUS, 409, "ConditionalRequestConflict"),
    "nothing in this range": ProviderError(Cause.STATUS, 416, "InvalidRange"),
    "too many requests": ProviderError(Cause.STATUS, 429, "TooManyRequests"),
    "server error": ProviderError(Cause.STATUS, 500, "InternalError"),
    "no conditional puts": ProviderError(Cause.UNSUPPORTED, 501, "NotImplemented"),
    "overload": ProviderError(Cause.STATUS, 503, "SlowDown"),
    "nothing listens": ProviderError(Cause.REFUSED),
    "unknown host": ProviderError(Cause.UNKNOWN_HOST),
    "silent server": ProviderError(Cause.TIMEOUT),
    "no TLS server": ProviderError(Cause.CONNECTION),
    "untrusted certificate": ProviderError(Cause.CERTIFICATE),
    "no credentials": ProviderError(Cause.NO_CREDENTIALS),
}
NOT_APPLIED = {
    "no such object", "no such bucket", "access denied", "unknown access key", "unauthorized, without a code", "quota",
    "full server", "full server, without a code", "malformed request", "nothing in this range", "no conditional puts",
}  # fmt: skip


def error(name: str) -> Exception:
    kind, text = RECORDED[name]
    made: Exception = FileNotFoundError(text) if kind == "FileNotFoundError" else getattr(exceptions, kind)(text)
    return made


def test_every_recorded_error_has_a_meaning() -> None:
    assert RECORDED.keys() == MEANING.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_error_means(name: str) -> None:
    found = classify(error(name))
    assert found == MEANING[name]
    assert found.not_applied == (name in NOT_APPLIED)


def test_a_timeout_of_our_own_is_one_too() -> None:
    assert classify(TimeoutError()) == ProviderError(Cause.TIMEOUT)
