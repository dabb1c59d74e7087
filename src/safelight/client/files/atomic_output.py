"""Atomic output files: each appears whole or not at all, and never replaces another file.

An output's name is fixed before the cluster hears of it, so it is *reserved* while nothing is there yet:

    final name   images/encrypted_cat_1730738456.png     does not exist until `commit`
    part file    images/.3f0c5a9be2714d08.part           named by the final name's SHA-256; 0600; flock'ed

The process that holds the lock of the part file owns the name. Another process finds the lock taken, or the final
file there, and tries the next name. The kernel releases the lock of a process that dies, so no stale lock blocks a
name. `commit` makes the bytes durable and then *links* them to the final name: a link, unlike a
rename, fails if something is there.

POSIX only (flock, link, fsync of a directory).
"""

import asyncio
import errno
import fcntl
import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from safelight.client.files.source_file import cannot_read
from safelight.errors import SafelightError, reason
from safelight.names import counted, shown
from safelight.runtime.atomic_file import PartFile, hidden_name, sync_directory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up"}
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_UMASK_LOCK = threading.Lock()
_REPLACING = threading.Lock()
"""Held while a file is examined and replaced: two outputs of this process may have one name."""

COARSEST = 2 * 10**9
"""Nanoseconds: the resolution of FAT's times of modification, the coarsest in use. A time that reads back with a larger
difference was not rounded: the file system cannot represent it.
"""

LARGE = 1 << 16
"""Bytes from which on a write is handed to a thread: below, that costs more than the write."""

Identity = tuple[int, int]
"""Device and inode: what makes two names one file, however they are written."""


class CannotWrite(SafelightError):
    """An output file cannot be written. No part of it is left."""


class DiskFull(CannotWrite):
    """The disk is full, or a quota is used up. No part of the output is left."""


class OutputExists(CannotWrite):
    """The output file exists already. It is unchanged."""


class _OutputFile(io.FileIO):
    """A part file as a file object: unbuffered (write large pieces), and a `write` writes everything or raises.

    `write` raises DiskFull, or CannotWrite, instead of OSError.
    """

    def __init__(self, part: PartFile, final: Path) -> None:
        super().__init__(part.descriptor, "wb", closefd=False)
        self._part, self._final = part, final

    def write(self, data: "ReadableBuffer", /) -> int:
        with _writing(self._final):
            self._part.write([data])
        return memoryview(data).nbytes


class Reservation:
    """A final name that no other process gets, and the file that will appear under it. A context manager.

    Without `commit`, leaving the `with` block removes every trace.
    """

    def __init__(self, path: Path, part: PartFile, mode: int) -> None:
        self.path = path
        self.file = _OutputFile(part, path)
        self.size = 0
        """Bytes, once it is committed."""
        self._part = part
        self._mode = mode

    @property
    def name(self) -> str:
        return self.path.name

    def restart(self) -> None:
        """Discard what was written, for another attempt."""
        self.file.seek(0)
        self.file.truncate()

    async def append(self, data: bytes) -> None:
        """Write while the event loop goes on. Raises as `PartFile.write`."""
        if len(data) < LARGE:
            self.file.write(data)
        else:
            await in_thread(lambda: self.file.write(data))

    @property
    def identity(self) -> Identity:
        """The file's, now and under its final name."""
        return identity(os.fstat(self.file.fileno()))

    def date(self, times: Sequence[int | None]) -> int | None:
        """Set the time of modification to the first of these (Unix time, in nanoseconds) that the file system can
        represent. Returns that time; None: to now, as it can represent none of them.
        """
        return _date(self.file.fileno(), times)

    def has_content_of(self, path: Path) -> bool:
        """Whether a file has the same bytes. Raises CannotRead."""
        try:
            with path.open("rb") as other:
                at = 0
                while theirs := other.read(1 << 20):
                    if os.pread(self.file.fileno(), len(theirs), at) != theirs:
                        return False
                    at += len(theirs)
                return at == os.fstat(self.file.fileno()).st_size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise cannot_read(path, error) from error

    def commit_counted(self, name: str | None = None) -> None:
        """As `commit`, under the first free name, counted up from `name` or the reserved one.

        On a file system that folds case or normalises names, the reserved name may be taken by now.
        """
        for number in count(1):
            with suppress(OutputExists):
                self.commit(counted(name or self.name, number))
                return

    def commit(
        self, name: str | None = None, *, replace: bool = False, others: Container[Identity] = frozenset()
    ) -> None:
        """Make the file durable and put it in place under its final name, with its permissions less the umask.

        `name`: this name instead, which is not reserved. `replace`: replace an existing file, unless it is one of
        `others`. Raises OutputExists if the name exists by now, and DiskFull or CannotWrite.
        """
        descriptor = self.file.fileno()
        path = self.path if name is None else self.path.with_name(name)
        with _writing(path):
            if not _is_at(descriptor, self._part.name):
                raise CannotWrite(f"{shown(str(self._part.name))} was removed while it was written; try again")
            with suppress(PermissionError):  # FAT has no permissions to change
                os.fchmod(descriptor, self._mode & 0o666 & ~_umask())
            self._part.sync()
            self.size = os.fstat(descriptor).st_size
            try:
                if replace:
                    with _REPLACING:
                        if (found := examine(path)) and identity(found) in others:
                            raise FileExistsError
                        self._part.replace(path)
                else:
                    self._part.move_if_absent(path)
            except FileExistsError as error:
                raise OutputExists(
                    f"another program made {shown(str(path))} meanwhile; it was left as it is"
                ) from error
            sync_directory(path.parent)
        self.path = path
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        with suppress(OSError):
            if not self._part.closed and _is_at(self._part.descriptor, self._part.name):
                self._part.unlink()  # before it is closed, which gives up the name
        self._part.close()


