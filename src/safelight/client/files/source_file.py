"""Source files: images to upload, checked before a byte of them is sent.

An image is opened once and read by position, so that every attempt sends the same file. A change of the file is noticed
before its last byte is sent.
"""

import difflib
import errno
import io
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from safelight.encryption.errors import NotSealed
from safelight.encryption.sealed import MAGIC
from safelight.errors import SafelightError, reason
from safelight.imagetypes import HEAD, ImageType, sniff
from safelight.names import is_encrypted_name, shown
from safelight.runtime.sendfile import FileBody
from safelight.sizes import human_size

SPOOLED = 1 << 20
"""Bytes of a stream that are read at a time."""


class CannotRead(SafelightError):
    """An input cannot be read, or is too large."""


def cannot_read(path: str | Path, error: OSError) -> CannotRead:
    """What to raise for this error of a file."""
    return CannotRead(f"cannot read {shown(str(path))}: {reason(error)}")


class SkipReason(Enum):
    """Why an entry of a directory is skipped: a phrase for one, and one for several."""

    NOT_AN_IMAGE = ("not an image", "not images")
    EMPTY = ("empty", "empty")
    SEALED = ("encrypted already", "encrypted already")
    HIDDEN = ("hidden", "hidden")
    LINK = ("a link to a directory", "links to directories")
    BROKEN = ("a broken link", "broken links")
    SPECIAL = ("not a regular file", "not regular files")
    OUTPUT = ("the directory for the encrypted images", "directories for the encrypted images")
    ENTERED = ("a directory that another path leads to", "directories that another path leads to")

    def __init__(self, one: str, several: str) -> None:
        self.one, self.several = one, several


