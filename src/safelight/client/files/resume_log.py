"""The resume log: which files of a directory are uploaded, so that an interrupted run can continue.

    <client directory>/uploads/<cluster id>/<user>/<hash of the directory>      one JSON object a line, appended

Each file gets up to three lines: before it is first offered, with its name and upload id; before its sealed file is
put in place, with a tag that identifies that file; and when it is done. A run that is killed at any point continues
under the same upload id, and the vault keeps the image once. The vault's listing is not enough: files with one name,
size and time in two folders are two images, and `--no-keep` leaves nothing in the vault. A lost log costs a second
upload, nothing else. So it is not synced, and a line that cannot be written or parsed is ignored.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from safelight.client.files.source_file import CannotRead, cannot_read
from safelight.decoding import Malformed, decode
from safelight.encryption.sealed import MAX_HEADER_SIZE
from safelight.errors import reason
from safelight.wire.messages import Scheme


class Planned(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One file as it was, what it becomes, and how far that is."""

    path: str
    size: int
    modified_ns: int
    to: str
    scheme: Scheme
    keep: bool
    name: str = ""
    upload: str = ""
    tag: str = ""
    done: bool = False
    kept: bool = False

    @classmethod
    def of(cls, path: str | Path, size: int, modified_ns: int, to: Path, scheme: Scheme, keep: bool) -> Planned:
        return cls(path=_text(path), size=size, modified_ns=modified_ns, to=_text(to), scheme=scheme, keep=keep)

    def is_at(self, path: Path) -> bool:
        """Whether `path` is the sealed file that this upload wrote. Raises CannotRead."""
        try:
            with path.open("rb") as file:
                return bool(self.tag) and tag_of(file.fileno()) == self.tag
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise cannot_read(path, error) from error

    @property
    def key(self) -> tuple[object, ...]:
        return self.path, self.size, self.modified_ns, self.to, self.scheme, self.keep


class ResumeLogUnreadable(CannotRead):
    """The log exists and cannot be read, so it is unknown which files are done."""


class ResumeLog:
    """The log of one directory. A line that this process writes counts at once."""

    def __init__(self, file: Path) -> None:
        """Raises ResumeLogUnreadable: uploading everything again would store images twice."""
        self._file = file
        self._descriptor: int | None = None
        self._planned: dict[tuple[object, ...], Planned] = {}
        try:
            with file.open("rb") as lines:
                for line in lines:
                    with suppress(Malformed):
                        planned = decode(line, Planned)
                        self._planned[planned.key] = planned
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ResumeLogUnreadable(
                f"cannot read the log of earlier uploads, {shlex.quote(str(file))}: {reason(error)}; "
                "remove it to upload the whole directory again"
            ) from error

    @classmethod
    def of(cls, client_dir: Path, cluster: str, user: str, directory: Path) -> ResumeLog:
        digest = hashlib.sha256(_text(directory).encode()).hexdigest()[:32]
        return cls(client_dir / "uploads" / cluster / user / digest)

    def find(self, planned: Planned) -> Planned | None:
        """The entry of the same file, unchanged since."""
        return self._planned.get(planned.key)

    def noting(self, planned: Planned, wanted: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same names and upload ids, each logged before it is used."""
        for name, upload in wanted:
            self._note(msgspec.structs.replace(planned, name=name, upload=upload))
            yield name, upload

    def made(self, planned: Planned, tag: str) -> None:
        """Log that the sealed file is complete, before it gets its name."""
        self._note(msgspec.structs.replace(self._planned[planned.key], tag=tag))

    def finished(self, planned: Planned, name: str, kept: bool) -> None:
        self._note(msgspec.structs.replace(self._planned[planned.key], name=name, done=True, kept=kept))

    def _note(self, planned: Planned) -> None:
        self._planned[planned.key] = planned
        line = b"\n" + msgspec.json.encode(planned) + b"\n"  # the first ends a line that a full disk cut off
        with suppress(OSError):
            if self._descriptor is None:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def tag_of(descriptor: int) -> str:
    """Identifies a sealed or classic file: its first bytes are random."""
    return hashlib.sha256(os.pread(descriptor, MAX_HEADER_SIZE, 0)).hexdigest()[:32]


def _text(path: str | Path) -> str:
    """The absolute path, escaped where it is not UTF-8."""
    return os.fsencode(os.path.abspath(path)).decode(errors="backslashreplace")
