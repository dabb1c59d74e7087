"""What a file contains, as far as that shows without a key and without a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelight.client.files.source_file import CannotRead, open_image
from safelight.encryption.errors import CannotOpen, Damaged, NotSealed
from safelight.encryption.sealed import MAX_HEADER_SIZE, read_header
from safelight.names import shown
from safelight.sizes import human_size

_ANY_SIZE = (1 << 63) - 1


@dataclass(frozen=True)
class FileInfo:
    """A file of `size` bytes. Only a sealed file has the fields that follow `type`."""

    kind: Literal["sealed", "image", "unknown"]
    size: int
    type: str | None = None
    """An image's type, such as "PNG"."""
    version: int | None = None
    user: str | None = None
    key_id: str | None = None
    file_id: str | None = None
    image_size: int | None = None
    """Bytes; None if no sealed file has this length."""

    @property
    def intact(self) -> bool:
        """Whether a sealed file has a possible length. Only decryption shows whether its content is intact."""
        return self.kind != "sealed" or self.image_size is not None

    def lines(self) -> list[tuple[str, str]]:
        """Names and values for a person."""
        if self.kind == "image":
            return [("what", f"an image ({self.type}), not encrypted"), ("size", _size(self.size))]
        if self.kind == "unknown":
            what = "neither a sealed file nor an image of a known type; a classic file looks like that"
            return [("what", what), ("size", _size(self.size))]
        wrong = "no sealed file has this length: a part is missing, or something was added"
        return [
            ("what", f"a sealed file, format version {self.version}"),
            ("user", self.user or ""),
            ("key id", self.key_id or ""),
            ("file id", self.file_id or ""),
            ("size", _size(self.size)),
            ("image size", wrong if self.image_size is None else _size(self.image_size)),
        ]


def describe(path: str | Path) -> FileInfo:
    """Describe the file at `path`. Raises CannotRead, CannotOpen."""
    with open_image(path, any_type=True, max_size=_ANY_SIZE) as source:
        size = source.size
        try:
            header = read_header(next(source.chunks(MAX_HEADER_SIZE)))
        except NotSealed:
            return FileInfo("image" if source.type else "unknown", size, source.type.name if source.type else None)
        except Damaged:
            raise CannotRead(f"{shown(str(path))} is a sealed file with a damaged header: get it again") from None
    try:
        image_size = header.plain_size(size)
    except CannotOpen:
        image_size = None
    return FileInfo("sealed", size, None, header.version, header.user, header.key_id, header.file_id, image_size)


def _size(size: int) -> str:
    return f"{size:,} bytes" + (f" ({human_size(size)})" if size >= 1024 else "")
