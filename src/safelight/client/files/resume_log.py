"""The progress of each file of a directory upload, so that an interrupted run can resume.

    <client directory>/uploads/<cluster id>/<user>/<hash of the directory>      one JSON object a line, appended

A line is written before a file is first offered, with the name and the upload id that it gets; another before its
sealed file is put in place, with a tag by which that is known again; another after that. So a run that
follows a killed one uses the same upload id, and the vault, which may have the image already, stores it once. The
vault's listing is not enough for this: two files of one name, size and time in two directories are two images, and
there may be no vault. A lost log costs a repeated upload, nothing else: it is not synced, and a line that cannot be
written or read is ignored.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from safelight.client.files.source_file import CannotRead
from safelight.decoding import Malformed, decode
from safelight.encryption.sealed import MAX_HEADER_SIZE
from safelight.errors import reason
from safelight.names import shown
from safelight.wire.messages import Scheme


class Planned(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One file as it was, what is to be made of it, and how far that has come."""

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
        """Whether that is the sealed file which was made of it. Raises CannotRead."""
        try:
            with path.open("rb") as file:
                return bool(self.tag) and tag_of(file.fileno()) == self.tag
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise CannotRead(f"cannot read {shown(str(path))}: {reason(error)}") from error

    @property
    def key(self) -> tuple[object, ...]:
        return self.path, self.size, self.modified_ns, self.to, self.scheme, self.keep


class ResumeLogUnreadable(CannotRead):
    """Nobody knows what of the directory is done."""


class ResumeLog:
    """One directory's. What this process notes it finds again at once."""

    def __init__(self, file: Path) -> None:
        """Raises JournalUnreadable for one that is there and cannot be read: what is in it must not be done twice."""
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
                f"cannot read what earlier uploads have done, in {shlex.quote(str(file))}: {reason(error)}; "
                "remove it, and all of the directory is uploaded again"
            ) from error

    @classmethod
    def of(cls, client_dir: Path, cluster: str, user: str, directory: Path) -> ResumeLog:
        digest = hashlib.sha256(_text(directory).encode()).hexdigest()[:32]
        return cls(client_dir / "uploads" / cluster / user / digest)

    def find(self, planned: Planned) -> Planned | None:
        """What was noted of the same file, unchanged."""
        return self._planned.get(planned.key)

    def noting(self, planned: Planned, wanted: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same names and upload ids, each noted before it is used."""
        for name, upload in wanted:
            self._note(msgspec.structs.replace(planned, name=name, upload=upload))
            yield name, upload

    def made(self, planned: Planned, tag: str) -> None:
        """Its sealed file is complete, and about to get its name."""
        self._note(msgspec.structs.replace(self._planned[planned.key], tag=tag))

    def finished(self, planned: Planned, name: str, kept: bool) -> None:
        self._note(msgspec.structs.replace(self._planned[planned.key], name=name, done=True, kept=kept))

    def _note(self, planned: Planned) -> None:
        self._planned[planned.key] = planned
        line = b"\n" + msgspec.json.encode(planned) + b"\n"  # the first ends what a full disk may have cut
        with suppress(OSError):
            if self._descriptor is None:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._descriptor, line)

    def close(self) -> None:
        """Once nothing more is noted."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def tag_of(descriptor: int) -> str:
    """What tells a sealed or classic file from all others: its beginning is random."""
    return hashlib.sha256(os.pread(descriptor, MAX_HEADER_SIZE, 0)).hexdigest()[:32]


def _text(path: str | Path) -> str:
    """The absolute path, as JSON can hold it."""
    return os.fsencode(os.path.abspath(path)).decode(errors="backslashreplace")