def reserve(directory: Path, candidates: Iterable[str], *, replace: bool = False, mode: int = 0o666) -> Reservation:
    """Reserve the first of `candidates` (file names) that is free in `directory`, which is created if missing.

    `replace`: an existing file does not make a name taken, only another reservation does. `mode`: permissions.

    `(encrypted_name(original, t, extension) for t in itertools.count(now))` never runs out of candidates.
    Raises CannotWrite if no file can be created there, or if every candidate is taken.
    """
    with _writing(directory):
        _make_directory(directory)
        for name in candidates:
            if reservation := _claim(directory / name, replace, mode):
                return reservation
    raise CannotWrite(f"every name that was tried in {shown(str(directory))} is taken; choose another")


def sweep(directory: Path) -> None:
    """Remove part files of killed processes from `directory`: they may contain decrypted images."""
    with suppress(OSError), os.scandir(directory) as entries:
        for part in [Path(entry) for entry in entries if _PART.fullmatch(entry.name)]:
            with suppress(OSError):
                _remove_stale(part)


def identity(status: os.stat_result) -> Identity:
    """The device and inode of a file: equal for two names of one file."""
    return status.st_dev, status.st_ino


def examine(path: Path) -> os.stat_result | None:
    """The status of the file of this name; None if there is none. Raises CannotRead."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


def dated(path: Path, found: os.stat_result, times: Sequence[int | None]) -> bool:
    """Whether a file has the time that `Reservation.date` would give to an output beside it, as this file system rounds
    it.
    """
    return found.st_mtime_ns in times[:1] or found.st_mtime_ns == _stored(path.parent, times)


def _date(descriptor: int, times: Sequence[int | None]) -> int | None:
    for moment in times:
        if moment is None:
            continue
        with suppress(OSError, OverflowError):
            os.utime(descriptor, ns=(moment, moment))
            if abs(os.fstat(descriptor).st_mtime_ns - moment) < COARSEST:
                return moment
    with suppress(OSError):
        os.utime(descriptor)
    return None


def _stored(directory: Path, times: Sequence[int | None]) -> int | None:
    """How the file system here rounds the first of these times that it can represent. None if unknown."""
    try:
        with PartFile.create(directory / hidden_name()) as scratch:
            moment = _date(scratch.descriptor, times)
            return None if moment is None else os.fstat(scratch.descriptor).st_mtime_ns
    except OSError:
        return None


async def in_thread(work: Callable[[], object]) -> None:
    """Do it while the event loop goes on. If cancelled, wait for its end: its file must not be closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as told:
            cancelled = told
    if cancelled:
        running.exception()  # looked at, or asyncio would report it as forgotten
        raise cancelled
    running.result()


def _claim(final: Path, replace: bool, mode: int) -> Reservation | None:
    """Reserve this one name; None if it is taken. Raises OSError."""
    digest = hashlib.sha256(os.fsencode(final.name)).hexdigest()
    name = final.with_name(f".{digest[:16]}.part")
    while not _taken(final, replace):
        try:
            part = PartFile.create(name)
        except FileExistsError:
            if _remove_stale(name):
                continue
            return None
        with ExitStack() as on_failure:
            on_failure.callback(part.close)
            try:
                fcntl.flock(part.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if not _is_at(part.descriptor, name):  # taken for a stale one, and removed, before we had the lock
                continue
            if _taken(final, replace):  # made before we had the lock
                part.unlink()
                return None
            on_failure.pop_all()
            return Reservation(final, part, mode)
    return None


def _remove_stale(part: Path) -> bool:
    """Remove a part file that no process holds: its process died. False if it is in use, or not ours.

    It is not used again: others may have it open if its mode was wider once, and after a death between link and unlink
    it is a second name of a finished file.
    """
    try:
        descriptor = os.open(part, _OPEN)
    except OSError as error:  # another user's part file, or something else in its place
        return isinstance(error, FileNotFoundError)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, part):  # else its owner finished or removed it before we had the lock
            part.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
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
    """The process's umask. It can only be read by setting it, here to 077 for a moment."""
    with _UMASK_LOCK:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a CannotWrite about `path`."""
    try:
        yield
    except OSError as error:
        if full := _FULL.get(error.errno or 0):
            raise DiskFull(f"cannot write {shown(str(path))}: {full}; free some space and try again") from error
        raise CannotWrite(f"cannot write {shown(str(path))}: {reason(error)}; choose another directory") from error
