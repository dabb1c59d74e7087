"""A store in a directory: every object is a file, and its key is the file's path below the root.

A file is written under a hidden name (`.<random>.part`, which is not a key) in its own directory, synced, and then
*linked* to its name: a link, unlike a rename, fails if the name is taken, which makes it the arbiter of `create`. After
the directory is synced, too, the object is durable. So a file with a name is whole and on the disk; only the name
itself may not be durable yet (`ensure_durable`). A crash leaves at most a hidden file, which `tidy` removes.

A file system without hard links (FAT, some network shares) is refused. The substitute in `PartFile.move_if_absent`, an
empty file that takes the name first, would leave an incomplete object permanently after a crash in that moment.

Removals must work on a full disk, and a removal is an object, too. So nodes keep some files in reserve (`.spare-N`
below the root), each with an inode and a block. If there is no space, a tombstone is written into one of them, which is
then linked like any other file. No other writer that waits for space can take what is already in use.

`beneath` resolves paths, and checks that the root is still the vault.

Every system call that touches the disk runs in a thread, even the quick ones: on a network file system or a failing
disk none is quick. The threads belong to the store, so a disk that hangs blocks no other work.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

from safelight.encryption.stream import Bytes
from safelight.errors import reason
from safelight.runtime.atomic_file import NoHardLinks, PartFile, hidden_name, sync_directory
from safelight.runtime.sendfile import FileBody
from safelight.runtime.tasks import shielded
from safelight.vault.stores.base import (
    KEY,
    MAX_SMALL,
    SPARE,
    BadObject,
    Body,
    Entry,
    Missing,
    StoreError,
    StoreFull,
    check_prefix,
    check_small,
    checked_key,
)
from safelight.vault.stores.beneath import Found, Root, Tree, state_of

CHUNK = 1 << 20
"""Bytes that are read at a time, and that a body gathers in memory before it writes them: a body that is smaller
costs one call in a thread."""

THREADS = 16
"""More than processors: they wait for the disk, and one journal commit of the file system serves all that wait."""

BATCH = 1000
"""Entries of a listing that are in memory at a time."""

LEFT_OVER = 3600.0
"""Seconds without a write to a hidden file after which its writer counts as dead. If it is not, it fails cleanly: it
finds no file to link."""

_FILES = 4  # inodes of one upload, with its directories
_SPARES = [f".spare-{number}" for number in range(16)]
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
_REMEDY = {
    errno.EACCES: "let the user that runs Safelight own it",
    errno.EPERM: "let the user that runs Safelight own it",
    errno.EROFS: "mount it writable",
    errno.ENOTDIR: "remove what is in its place",
}

_T = TypeVar("_T")


class DirectoryStore:
    """A `Store` of regular files, 0600 in directories 0700. No key may be a path prefix of another: `a` and `a/b`.

    Any number of processes may use one directory at the same time. The root must exist: see `make`. A bad key is a
    ValueError. Without a `guard` the root must stay the same directory.
    """

    def __init__(self, path: Path) -> None:
        self._files = _Files(path)
        self._threads = ThreadPoolExecutor(THREADS, "vault")

    @staticmethod
    def make(path: Path) -> None:
        """Create the root (0700, durable) unless it exists. Blocks. Raises StoreError.

        It does not create the parent: if that is missing, a disk is probably not mounted.
        """
        try:
            with suppress(FileExistsError):
                path.mkdir(0o700)
            sync_directory(path.parent)
            os.scandir(path).close()
        except FileNotFoundError as error:
            raise StoreError(f"cannot make the vault {path}: {path.parent} is missing; mount or create it") from error
        except OSError as error:
            raise _store_error(path, error) from error

    @property
    def identity(self) -> int:
        return self._files.root.identity

    def guard(self, key: str, data: bytes) -> None:
        self._files.root.guard(checked_key(key), data)

    async def room(self) -> int:
        return await self._run(self._files.room)

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        check_small(data)
        return await self._run(partial(self._files.create, checked_key(key), data, reserve=reserve))

    async def fill_reserve(self) -> None:
        """Fill the reserve, for objects that must fit on a full disk, as far as there is space now.

        Nodes call it once. Deletions refill what was used.
        """
        await self._run(self._files.fill_reserve)

    async def get(self, key: str) -> bytes:
        return await self._run(self._files.get, checked_key(key))

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return await self._run(self._files.get_many, [checked_key(key) for key in keys])

    async def body(self, key: str) -> _DirectoryBody:
        return _DirectoryBody(self._files, checked_key(key), self._run, self._threads)

    async def create_with_body(self, body: Body, key: str, data: bytes) -> bool:
        """In one thread: handing work to a thread costs more than the work."""
        assert isinstance(body, _DirectoryBody)
        check_small(data)
        return await body.finish_and(partial(self._files.create_in, checked_key(key), data))

    async def size(self, key: str) -> int:
        return await self._run(self._files.size, checked_key(key))

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """As in `Store`, but an object that is deleted meanwhile is still read to its end."""
        reader = _Reader(self._files, checked_key(key))
        try:
            while chunk := await self._run(reader.read, max(0, min(CHUNK, end - start)), start):
                yield chunk
                start += len(chunk)
        finally:
            self._threads.submit(reader.close)  # not awaited, so that neither cancellation nor a slow disk delays it

    def file(self, key: str) -> FileBody | None:
        checked_key(key)

        def open_it() -> int:
            try:
                return self._files.open(key)
            except OSError as error:
                raise _store_error(self._files.root.path, error) from error

        return FileBody(open_it, self._threads)

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        check_prefix(prefix)
        found = self._files.objects(prefix)  # not closed here: a thread may still use it after a cancellation
        while batch := await self._run(_next_of, found):
            for entry in batch:
                yield entry

    async def delete(self, key: str) -> None:
        await self._run(self._files.delete, checked_key(key))

    async def ensure_durable(self, key: str) -> None:
        await self._run(self._files.ensure_durable, checked_key(key))

    async def tidy(self) -> int:
        """Delete the half-written files that crashes left; return their number. Raises StoreError.

        Writers may continue: hidden files written to within the last hour stay.
        """
        return await self._run(self._files.tidy)

    async def close(self) -> None:
        """No effect: idle threads end with the last reference to the store."""

    async def _run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Run `work` in a thread. If the caller is cancelled, it runs to its end there, or never starts."""

        def done() -> _T:
            try:
                return work(*arguments)
            except OSError as error:
                raise _store_error(self._files.root.path, error) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, done)


