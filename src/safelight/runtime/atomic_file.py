"""Files that appear whole or not at all, and are on the disk when a call returns.

A file is written under a name of its own in the same directory, synced, and then given its real name in
one step: by `link` where it must not replace another, by `rename` where it must. All functions raise OSError.
"""

import errno
import os
import secrets
from pathlib import Path

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def create_once(path: Path, data: bytes) -> bool:
    """Make `path` (mode 0600) with `data`, unless it exists: then leave it and return False.

    Durable either way: the process that created it may have died before it synced the directory.
    """
    part = _written_beside(path, data)
    try:
        link_if_absent(part, path)
        made = True
    except FileExistsError:
        os.unlink(part)
        made = False
    except BaseException:
        os.unlink(part)
        raise
    sync_directory(path.parent)
    return made


def replace(path: Path, data: bytes, *, part: Path | None = None) -> None:
    """Make or replace `path` (mode 0600) with `data`; written first as `part`, in the same directory, which is not
    there yet (None: under a name of its own).
    """
    part = _written_beside(path, data, part)
    try:
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
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


def link_if_absent(temporary: Path, final: Path) -> None:
    """Move `temporary` to `final` in the same directory, atomically, unless `final` exists.

    Raises FileExistsError (then `temporary` is still there), or another OSError.

    FAT and some network file systems have no hard links. There an empty file takes the name first (O_EXCL:
    only one process can make it), and the finished one is renamed over it. Nothing is overwritten there
    either; but for a moment others see the empty file, and a crash in that moment leaves it.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            temporary.replace(final)
        except BaseException:
            final.unlink()
            raise
    else:
        temporary.unlink()


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


def _written_beside(path: Path, data: bytes, part: Path | None = None) -> Path:
    part = part or path.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(part)
        raise
    return part
