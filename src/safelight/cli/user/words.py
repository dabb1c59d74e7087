"""The words of a line at the prompt: quotes, `~` and patterns as in a shell."""

from __future__ import annotations

import errno
import glob
import os
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

from safelight.errors import SafelightError, reason
from safelight.names import shown


def is_comment(line: str) -> bool:
    """Whether the first word of the line begins with `#`."""
    return line.lstrip().startswith("#")


def split(line: str) -> list[str]:
    """The words of a line, with quotes and backslashes as in a shell. Raises SafelightError."""
    try:
        return shlex.split(line)
    except ValueError as error:
        what = "a quote is not closed" if "quot" in str(error) else "nothing follows the last backslash"
        raise SafelightError(f"{what}; write a path with spaces as 'my photo.png'") from None


def expand(paths: Sequence[str]) -> list[str]:
    """Expand `~` and patterns, as a shell does; a path that exists is taken literally.

    Raises SafelightError if a pattern matches nothing, and for words that are the name of a file only together.
    """
    together = " ".join(paths)
    if len(paths) > 1 and _exists(together) and not all(map(_exists, paths)):
        inside = "/*" if os.path.isdir(os.path.expanduser(together)) else ""
        raise SafelightError(f"a path with spaces needs quotes: {shlex.quote(together.rstrip('/'))}{inside}")
    found: list[str] = []
    for path in paths:
        home = os.path.expanduser(path)
        if not glob.has_magic(home) or _may_exist(home):
            found.append(home)
        elif matches := [match for match in _matches(home) if not os.path.isdir(match)]:
            found += matches
        else:
            raise SafelightError(f"no file matches {shown(path)}")
    return found


def _matches(pattern: str) -> list[str]:
    """The paths that a pattern matches, sorted. A part of it that exists literally is not a pattern.

    Raises SafelightError for a directory that cannot be read, because it may contain matches.
    """
    found = ["/" if pattern.startswith("/") else ""]
    for part in filter(None, pattern.split("/")):
        found = [os.path.join(folder, name) for folder in found for name in _named(folder, part)]
    return found


def _named(folder: str, part: str) -> list[str]:
    if _may_exist(os.path.join(folder, part)):
        return [part]
    if not glob.has_magic(part):
        return []
    try:
        names = os.listdir(folder or ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SafelightError(f"cannot read {shown(folder or '.')}: {reason(error)}") from error
    hidden = part.startswith(".")
    return sorted(name for name in names if fnmatchcase(name, part) and (hidden or not name.startswith(".")))


def _exists(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))


def _may_exist(path: str) -> bool:
    """False only if there is no such file. If a file cannot be examined, reading it reports the reason."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG  # no file has a name that is too long
    return True