def read_from(root: Path, key: str) -> bytes:
    """The content of a small object of a directory store. Blocks. Raises Missing, BadObject and StoreError."""
    try:
        return _Files(root).get(checked_key(key))
    except OSError as error:
        raise _store_error(root, error) from error


class _State(Enum):
    """How far a body is."""

    OPEN = auto()  # everything that was handed over is in the file
    INCOMPLETE = auto()  # bytes are on the way: if the call fails or is cancelled, they are lost
    FINISHED = auto()  # it is an object; a record may name it, even if the call fails
    ABANDONED = auto()


class _DirectoryBody:
    """A `Body` that becomes a part file at its first mebibyte.

    The lock admits one thread at a time: a cancelled task leaves a thread running, and its descriptor must not be
    closed and reused meanwhile. The body holds the root and the directory in which it was started, so all of it stays
    there.
    """

    def __init__(
        self, files: _Files, key: str, run: Callable[..., Awaitable[bool]], threads: ThreadPoolExecutor
    ) -> None:
        self._files = files
        self._key = key
        self._run = run
        self._threads = threads
        self._gathered: list[Bytes] = []
        self._size = 0  # of `_gathered`
        self._writing: asyncio.Task[bool] | None = None
        self._state = _State.OPEN
        self._lock = threading.Lock()  # for what follows, and for threads that read or change the state
        self._tree: Tree | None = None
        self._part: _Part | None = None

    async def write(self, pieces: Sequence[Bytes]) -> None:
        self._gathered += pieces
        self._size += sum(map(len, pieces))
        if self._size >= CHUNK:
            await self._written()
            self._writing = asyncio.create_task(self._hand_over(self._write))

    async def finish(self) -> None:
        await self.finish_and(None)

    async def finish_and(self, create: Callable[[Tree], bool] | None) -> bool:
        """Make it an object, and then, in the same thread, the one that names it. What `create` returns."""
        await self._written()
        made = await self._hand_over(partial(self._finish, create))
        self._state = _State.FINISHED
        self._threads.submit(self._release)
        return made

    async def _written(self) -> None:
        """Wait for the write that runs while the next mebibyte is gathered. Raises its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def abandon(self) -> None:
        self._gathered.clear()
        if self._writing is not None:
            self._writing.cancel()  # the thread may still write: it has the lock that `_release` waits for
            await asyncio.gather(self._writing, return_exceptions=True)
        done = self._threads.submit(self._release)
        await shielded(asyncio.wrap_future(done))  # done also if its waiter is cancelled

    async def _hand_over(self, work: Callable[[Sequence[Bytes]], bool]) -> bool:
        if self._state is not _State.OPEN:
            raise ValueError("a part of this body is lost: it can only be abandoned")
        pieces, self._gathered, self._size = self._gathered, [], 0
        self._state = _State.INCOMPLETE
        done = await self._run(work, pieces)
        self._state = _State.OPEN
        return done

    # -- in threads ----------------------------------------------------------------------------------

    def _write(self, pieces: Sequence[Bytes]) -> bool:
        with self._lock:
            self._opened().write(pieces)
        return True

    def _finish(self, create: Callable[[Tree], bool] | None, pieces: Sequence[Bytes]) -> bool:
        with self._lock:
            part = self._opened()
            if not part.publish(pieces):
                raise StoreError(f"{self._key} exists already, and was left as it is: try again")
            if create is None:
                return True
            self._state = _State.FINISHED
            return create(part.tree)

    def _opened(self) -> _Part:
        if self._state is _State.ABANDONED:
            raise OSError(errno.EBADF, "abandoned")
        if self._part is None:
            self._tree = self._tree or self._files.root.open()
            self._part = _Part(self._files, self._tree, self._key)
        return self._part

    def _release(self) -> None:
        """Close everything, and delete the file unless a record may name it. No effect a second time."""
        with self._lock, suppress(OSError):
            kept = self._state is _State.FINISHED
            self._state = _State.FINISHED if kept else _State.ABANDONED
            part, self._part = self._part, None
            try:
                if part is not None:
                    part.discard() if kept else part.take_back()
            finally:
                if self._tree is not None:
                    self._tree.close()


# Everything below runs in threads, and raises OSError.


class _Files:
    """The objects below a root."""

    def __init__(self, root: Path) -> None:
        self.root = Root(root)
        self._durable: dict[str, int] = {}
        """Directories whose names are known to be durable, two for each user, and for which identity of the root."""
        self._spent = False  # whether a part of the reserve was used

    def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        with self.root.opened() as tree:
            try:
                return self.create_in(key, data, tree)
            except OSError as error:
                if not reserve or error.errno not in _FULL:
                    raise
                return self.create_in(key, data, tree, _Spare)

    def create_in(self, key: str, data: bytes, tree: Tree, kind: type[_Part] | None = None) -> bool:
        """As `create`, in an open tree."""
        part = (kind or _Part)(self, tree, key)
        try:
            return part.publish([data])
        finally:
            part.discard()

    def room(self) -> int:
        with self.root.opened() as tree:
            return _room(tree.root)

    def fill_reserve(self) -> None:
        with self.root.opened() as tree:
            self._fill_reserve(tree)

    def _fill_reserve(self, tree: Tree) -> None:
        self._spent = False
        for name in _SPARES:
            try:
                with PartFile.create(name, tree.root) as spare:
                    _allocate(spare.descriptor, SPARE)
                    spare.close()
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._spent = True
                return

    def take_spare(self, tree: Tree) -> PartFile:
        """Rename a file of the reserve, so that no other writer takes it.

        Raises OSError (ENOSPC) if there is none.
        """
        name = hidden_name()
        for spare in _SPARES:
            try:
                os.rename(spare, name, src_dir_fd=tree.root, dst_dir_fd=tree.root)
                self._spent = True
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, dir_fd=tree.root)
            except FileNotFoundError:
                continue
            except OSError:  # a link or the like: do not write into it
                os.unlink(name, dir_fd=tree.root)
                continue
            state, part = state_of(descriptor), PartFile(descriptor, name, tree.root)
            if state.st_nlink == 1 and not tree.wrong(state):
                return part
            part.discard()
        self._spent = True  # also by other processes: deletions refill it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def get(self, key: str) -> bytes:
        with self.root.opened() as tree:
            return self._get(tree, key)

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        found = []
        for _, together in groupby(keys, key=_parent):  # open a directory once for all its objects
            with self.root.opened() as tree:
                found += [self._get(tree, key) for key in together]
        return found

    def _get(self, tree: Tree, key: str) -> bytes:
        with open(self._found(tree, tree.open, key), "rb", buffering=0) as file:
            data = file.read(MAX_SMALL + 1)
        if len(data) > MAX_SMALL:
            raise BadObject(f"{key} is larger than any object of this kind: restore it from a backup")
        return data

    def open(self, key: str) -> int:
        """A descriptor for reading. Raises Missing."""
        with self.root.opened() as tree:
            return self._found(tree, tree.open, key)

    def size(self, key: str) -> int:
        with self.root.opened() as tree:
            return self._found(tree, tree.state, key).st_size

    def _found(self, tree: Tree, look: Callable[[str], _T], key: str) -> _T:
        try:
            return look(key)
        except FileNotFoundError:
            self.root.check(tree)
            raise Missing(key) from None

    def delete(self, key: str) -> None:
        with self.root.opened() as tree:
            try:
                directory = tree.directory(_parent(key))
            except FileNotFoundError:
                self.root.check(tree)
                return
            try:
                os.unlink(_name(key), dir_fd=directory)
            except FileNotFoundError:
                pass
            except (IsADirectoryError, PermissionError):  # the second on macOS
                tree.state(key)
                raise
            sync_directory(directory)  # in any case: another process that deleted it may not have synced yet
            self.root.check(tree)
            if self._spent:
                self._fill_reserve(tree)

    def ensure_durable(self, key: str) -> None:
        with self.root.opened() as tree:
            try:
                directory = self.directory(tree, _parent(key))
                tree.state(key)
            except FileNotFoundError:
                self.root.check(tree)
                raise BadObject(f"{key} existed, and is gone: restore it from a backup") from None
            sync_directory(directory)
            self.root.check(tree)

    def directory(self, tree: Tree, path: str, *, make: bool = False) -> int:
        """The descriptor of a directory whose name, and every name between it and the root, is durable.

        Another process that created them may not have synced yet; once is enough. With `make`, missing ones are
        created.
        """
        if not path:
            return tree.root
        above, durable = self.directory(tree, _parent(path), make=make), self._durable.get(path) == tree.identity
        try:
            descriptor = tree.directory(path)
        except FileNotFoundError:
            if not make:
                raise
            self.root.check(tree)  # or directories would be created in a place that is no longer the vault
            durable = False
            with suppress(FileExistsError):
                os.mkdir(_name(path), 0o700, dir_fd=above)
            descriptor = tree.directory(path)
        if not durable:
            sync_directory(above)
            self._durable[path] = tree.identity
        return descriptor

    def walk(self, prefix: str) -> Iterator[Found]:
        """Everything below a prefix, hidden files included; what vanishes meanwhile is omitted."""
        with self.root.opened() as tree:
            try:
                found = tree.walk(prefix.rstrip("/"), KEY)
            except FileNotFoundError:
                pass
            else:
                yield from found
            self.root.check(tree)

    def objects(self, prefix: str) -> Iterator[Entry]:
        for path, _, state, wrong in self.walk(prefix):
            if KEY.fullmatch(path):
                yield Entry(path, state.st_size, state.st_mtime, f"it {wrong}" if wrong else "")

    def tidy(self) -> int:
        removed = 0
        for path, directory, state, wrong in self.walk(""):
            if _PART.fullmatch(_name(path)) and not wrong and state.st_mtime < time.time() - LEFT_OVER:
                with suppress(FileNotFoundError):
                    os.unlink(_name(path), dir_fd=directory)
                    removed += 1
        return removed


class _Part:
    """A file in an open tree that is being written under its hidden name. For one thread at a time."""

    def __init__(self, files: _Files, tree: Tree, key: str) -> None:
        self.tree = tree
        self._files = files
        self._key = key
        self._linked = False
        self._directory = files.directory(tree, _parent(key), make=True)
        self._file = self._create()

    def _create(self) -> PartFile:
        return PartFile.create(hidden_name(), self._directory)

    def write(self, pieces: Sequence[Bytes]) -> None:
        self._file.write(pieces)

    def publish(self, pieces: Sequence[Bytes]) -> bool:
        """Write the last pieces and give the file its name, durably; False if the name is taken, durably as well."""
        self._file.write(pieces)
        self._file.sync()
        try:
            self._link()
            self._linked = True
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._files.root.check(self.tree)
            raise StoreError(f"{self._key} was removed while it was written: try again") from None
        except NoHardLinks as error:
            raise StoreError(
                f"cannot use the vault {self._files.root.path}: its file system has no hard links; "
                "choose another directory"
            ) from error
        self._file.discard()
        sync_directory(self._directory)
        self._files.root.check(self.tree)
        return self._linked

    def _link(self) -> None:
        self._file.link(_name(self._key), self._directory)

    def discard(self) -> None:
        """Delete the hidden file. No effect after `publish`."""
        with suppress(OSError):
            self._file.discard()

    def take_back(self) -> None:
        """Delete the file under both names."""
        self.discard()
        if self._linked:
            os.unlink(_name(self._key), dir_fd=self._directory)


class _Spare(_Part):
    """A part in a file of the reserve: it already has an inode and a block, which no other writer can take."""

    def _create(self) -> PartFile:
        return self._files.take_spare(self.tree)

    def publish(self, pieces: Sequence[Bytes]) -> bool:
        os.ftruncate(self._file.descriptor, sum(map(len, pieces)))
        return super().publish(pieces)

    def _link(self) -> None:
        """The directory may need another block for the name; a second file of the reserve frees one."""
        try:
            super()._link()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._files.take_spare(self.tree).discard()
            super()._link()


class _Reader:
    """An object that is being read, by one thread at a time: see `_Part`."""

    def __init__(self, files: _Files, key: str) -> None:
        self._files = files
        self._key = key
        self._lock = threading.Lock()
        self._descriptor = -1
        self._over = False

    def read(self, size: int, offset: int) -> bytes:
        """Raises Missing."""
        with self._lock:
            if self._over:
                raise OSError(errno.EBADF, "closed")
            if self._descriptor < 0:
                self._descriptor = self._files.open(self._key)
            return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        with self._lock:
            self._over = True
            if self._descriptor >= 0:
                os.close(self._descriptor)  # may be the last reference to a large deleted file, and slow
            self._descriptor = -1


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _next_of(found: Iterator[_T]) -> Sequence[_T]:
    return list(islice(found, BATCH))


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.write(descriptor, bytes(size))
        os.fsync(descriptor)


def _room(root: int | Path) -> int:
    """Free space in bytes; 0 if there are too few inodes for one upload."""
    state = os.statvfs(root)
    return 0 if state.f_files and state.f_favail < _FILES else state.f_bavail * state.f_frsize


def _store_error(root: Path, error: OSError) -> StoreError:
    number = error.errno or 0
    if full := _FULL.get(number):
        free = None
        if number == errno.ENOSPC:  # statvfs does not show what a quota leaves
            with suppress(OSError):
                free = _room(root)
        return StoreFull(f"cannot write to the vault {root}: {full}; make room and try again", free)
    if number == errno.ENOENT:
        return StoreError(
            f"the vault {root} is missing: mount it, or restore it from a backup; "
            "no new one is created, because that would hide a loss"
        )
    return StoreError(f"cannot use the vault {root}: {reason(error)}; {_REMEDY.get(number, 'check its disk')}")