class NotAnImage(CannotRead):
    """The input is not an image of a known type, or is empty, or is sealed already."""

    def __init__(self, reason: SkipReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChangedWhileReading(CannotRead):
    """The file changed after its size was announced."""


class SourceFile:
    """An open image of known size, which can be read from the start any number of times."""

    def __init__(self, path: str | Path, descriptor: int, found: os.stat_result, image_type: ImageType | None) -> None:
        self.path = path
        self.size = found.st_size  # bytes
        self.modified_ns = found.st_mtime_ns  # Unix time, nanoseconds
        self.dated = True
        """Whether that time says anything of the image: not that of a copy."""
        self.mode = stat.S_IMODE(found.st_mode)  # permission bits
        self.type = image_type
        self._descriptor = descriptor
        self._state = (found.st_size, found.st_mtime_ns)

    @property
    def extension(self) -> str:
        """The suffix of the type, without a dot; '' if the type is not known."""
        return self.type.extension if self.type else ""

    def chunks(self, length: int = 1 << 20, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, or all, at most `length` at a time; iterators do not disturb each other.

        Raises ChangedWhileReading, at the latest instead of the last piece: a receiver that waits for `size` bytes
        never gets a complete image that mixes two versions.
        """
        end = self.size if end is None else min(end, self.size)
        while start < end:
            try:
                chunk = os.pread(self._descriptor, min(length, end - start), start)
            except OSError as error:
                raise self.unreadable(error) from error
            self.check(there=bool(chunk))
            start += len(chunk)
            yield chunk

    def check(self, *, there: bool = True) -> None:
        """Raises ChangedWhileReading if the file changed, or if not all of it is `there`."""
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            raise self.unreadable(error) from error
        if not there or (now.st_size, now.st_mtime_ns) != self._state:
            raise ChangedWhileReading(f"{shown(str(self.path))} changed while it was read; try again")

    def unreadable(self, error: OSError) -> CannotRead:
        return cannot_read(self.path, error)

    def file(self) -> FileBody:
        """The same bytes, for sendfile."""
        return FileBody(lambda: os.dup(self._descriptor))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_image(path: str | Path, *, any_type: bool, max_size: int, once_more: bool = True) -> SourceFile:
    """Open an image to upload. Raises CannotRead for a file that is missing, not regular, empty, larger than `max_size`
    bytes or (unless `any_type`) not an image.

    A pipe or a device is refused without waiting for it. `once_more`: with `any_type`, a sealed file is accepted.
    Messages quote a string as it was typed; a Path would lose the second slash of `http://`.
    """
    quoted = shown(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise CannotRead(f"{quoted} is a broken link: its target does not exist") from error
        raise CannotRead(f"{quoted} does not exist{_meant(Path(path))}") from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise CannotRead(f"{quoted} is not a regular file; give the path of an image") from error
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise CannotRead(f"{quoted} is not a path: it contains a null character") from error
    return _examined(path, descriptor, any_type=any_type, max_size=max_size, once_more=once_more)


def spool(content: bytes | BinaryIO, name: str, *, any_type: bool, max_size: int, sealed: bool = False) -> SourceFile:
    """An image that has no path, copied: bytes to memory, a stream to a file without a name in the temporary directory.

    `name`: what messages call it. A stream is read from its position, at most `max_size` + 1 bytes; its type is checked
    before the rest is read. `sealed`: only a sealed file is accepted. Raises CannotRead or CannotOpen.
    """
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with _unnamed(in_memory=isinstance(content, bytes)) as file:
            for chunk in _chunks(stream, name, max_size + 1):
                if not file.tell():
                    _check_head(chunk, name, any_type=any_type, sealed=sealed)
                file.write(chunk)
            file.flush()
            descriptor = os.dup(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise CannotRead(f"cannot copy {shown(name)}: {getattr(error, 'strerror', None) or error}") from error
    source = _examined(name, descriptor, any_type=any_type, max_size=max_size, once_more=True)
    source.dated, source.mode = False, 0o666
    return source


def _chunks(stream: BinaryIO, name: str, most: int) -> Iterator[bytes]:
    """At most so many bytes of a stream; the first chunk is long enough for `sniff`. Raises CannotRead, OSError."""
    head = b""
    while most and (chunk := stream.read(min(most, SPOOLED))) != b"":
        if chunk is None:
            raise CannotRead(f"{shown(name)} is a non-blocking stream: make it blocking")
        if not isinstance(chunk, bytes):
            raise CannotRead(f"{shown(name)} gives text: open it in binary mode")
        most -= len(chunk)
        head += chunk
        if len(head) >= HEAD:
            yield head
            head = b""
    if head:
        yield head


def _unnamed(*, in_memory: bool) -> BinaryIO:
    """A file without a name: it is gone with its last descriptor."""
    if in_memory and hasattr(os, "memfd_create"):
        return open(os.memfd_create("safelight", os.MFD_CLOEXEC), "w+b")
    return cast(BinaryIO, tempfile.TemporaryFile())


def _check_head(head: bytes, name: str, *, any_type: bool, sealed: bool) -> None:
    if sealed and not head.startswith(MAGIC):
        raise NotSealed
    if not any_type and sniff(head[:HEAD]) is None:
        raise _not_an_image(shown(name))


def _not_an_image(quoted: str) -> NotAnImage:
    return NotAnImage(
        SkipReason.NOT_AN_IMAGE, f"{quoted} is not an image of a known type; give --any to encrypt it anyway"
    )


def _examined(path: str | Path, descriptor: int, *, any_type: bool, max_size: int, once_more: bool) -> SourceFile:
    """Takes the descriptor, and closes it where this raises. Raises CannotRead."""
    quoted = shown(str(path))
    with ExitStack() as on_failure:
        on_failure.callback(os.close, descriptor)
        try:
            found = os.fstat(descriptor)
        except OSError as error:
            raise cannot_read(path, error) from error
        if stat.S_ISDIR(found.st_mode):
            inside = shlex.quote(str(path).rstrip("/")) + "/*"
            raise CannotRead(f"{quoted} is a directory; for the files in it type {inside}")
        if not stat.S_ISREG(found.st_mode):
            raise CannotRead(f"{quoted} is not a regular file; give the path of an image")
        if found.st_size == 0:
            raise NotAnImage(SkipReason.EMPTY, f"{quoted} is empty")
        if found.st_size > max_size:
            size, limit = human_size(found.st_size), human_size(max_size)
            if size == limit:
                size, limit = f"{found.st_size} bytes", f"{max_size} bytes"
            raise CannotRead(
                f"{quoted} is too large: {size}, where {limit} are allowed; raise max_image_size in the configuration"
            )
        try:
            head = os.pread(descriptor, HEAD, 0)
        except OSError as error:
            raise cannot_read(path, error) from error
        image_type = sniff(head)
        if head.startswith(MAGIC) and not (any_type and once_more):
            raise NotAnImage(
                SkipReason.SEALED,
                f"{quoted} is sealed already: decrypt opens it; give --any to encrypt it again",
            )
        if image_type is None and not any_type:
            raise _not_an_image(quoted)
        if image_type is None and not once_more and is_encrypted_name(Path(path).name):  # a classic file has no mark
            raise NotAnImage(SkipReason.SEALED, f"{quoted} has an encrypted file's name: it is taken for one")
        source = SourceFile(path, descriptor, found, image_type)
        on_failure.pop_all()
        return source


def _meant(path: Path) -> str:
    """A hint at a file beside `path` with a similar name, or ''."""
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1, cutoff=0.75)
    except OSError:
        return ""
    return f"; did you mean {shown(str(path.with_name(close[0])))}?" if close else ""
