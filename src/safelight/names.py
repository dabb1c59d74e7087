"""Every rule about the names of users, files and images. Pure: nothing here looks at a disk.

A *user* name is part of keys and of paths, so it is plain ASCII. An *image* name belongs to a person:
Unicode, spaces and several dots are kept as they are. It is never normalised: 'é' in one code point and 'é'
in two are two names to Linux's file systems, and so they are here. A backslash is an ordinary character:
clients and nodes run on POSIX, where only '/' and NUL are special.

A name is refused if it could harm the next program that handles it: a path separator, a control character (a
terminal interprets it, a log breaks on it), bytes that are not UTF-8, and more bytes than a file's name may have.
Names that come over HTTP are refused; names of local files, which exist already, are repaired.
"""

import re
import unicodedata

from safelight.errors import SafelightError

NAME_MAX = 255  # bytes; <limits.h>, and what ext4, XFS, Btrfs, ZFS and APFS hold

_USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SEPARATOR_OR_CONTROL = re.compile(r"[/\x00-\x1f\x7f-\x9f]")  # general category Cc, and '/'
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # how Python shows bytes that are not UTF-8 (PEP 383)
_SUFFIX = re.compile(r"\.(?!(-[0-9]+)+\Z)[^.\s]{1,32}\Z")
"""'Dr. Smith' has no suffix, nor has a sentence with a dot in it, nor 'a.-2', which counts on from 'a.'."""
_ENCRYPTED = re.compile(r"encrypted_.*_[0-9]{10}(-[0-9]+)?(\.[^.\s]{1,32})?", re.DOTALL)
_COUNT = re.compile(r"(-[0-9]*)+\Z")
_STEM = 24  # characters: fewer than `counted` ever cuts a stem to
_NO_TYPE = {".sealed", ".encrypted", ".enc", ".bin"}
_SHOWN_MAX = 100  # characters of a name in a message


class InvalidName(SafelightError):
    """A name that breaks the rules; the message says which one."""


def check_user(name: str) -> str:
    """`name` itself, if it is 1 to 64 of a-z, 0-9, '.', '_' and '-' and begins with a letter or digit.

    Raises InvalidName.
    """
    if _USER.fullmatch(name):
        return name
    meant = name.strip().lower()
    hint = f"; did you mean '{meant}'?" if _USER.fullmatch(meant) else ""
    raise InvalidName(
        f"{shown(name)} cannot be a user name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
        f"beginning with a letter or a digit{hint}"
    )


def is_valid_unicode(name: str) -> bool:
    """Whether this is valid Unicode: it has no lone surrogates."""
    return _LONE_SURROGATE.search(name) is None


def check_image_name(name: str) -> str:
    """`name` itself, if an image may be kept under it: 1 to 255 bytes of UTF-8 that could name a file.

    Raises InvalidName for '', '.' and '..', and for a name with '/', control characters or lone surrogates.
    """
    if name in ("", ".", ".."):
        raise InvalidName(f"{shown(name)} cannot be an image name: give the name of a file")
    if not is_valid_unicode(name):
        raise InvalidName(f"{shown(name)} cannot be an image name: it is not valid UTF-8")
    if _SEPARATOR_OR_CONTROL.search(name):
        raise InvalidName(f"{shown(name)} cannot be an image name: it has a '/' or a control character in it")
    if (length := len(name.encode())) > NAME_MAX:
        raise InvalidName(f"{shown(name)} cannot be an image name: {length} bytes, where {NAME_MAX} are allowed")
    return name


def encrypted_name(original: str, timestamp: int, extension: str) -> str:
    """`encrypted_<name>_<timestamp>.<ext>` for the local file named `original`.

    <ext> is the original's own last suffix, or `extension` if it has none; with neither there is no '.<ext>'.
    A leading dot begins a name and not a suffix: '.png' gives 'encrypted_.png_<timestamp>.<extension>'.
    The result has at most 255 bytes (<name> gives way) and passes `check_image_name`.
    Different timestamps, in whole seconds, give different names.
    """
    name, suffix = _split(repaired(original))
    if not suffix and extension:
        suffix = f".{extension}"
    return _fit(f"encrypted_{name}", f"_{timestamp}{suffix}")


def is_encrypted_name(name: str) -> bool:
    """Whether `encrypted_name` gives such names, or they count on from one."""
    return _ENCRYPTED.fullmatch(name) is not None


def decrypted_name(sealed: str) -> str:
    """What to call the image that was opened from the sealed file named `sealed`.

    'encrypted_' becomes 'decrypted_'; a name without it gets 'decrypted_' in front. At most 255 bytes.
    """
    name, suffix = _split(repaired(sealed).removeprefix("encrypted_"))
    return _fit(f"decrypted_{name}", suffix)


def restored_name(original: str, otherwise: str) -> str:
    """What to call the file of an image whose original's name was `original`, as somebody else says.

    It is repaired, as a local name is, and a leading dot gives way too: only its owner puts a file into a
    directory that a shell or a program reads by its name, or that no listing shows. `otherwise`, repaired too, where
    nothing is left of it.
    """
    for name in (original, otherwise):
        whole = _fit(repaired(name), "")
        visible = f"_{whole[1:]}" if whole.startswith(".") else whole
        if visible.strip("_."):
            return visible
    return "image"


def with_type(name: str, extension: str) -> str:
    """`name` with `.extension`, if its own suffix says nothing of an image: if it has none, or '.sealed' and the like.

    Any other suffix is its owner's choice, and stays.
    """
    stem, suffix = _split(name)
    return name if suffix and suffix.lower() not in _NO_TYPE else _fit(stem, f".{extension}")


def counted(name: str, n: int) -> str:
    """The `n`-th name to try for an output: `name` itself, then 'photo-2.png', 'photo-3.png' and so on."""
    if n == 1:
        return name
    stem, suffix = _split(name)
    return _fit(stem, f"-{n}{suffix}")


def stem(name: str) -> str:
    """What `counted` leaves alike, on any file system: equal for names that count on from one another, or that differ
    in case or composition only. It may be equal for more.
    """
    begun, suffix = _split(unicodedata.normalize("NFC", name).casefold())
    return _COUNT.sub("", begun[:_STEM]) + suffix


def shown(name: str) -> str:
    """`name` for a message: quoted, on one line, control characters escaped, without the middle if long."""
    if len(name) > _SHOWN_MAX:
        half = _SHOWN_MAX // 2
        name = f"{name[:half]}…{name[-half:]}"
    return repr(name)


def repaired(local: str) -> str:
    """A local file's name, with '_' for each character that `check_image_name` would refuse."""
    return _LONE_SURROGATE.sub("_", _SEPARATOR_OR_CONTROL.sub("_", local))


def _split(name: str) -> tuple[str, str]:
    """('photo.final', '.png') for 'photo.final.png'; ('.png', '') for a name that only begins with a dot."""
    found = _SUFFIX.search(name)
    if found is None or not name[: found.start()].strip("."):
        return name, ""
    return name[: found.start()], found.group()


def _fit(stem: str, tail: str) -> str:
    """`stem` + `tail`, the stem cut between two characters where both together exceed NAME_MAX bytes."""
    room = NAME_MAX - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail
