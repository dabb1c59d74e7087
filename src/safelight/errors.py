"""The one kind of error that a user is meant to read.

Every message is one line that says what was wrong and what to do about it. A caller that catches a
`SafelightError` prints it and continues, or exits with status 1; anything else is a bug.
"""

from collections.abc import Mapping


class SafelightError(Exception):
    """What was wrong, and what to do, in one line."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by its attributes: subclasses take other arguments than the message."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[SafelightError], args: tuple[object, ...], attributes: dict[str, object]) -> SafelightError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ClusterUnavailable(SafelightError):
    """The cluster did nothing in all the time that was allowed. Trying again later may help."""


def reason(error: OSError) -> str:
    """What the operating system says, for the middle of a line."""
    return (error.strerror or str(error)).lower()


def by_server(reasons: Mapping[int, str]) -> str:
    """Why each server did not do it, in one line; servers with the same reason are named together."""
    alike: dict[str, list[str]] = {}
    for server, why in sorted(reasons.items()):
        alike.setdefault(why, []).append(str(server))
    return "; ".join(f"{_servers(numbers)}: {why}" for why, numbers in alike.items())


def _servers(numbers: list[str]) -> str:
    *others, last = numbers
    return f"servers {', '.join(others)} and {last}" if others else f"server {last}"


def missing_extra(extra: str, purpose: str) -> str:
    """The message of an error: `purpose` needs an extra of this package that is not installed."""
    return f"{purpose} needs a package that is not installed: run pip install 'safelight[{extra}]'"
