"""Read and change a directory tree that others may write to, without ever leaving it.

Three rules hold for every path that the directory store touches:

- **Beneath the root, no link is followed.** Each directory on the way is opened relative to the one above it (`dir_fd`,
  O_NOFOLLOW), and the last step is relative to the last directory. So what is read, created or deleted is always in
  this tree, even if another process replaces a part of the path at any moment. Anything under a key that is not a
  regular file of the vault's owner is a `BadObject`: neither read nor treated as absent. (openat2(2) with
  RESOLVE_BENEATH does the same; Python does not have it, and keys have three parts.)

- **The guard identifies the root.** A path may lead to another directory at any moment: a file system is unmounted, a
  directory moved, its contents deleted. So each operation opens the root once, and it must be the one that was last
  checked: the same device and inode, with the same guard, an object with a known content. If one of them differs, the
  guard's content is read again; if that differs, too, the store is unavailable. A root without a guard is pinned to its
  first directory. Before anything is acknowledged or reported missing, the path must still lead to the root that was
  opened: an operation in a directory that was moved aside has failed.

- **The tree is one file system.** A directory with another device is refused: a mount on a part of the vault could be
  unmounted while the guard stays.

All functions block, and raise OSError unless they state another error.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safelight.errors import reason
from safelight.vault.stores.base import BadObject, StoreError

MAX_DEPTH = 8
"""Levels of directories that a walk enters; keys have three parts."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # opening a FIFO would block

# Errors of open(2) for something that is not a file or directory of the store.
_NOT_OURS = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES}

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class Found(NamedTuple):
    """An entry of a walk: its path below the root, the descriptor of its directory, its lstat(2), and in words what is
    wrong if it is not an object.
    """

    path: str
    directory: int
    state: os.stat_result
    wrong: str


