"""Output files that appear whole or not at all, and overwrite nothing.

An output's name is fixed before the cluster hears of it, so it is *reserved* while nothing is there yet:

    final name   images/encrypted_cat_1730738456.png     does not exist until `commit`
    part file    images/.3f0c5a9be2714d08.part           named by the final name's SHA-256; 0600; flock'ed

Whoever holds the lock of the part file holds the name. Another process that wants it finds the lock taken,
or the final file there, and counts on. The kernel drops the lock of a process that dies, so nothing stale
blocks a name. `commit` makes the bytes durable and then *links* them to the final name: a link, unlike a
rename, fails if something is there.

POSIX only (flock, link, fsync of a directory).
"""

import errno
import fcntl
import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from safelight.durable import link_if_absent, sync_directory
from safelight.errors import SafelightError, reason
from safelight.names import shown

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up"}
_UMASK_LOCK = threading.Lock()


class CannotWrite(SafelightError):
    """An output file could not be made; nothing of it is left."""


class DiskFull(CannotWrite):
    """No room for an output file; nothing of it is left."""


class NameTaken(CannotWrite):
    """Another program made a file of the reserved name; it was left as it is."""


class PartFile(io.FileIO):
    """The unfinished output: unbuffered (write large pieces), and a `write` writes everything or raises.

    `write` raises DiskFull, or CannotWrite, instead of OSError.
    """

    def __init__(self, descriptor: int, final: Path) -> None:
        super().__init__(descriptor, "wb")
        self._final = final

    def write(self, data: "ReadableBuffer", /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        with _writing(self._final):
            while left:
                left = left[super().write(left) :]
        return size


class Reservation:
    """A final name that nobody else gets, and the file that will appear under it. Use it with `with`.

    Without `commit`, leaving the `with` block removes every trace.
    """

    def __init__(self, path: Path, part: Path, file: PartFile) -> None:
        self.path = path
        self.file = file
        self._part = part

    @property
    def name(self) -> str:
        return self.path.name

    def restart(self) -> None:
        """Throw away what was written, for another attempt."""
        self.file.seek(0)
        self.file.truncate()

    def commit(self, name: str | None = None, *, modified: float | None = None, replace: bool = False) -> None:
        """Make the file durable and let it appear under its final name, with the permissions of any new file.

        `name`: under this one instead, which was not reserved. `modified`: as if last modified then, in Unix
        seconds. `replace`: in place of what is there. Raises NameTaken if the name exists by now: then
        another may be tried. Raises DiskFull or CannotWrite if the system refuses.
        """
        descriptor = self.file.fileno()
        path = self.path if name is None else self.path.with_name(name)
        with _writing(path):
            if not _is_at(descriptor, self._part):
                raise CannotWrite(f"{shown(str(self._part))} was removed while it was written; try again")
            with suppress(PermissionError):  # FAT has no permissions to change
                os.fchmod(descriptor, 0o666 & ~_umask())
            if modified is not None:
                with suppress(OverflowError):  # a time that no file can have comes from elsewhere, and harms nobody
                    microseconds = round(modified * 1e6)  # a number of seconds in 64 bits has no more to say
                    os.utime(descriptor, ns=(microseconds * 1000, microseconds * 1000))
            os.fsync(descriptor)
            try:
                if replace:
                    self._part.replace(path)
                else:
                    link_if_absent(self._part, path)
            except FileExistsError as error:
                raise NameTaken(f"another program made {shown(str(path))} meanwhile; it was left as it is") from error
            sync_directory(path.parent)
        self.path = path
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file.closed:
            return
        with self.file, suppress(OSError):
            if _is_at(self.file.fileno(), self._part):
                self._part.unlink()


def reserve(directory: Path, candidates: Iterable[str], *, replace: bool = False) -> Reservation:
    """The first of `candidates` (file names) that nobody has, reserved in `directory` (made if missing).

    `replace`: a file that is there does not count, only who else is about to make it.

    `(encrypted_name(original, t, extension) for t in itertools.count(now))` never runs out of candidates.
    Raises CannotWrite if no file can be made there, or if every candidate is taken.
    """
    with _writing(directory):
        _make_directory(directory)
        for name in candidates:
            if reservation := _claim(directory / name, replace):
                return reservation
    raise CannotWrite(f"every name that was tried in {shown(str(directory))} is taken; choose another")


def sweep(directory: Path) -> None:
    """Remove the part files that killed processes left in `directory`: they may hold opened images."""
    with suppress(OSError), os.scandir(directory) as entries:
        for part in [Path(entry) for entry in entries if _PART.fullmatch(entry.name)]:
            with (
                suppress(OSError),
                open(os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file,
            ):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file.fileno(), part):
                    part.unlink()


def _claim(final: Path, replace: bool) -> Reservation | None:
    """Reserve this one name; None if somebody has it. Raises OSError."""
    digest = hashlib.sha256(os.fsencode(final.name)).hexdigest()
    part = final.with_name(f".{digest[:16]}.part")
    while True:
        if _taken(final, replace):
            return None
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError:
            if os.path.lexists(part):  # another user's part file, or something else in its place
                return None
            raise
        with ExitStack() as on_failure:
            file = on_failure.enter_context(PartFile(descriptor, final))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if not _is_at(descriptor, part):  # finished or given up by its owner before we had the lock
                continue
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return None
            if found.st_size or found.st_nlink > 1:
                # Left by a process that died. It is made anew, never truncated: whoever died between link and
                # unlink has left a second name of a finished file, wherever that has been moved to since.
                part.unlink()
                continue
            if _taken(final, replace):  # made before we had the lock
                part.unlink()
                return None
            on_failure.pop_all()
            return Reservation(final, part, file)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _taken(final: Path, replace: bool) -> bool:
    """As os.path.lexists, but a name that the file system refuses (ENAMETOOLONG) is an error at once."""
    try:
        found = final.lstat()
    except FileNotFoundError:
        return False
    return not (replace and stat.S_ISREG(found.st_mode))


def _make_directory(directory: Path) -> None:
    """As mkdir -p, and durable."""
    if directory.is_dir():
        return
    if directory.parent != directory:
        _make_directory(directory.parent)
    try:
        directory.mkdir(exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    sync_directory(directory.parent)


def _umask() -> int:
    """The process's umask, which can only be read by setting it; 077 for that moment harms nobody."""
    with _UMASK_LOCK:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into the one line about `path` that its user should read."""
    try:
        yield
    except OSError as error:
        if full := _FULL.get(error.errno or 0):
            raise DiskFull(f"cannot write {shown(str(path))}: {full}; make room and try again") from error
        raise CannotWrite(f"cannot write {shown(str(path))}: {reason(error)}; choose another directory") from error
