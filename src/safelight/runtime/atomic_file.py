"""Files that appear whole or not at all, and are on the disk when a call returns.

A file is written as a *part file*: under a hidden name in the directory where it will appear. It is synced, and then
given its real name in one step: by `link` where it must not replace another, by `rename` where it must. Everything
here blocks and raises OSError.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_MOST_PIECES = 1024  # of one writev(2): IOV_MAX on Linux and macOS


class NoHardLinks(OSError):
    """The file system has no hard links: FAT and some network file systems have none."""


class PartFile:
    """A file before it has its name. Use it with `with`, or call `discard`: then no hidden name stays behind.

    `directory` is an open descriptor, to which names are relative; without one they are paths.
    """

    def __init__(self, descriptor: int, name: str | Path, directory: int | None = None) -> None:
        """`descriptor` is the file's own from now on."""
        self.descriptor = descriptor
        self.name = name
        self._directory = directory

    @classmethod
    def create(cls, name: str | Path, directory: int | None = None) -> Self:
        """A new file, readable and writable by its owner alone. Raises FileExistsError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        return cls(os.open(name, flags, 0o600, dir_fd=directory), name, directory)

    @property
    def closed(self) -> bool:
        return self.descriptor < 0

    def write(self, pieces: Iterable[ReadableBuffer]) -> None:
        """Append all of the pieces."""
        left = deque(view for piece in pieces if len(view := memoryview(piece).cast("B")))
        while left:
            written = os.writev(self.descriptor, list(islice(left, _MOST_PIECES)))
            while left and written >= len(left[0]):
                written -= len(left.popleft())
            if written:
                left[0] = left[0][written:]

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def link(self, name: str | Path, directory: int | None = None) -> None:
        """Give it this name, too, in its own or another directory. Raises FileExistsError and NoHardLinks."""
        to = self._directory if directory is None else directory
        try:
            os.link(self.name, name, src_dir_fd=self._directory, dst_dir_fd=to, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                raise NoHardLinks(*error.args) from error
            raise

    def move_if_absent(self, name: str | Path) -> None:
        """Give it this name instead of its own, and close it, unless something has the name. Raises FileExistsError.

        Where there are no hard links, an empty file takes the name first (O_EXCL: only one process can make it), and
        this one is renamed over it. Nothing is overwritten there either; but for a moment others see the empty file,
        and a crash in that moment leaves it.
        """
        try:
            self.link(name)
        except NoHardLinks:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory))
            try:
                self.replace(name)
            except BaseException:
                os.unlink(name, dir_fd=self._directory)
                raise
        else:
            self.unlink()
            self.close()

    def replace(self, name: str | Path) -> None:
        """Give it this name instead of its own, in place of what has it, and close it."""
        os.replace(self.name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.close()

    def unlink(self) -> None:
        os.unlink(self.name, dir_fd=self._directory)

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """Close it and remove its hidden name. Harmless after `close`."""
        if not self.closed:
            try:
                self.close()  # first: NFS keeps open files under another hidden name
            finally:
                with suppress(FileNotFoundError):
                    self.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def hidden_name() -> str:
    """A random name for a part file."""
    return f".{secrets.token_hex(8)}.part"


def create_once(path: Path, data: bytes) -> bool:
    """Make `path` (mode 0600) with `data`, unless it exists: then leave it and return False.

    Durable either way: the process that created it may have died before it synced the directory.
    """
    with PartFile.create(path.with_name(hidden_name())) as part:
        part.write([data])
        part.sync()
        try:
            part.move_if_absent(path)
            made = True
        except FileExistsError:
            made = False
    sync_directory(path.parent)
    return made


def replace(path: Path, data: bytes, *, part: Path | None = None) -> None:
    """Make or replace `path` (mode 0600) with `data`; written first as `part`, in the same directory, which is not
    there yet (None: under a random name).
    """
    with PartFile.create(part or path.with_name(hidden_name())) as file:
        file.write([data])
        file.sync()
        file.replace(path)
    sync_directory(path.parent)


def overwrite(path: Path, data: bytes) -> None:
    """Change an existing file in place: no room is needed for what fits into its last block, but a crash in
    mid-write may leave a mixture. Less than a sector (512 bytes) is written at once or not at all.
    """
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path | str | int) -> None:
    """Make the names in `directory`, a path or an open descriptor, durable: fsync(2) of a file does not."""
    descriptor = directory if isinstance(directory, int) else os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems answer that cannot sync a directory
            raise
    finally:
        if descriptor != directory:
            os.close(descriptor)