class Root:
    """A root's path, and its state when it was last checked. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = 0
        """Changes when the root was another one for a time and was checked again: caches of its contents are void then.
        """
        self._guard: tuple[str, bytes] | None = None
        self._checked: tuple[int, ...] | None = None
        self._lock = threading.Lock()

    def guard(self, name: str, data: bytes) -> None:
        """From now on the root is the one in which the object `name` has this content."""
        with self._lock:
            self._guard, self._checked = (name, data), None

    @contextmanager
    def opened(self) -> Iterator[Tree]:
        """The tree, for one operation. Raises StoreError if it is not the checked one."""
        tree = self.open()
        try:
            yield tree
        finally:
            tree.close()

    def open(self) -> Tree:
        """As `opened`; the caller closes it."""
        tree = Tree(os.open(self.path, _DIRECTORY))
        try:
            self.check(tree)
        except BaseException:
            tree.close()
            raise
        return tree

    def check(self, tree: Tree) -> None:
        """Make sure that an opened tree is still the checked one. Raises StoreError.

        Do it again before a change is acknowledged or anything is reported missing: the path may lead to another tree
        by then.
        """
        guard = self._guard
        seen = tree.signature(guard[0] if guard else None)
        if not tree.is_at(self.path):  # what is done in it is lost
            raise StoreError(f"the vault {self.path} was moved or replaced while it was in use: try again")
        if seen == self._checked:
            tree.identity = self.identity
            return
        with self._lock:
            if guard is None:
                if self._checked is None:
                    self._checked = seen
                elif seen != self._checked:
                    raise StoreError(
                        f"{self.path} is another directory than before: mount the earlier one, or move it back"
                    )
            elif seen != self._checked:
                self._checked = None
                if wrong := _wrong_guard(tree, *guard):
                    raise StoreError(
                        f"the vault {self.path} is not there ({wrong}): mount it, or restore it from a backup; "
                        "until then nothing is written"
                    )
                self._checked = seen
                self.identity += 1
            tree.identity = self.identity


class Tree:
    """One opened root, and the directories below it that one operation needs. Not thread-safe."""

    def __init__(self, root: int) -> None:
        """`root`: a descriptor, which the tree owns from now on."""
        self.root = root
        self.identity = 0
        """The root's identity when this tree was last checked."""
        state = state_of(root)
        self._itself = state.st_dev, state.st_ino
        self._owners = {state.st_uid, os.geteuid()}
        self._directories: dict[str, int] = {}

    def close(self) -> None:
        """Release all descriptors. No effect the second time."""
        opened, self._directories = [*self._directories.values()], {}
        if self.root >= 0:
            opened.append(self.root)
            self.root = -1
        for descriptor in opened:
            os.close(descriptor)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this directory now."""
        there = os.stat(path)
        return (there.st_dev, there.st_ino) == self._itself

    def signature(self, name: str | None) -> tuple[int, ...]:
        """Identifies this directory and the file of its object `name`, as they are now."""
        if name is None:
            return self._itself
        try:
            guard = os.stat(name, dir_fd=self.root, follow_symlinks=False)
        except FileNotFoundError:
            return self._itself
        return *self._itself, guard.st_dev, guard.st_ino, guard.st_size, guard.st_mtime_ns, guard.st_ctime_ns

    def directory(self, path: str) -> int:
        """The descriptor of a directory below the root ("" is the root), owned by the tree. Raises BadObject, and
        StoreError for another file system.
        """
        if not path:
            return self.root
        descriptor = self._directories.get(path)
        if descriptor is None:
            above, name = self._step(path)
            try:
                descriptor = self._enter(name, above, path)
            except OSError as error:
                raise self._explained(error, path, above, directory=True) from None
            self._directories[path] = descriptor
        return descriptor

    def open(self, path: str) -> int:
        """A descriptor of an object, for reading. Raises BadObject."""
        above, name = self._step(path)
        try:
            descriptor = os.open(name, _FILE, dir_fd=above)
        except OSError as error:
            raise self._explained(error, path, above, directory=False) from None
        if wrong := self.wrong(state_of(descriptor)):
            os.close(descriptor)
            raise _bad(path, wrong)
        return descriptor

    def state(self, path: str) -> os.stat_result:
        """lstat(2) of an object. Raises BadObject."""
        above, name = self._step(path)
        state = os.stat(name, dir_fd=above, follow_symlinks=False)
        if wrong := self.wrong(state):
            raise _bad(path, wrong)
        return state

    def wrong(self, state: os.stat_result) -> str:
        """Why a file is not an object, in words; empty if it is one."""
        if not stat.S_ISREG(state.st_mode):
            return f"is {_KINDS.get(stat.S_IFMT(state.st_mode), 'no file')}"
        return "" if state.st_uid in self._owners else f"belongs to another account ({state.st_uid})"

    def walk(self, path: str, inside: re.Pattern[str]) -> Iterator[Found]:
        """Everything below a directory; for directories whose names match `inside`, their contents.

        What vanishes meanwhile is omitted. A directory that cannot be opened or is too deep is an entry itself. Raises
        as `directory`.
        """
        return self._walk(self.directory(path), f"{path}/" if path else "", inside, MAX_DEPTH)

    def _walk(self, directory: int, prefix: str, inside: re.Pattern[str], depth: int) -> Iterator[Found]:
        with os.scandir(directory) as entries:
            for entry in entries:
                path = prefix + entry.name
                try:
                    state = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(state.st_mode):
                        yield Found(path, directory, state, self.wrong(state))
                        continue
                    if not inside.fullmatch(entry.name):
                        continue
                    if not depth:
                        yield Found(path, directory, state, "is a directory where none belongs")
                        continue
                    below = self._enter(entry.name, directory, path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in _NOT_OURS:
                        raise
                    yield Found(path, directory, state, f"is a directory that cannot be opened ({reason(error)})")
                    continue
                try:
                    yield from self._walk(below, path + "/", inside, depth - 1)
                finally:
                    os.close(below)

    def _enter(self, name: str, above: int, path: str) -> int:
        """Open a directory. Raises StoreError if it is another file system, which could come and go undetected.

        Files are not checked: on overlayfs they may have another device than their directory.
        """
        descriptor = os.open(name, _BENEATH, dir_fd=above)
        if state_of(descriptor).st_dev != self._itself[0]:
            os.close(descriptor)
            raise StoreError(
                f"the vault's directory {path} is another file system: mount the whole vault, not a part of it"
            )
        return descriptor

    def _step(self, path: str) -> tuple[int, str]:
        """The descriptor of the directory that contains the last part of a path, and that part."""
        above, _, name = path.rpartition("/")
        return self.directory(above), name

    def _explained(self, error: OSError, path: str, above: int, *, directory: bool) -> OSError | BadObject:
        """The error for something that could not be opened: it may exist, and not belong to the store."""
        if error.errno not in _NOT_OURS:
            return error
        try:
            state = os.stat(path.rpartition("/")[2], dir_fd=above, follow_symlinks=False)
        except OSError:
            return error
        if not directory or not stat.S_ISDIR(state.st_mode):
            wrong = self.wrong(state) or ("is a file where a directory belongs" if directory else "")
        else:
            wrong = "" if state.st_uid in self._owners else f"belongs to another account ({state.st_uid})"
        if not wrong and error.errno == errno.EACCES:
            return error
        return _bad(path, wrong or "was replaced while it was read")


def state_of(descriptor: int) -> os.stat_result:
    """fstat(2) of a new descriptor, which is closed if that fails."""
    try:
        return os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _bad(path: str, wrong: str) -> BadObject:
    return BadObject(f"{path} is not an object of the vault: it {wrong}")


def _wrong_guard(tree: Tree, name: str, data: bytes) -> str:
    """Why a tree's guard does not have this content, in words; empty if it does."""
    try:
        descriptor = tree.open(name)
    except FileNotFoundError:
        return f"there is no object {name!r} in it, which identifies it"
    except BadObject as error:
        return str(error)
    with open(descriptor, "rb", buffering=0) as file:
        return "" if file.read(len(data) + 1) == data else f"its object {name!r} names another cluster"
