"""What a file says of itself without a key, and without a cluster."""

from pathlib import Path

from safelight.client.files.source_file import CannotRead, open_image
from safelight.encryption.errors import CannotOpen, Damaged, NotSealed
from safelight.encryption.sealed import MAX_HEADER_SIZE, Header, read_header
from safelight.names import shown
from safelight.sizes import human_size

Fact = tuple[str, str]

NEVER_TOO_LARGE = (1 << 63) - 1


def describe(path: str | Path) -> tuple[list[Fact], bool]:
    """Name and value of each fact, and whether nothing is wrong with the file. Raises CannotRead, CannotOpen."""
    with open_image(path, any_type=True, max_size=NEVER_TOO_LARGE) as source:
        file_size = source.size
        beginning = next(source.chunks(MAX_HEADER_SIZE))
        try:
            header = read_header(beginning)
        except NotSealed:
            return [("what", _plain(source.type.name if source.type else "")), _size("size", file_size)], True
        except Damaged:
            raise CannotRead(f"{shown(str(path))} is a sealed file with a damaged header: get it again") from None
    facts = [
        ("what", f"a sealed file, format version {header.version}"),
        ("user", header.user),
        ("key id", header.key_id),
        ("file id", header.file_id),
        _size("size", file_size),
    ]
    return _with_image_size(facts, header, file_size)


def _with_image_size(facts: list[Fact], header: Header, file_size: int) -> tuple[list[Fact], bool]:
    try:
        return [*facts, _size("image size", header.plain_size(file_size))], True
    except CannotOpen:
        wrong = "no sealed file has this length: it is not all there, or something was added"
        return [*facts, ("image size", wrong)], False


def _plain(image_type: str) -> str:
    if image_type:
        return f"an image ({image_type}), not encrypted"
    return "neither a sealed file nor an image of a known type; a classic file looks like that"


def _size(what: str, size: int) -> Fact:
    return what, f"{size:,} bytes" + (f" ({human_size(size)})" if size >= 1024 else "")
