"""A directory tree that others may write to, read and changed without ever leaving it.

Three rules, which hold for every path that the store in a directory touches:

- **Beneath the root, no link is followed.** Each directory on the way is opened by itself, relative to the one above it
  (`dir_fd`, O_NOFOLLOW), and the last step is relative to the last directory. So whatever another puts in the place
  of a part of the path, at whatever moment, what is read, made or deleted is in this tree. What lies under a key and
  is no plain file of the vault's owner is a `BadObject`: neither read nor taken for absent. (openat2(2) with
  RESOLVE_BENEATH would do the same; Python does not have it, and keys have three parts.)

- **A root rests on its guard.** A path may lead to another directory at any moment: a file system is unmounted, a
  directory moved, its contents deleted. So the root is opened once for each operation, and what is opened must be what
  was last checked: the same device and inode, and in it the same guard, an object with a known content. If one of
  them differs, the guard's content is read again; if that differs, too, the store is unavailable. A root without a
  guard is pinned to the directory that it was at first. Before anything is acknowledged, or said to be missing, the
  path must still lead to the root that was opened: what is done in a directory that was moved away counts as not done.

- **Below the root there is one file system.** A directory with another device is refused: what is mounted on a part of
  the vault could be unmounted, and the guard would still be there.

All functions block, and raise OSError where they say nothing else.
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
"""Directories below each other that a walk goes down; keys have three parts."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # opening a FIFO would block

# What open(2) answers for what is no file or directory of ours, though something is there.
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
    """Something that a walk came to: its path below the root, the descriptor of its directory, lstat(2) of it, and
    what is wrong with it if it is no object, in words.
    """

    path: str
    directory: int
    state: os.stat_result
    wrong: str


class Root:
    """A root's path, and what it was when it was last checked. For any number of threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = 0
        """Changes whenever the root was not what it had been, and was checked again: what was remembered of its
        contents is to be forgotten then.
        """
        self._guard: tuple[str, bytes] | None = None
        self._checked: tuple[int, ...] | None = None
        self._lock = threading.Lock()

    def guard(self, name: str, data: bytes) -> None:
        """From now on, the root is the one in which the object `name` has this content."""
        with self._lock:
            self._guard, self._checked = (name, data), None

    @contextmanager
    def opened(self) -> Iterator[Tree]:
        """The tree, for one operation. Raises StoreError if it is not the one that it was."""
        tree = self.open()
        try:
            yield tree
        finally:
            tree.close()

    def open(self) -> Tree:
        """As `opened`; to be closed."""
        tree = Tree(os.open(self.path, _DIRECTORY))
        try:
            self.check(tree)
        except BaseException:
            tree.close()
            raise
        return tree

    def check(self, tree: Tree) -> None:
        """Make sure that an opened tree is still what it was. Raises StoreError.

        To be done again before a change is acknowledged, and before anything is said to be missing: also the path may
        lead to another tree by then.
        """
        guard = self._guard
        seen = tree.signature(guard[0] if guard else None)
        if not tree.is_at(self.path):  # whatever is done in it, nobody finds it any more
            raise StoreError(f"the vault {self.path} was moved or exchanged while it was in use: try again")
        if seen == self._checked:
            tree.identity = self.identity
            return
        with self._lock:
            if guard is None:
                if self._checked is None:
                    self._checked = seen
                elif seen != self._checked:
                    raise StoreError(
                        f"{self.path} is another directory than it was: mount or move back the one that was there"
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
    """One opened root, and the directories below it that one operation needs. For one thread at a time."""

    def __init__(self, root: int) -> None:
        """`root`: a descriptor, which is the tree's own from now on."""
        self.root = root
        self.identity = 0
        """The root's when this tree was last checked."""
        state = state_of(root)
        self._itself = state.st_dev, state.st_ino
        self._owners = {state.st_uid, os.geteuid()}
        self._directories: dict[str, int] = {}

    def close(self) -> None:
        """Harmless a second time."""
        opened, self._directories = [*self._directories.values()], {}
        if self.root >= 0:
            opened.append(self.root)
            self.root = -1
        for descriptor in opened:
            os.close(descriptor)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this very directory now."""
        there = os.stat(path)
        return (there.st_dev, there.st_ino) == self._itself

    def signature(self, name: str | None) -> tuple[int, ...]:
        """Which directory this is, and which file is its object `name`, as it is now."""
        if name is None:
            return self._itself
        try:
            guard = os.stat(name, dir_fd=self.root, follow_symlinks=False)
        except FileNotFoundError:
            return self._itself
        return *self._itself, guard.st_dev, guard.st_ino, guard.st_size, guard.st_mtime_ns, guard.st_ctime_ns

    def directory(self, path: str) -> int:
        """The descriptor of a directory below the root ("" is the root), which stays the tree's. Raises BadObject,
        and StoreError for another file system.
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
        """A descriptor of an object, for reading. Raises BadObject for what is none."""
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
        """lstat(2) of an object. Raises BadObject for what is none."""
        above, name = self._step(path)
        state = os.stat(name, dir_fd=above, follow_symlinks=False)
        if wrong := self.wrong(state):
            raise _bad(path, wrong)
        return state

    def wrong(self, state: os.stat_result) -> str:
        """What is wrong with a file as an object, in words; empty if nothing is."""
        if not stat.S_ISREG(state.st_mode):
            return f"is {_KINDS.get(stat.S_IFMT(state.st_mode), 'no file')}"
        return "" if state.st_uid in self._owners else f"belongs to another account ({state.st_uid})"

    def walk(self, path: str, inside: re.Pattern[str]) -> Iterator[Found]:
        """Everything below a directory, but directories with such names: what is in those. What vanishes meanwhile is
        left out; a directory that cannot be opened, or lies too deep, is found as itself. Raises as `directory`.
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
        """Open a directory. Raises StoreError if it is another file system's: that could come and go unseen.

        Files are not asked: on an overlay (overlayfs) they may have another device than their directory.
        """
        descriptor = os.open(name, _BENEATH, dir_fd=above)
        if state_of(descriptor).st_dev != self._itself[0]:
            os.close(descriptor)
            raise StoreError(
                f"the vault's directory {path} is another file system: mount the whole vault, not a part of it"
            )
        return descriptor

    def _step(self, path: str) -> tuple[int, str]:
        """The descriptor of the directory in which the last part of a path is, and that part."""
        above, _, name = path.rpartition("/")
        return self.directory(above), name

    def _explained(self, error: OSError, path: str, above: int, *, directory: bool) -> OSError | BadObject:
        """What it means that something could not be opened: it may be there, and be none of ours."""
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
        return _bad(path, wrong or "was exchanged while it was looked at")


def state_of(descriptor: int) -> os.stat_result:
    """fstat(2) of what was just opened, which is closed if that fails."""
    try:
        return os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _bad(path: str, wrong: str) -> BadObject:
    return BadObject(f"{path} is not an object of the vault: it {wrong}")


def _wrong_guard(tree: Tree, name: str, data: bytes) -> str:
    """What is wrong with the guard in a tree; empty if it has this content."""
    try:
        descriptor = tree.open(name)
    except FileNotFoundError:
        return f"there is no object {name!r} in it, which says whose it is"
    except BadObject as error:
        return str(error)
    with open(descriptor, "rb", buffering=0) as file:
        return "" if file.read(len(data) + 1) == data else f"its object {name!r} says that it is another's"
