"""Which files a bulk run is about, and how it processes several at a time, with results in the order of the items."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from safelight.client.files.atomic_output import Identity, identity
from safelight.client.files.source_file import CannotRead, SkipReason, cannot_read
from safelight.errors import SafelightError
from safelight.runtime.tasks import cancel

AT_ONCE = 8
"""Files in progress: a node encrypts one while the client reads another and syncs a third."""

AHEAD = 16 * AT_ONCE
"""Files that may be finished or waiting behind a slow one."""

_T = TypeVar("_T")
_R = TypeVar("_R")


async def bounded_map(
    items: AsyncIterator[_T], work: Callable[[_T], Awaitable[_R]]
) -> AsyncGenerator[tuple[_T, _R | SafelightError]]:
    """Each item with its result, or with the error that `work` raised. Close it (`aclose`) if you do not exhaust it:
    that cancels the items in progress.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: _T) -> _R | SafelightError:
        async with slots:
            try:
                return await work(item)
            except SafelightError as error:
                return error

    tasks: deque[tuple[_T, asyncio.Task[_R | SafelightError]]] = deque()
    try:
        async for item in items:
            tasks.append((item, asyncio.create_task(one(item))))
            while tasks and (len(tasks) >= AHEAD or tasks[0][1].done()):
                yield tasks[0][0], await tasks[0][1]
                tasks.popleft()
        while tasks:
            yield tasks[0][0], await tasks[0][1]
            tasks.popleft()
    finally:
        await cancel(*(task for _, task in tasks))


class FoundFile(NamedTuple):
    """A file to upload: its size in bytes, and the directory in which it was found, if it was not named itself."""

    path: str
    size: int
    root: str | None


class SkippedEntry(NamedTuple):
    """An entry of a directory that is not uploaded."""

    path: str
    reason: SkipReason


class UnreadableEntry(NamedTuple):
    """An entry that cannot be examined, so it may or may not be an image."""

    path: str
    error: CannotRead


Item = FoundFile | SkippedEntry | UnreadableEntry


def files(paths: Iterable[str], *, to: Path, follow_links: bool) -> list[Item]:
    """The files named, those in the directories named at any depth, and every entry that is skipped.

    Hidden files and the directory `to`, which receives the outputs, are skipped. A directory behind a symbolic link is
    entered with `follow_links` only. No directory is entered twice, so a cycle of links ends. An entry that disappears
    in the meantime is neither listed nor an error.
    """
    walk, found = _Walk(to, follow_links), list[Item]()
    named = [(path, _stat(path)) for path in paths]
    roots = walk.claim(status for _, status in named if status)
    for path, status in named:
        if status is None or not stat.S_ISDIR(status.st_mode):
            found.append(FoundFile(path, status.st_size if status else 0, None))
        elif identity(status) in roots:
            roots.remove(identity(status))
            found += walk.inside(path)
        else:
            found.append(SkippedEntry(path, SkipReason.ENTERED))
    return found


class _Walk:
    """Enters each directory once; device and inode identify it."""

    def __init__(self, to: Path, follow_links: bool) -> None:
        self._output = {identity(status)} if (status := _stat(to)) else set()
        self._follow_links = follow_links
        self._entered: set[Identity] = set()

    def claim(self, directories: Iterable[os.stat_result]) -> set[Identity]:
        """Mark directories that were named: a walk that reaches one on another path does not enter it."""
        claimed = {identity(each) for each in directories if stat.S_ISDIR(each.st_mode)}
        self._entered |= claimed
        return claimed

    def inside(self, root: str) -> Iterator[Item]:
        """Links come last, so a directory that also has a path without a link is entered on that path."""
        folders, linked = [root], deque[tuple[str, Identity]]()
        while folders or linked:
            if not folders:
                link, directory = linked.popleft()
                if directory in self._entered:
                    yield SkippedEntry(link, SkipReason.ENTERED)
                    continue
                self._entered.add(directory)
                folders.append(link)
            folder = folders.pop()
            inner = list[str]()
            names, problem = _names(folder)
            for name in names:
                path = os.path.join(folder, name)
                item = self._item(path, root, inner, linked)
                if item is not None:
                    yield item
            if problem is not None and not (isinstance(problem, FileNotFoundError) and folder != root):
                yield _unread(folder, problem)
            folders += reversed(inner)

    def _item(self, path: str, root: str, folders: list[str], linked: deque[tuple[str, Identity]]) -> Item | None:
        """One entry of a directory. A directory to enter is added to `folders` or `linked` instead."""
        if os.path.basename(path).startswith("."):
            return SkippedEntry(path, SkipReason.HIDDEN)
        is_link = False
        try:
            found = os.lstat(path)
            if is_link := stat.S_ISLNK(found.st_mode):
                found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return SkippedEntry(path, SkipReason.BROKEN) if is_link else None
        except OSError as error:
            return _unread(path, error)
        if stat.S_ISREG(found.st_mode):
            return FoundFile(path, found.st_size, root)
        if not stat.S_ISDIR(found.st_mode):
            return SkippedEntry(path, SkipReason.SPECIAL)
        if identity(found) in self._output:
            return SkippedEntry(path, SkipReason.OUTPUT)
        if is_link and not self._follow_links:
            return SkippedEntry(path, SkipReason.LINK)
        if is_link:
            linked.append((path, identity(found)))
        elif identity(found) in self._entered:
            return SkippedEntry(path, SkipReason.ENTERED)
        else:
            self._entered.add(identity(found))
            folders.append(path)
        return None


def _names(folder: str) -> tuple[list[str], OSError | None]:
    """The names in a directory, sorted, and the error that ended the listing early, if any."""
    names = list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
    except OSError as error:
        return sorted(names), error
    return sorted(names), None


def _unread(path: str, error: OSError) -> UnreadableEntry:
    return UnreadableEntry(path, cannot_read(path, error))


def _stat(path: str | Path) -> os.stat_result | None:
    """None if the file cannot be examined; opening it reports the reason."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def is_directory(path: str) -> bool:
    """Whether a directory is there that can be examined."""
    status = _stat(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def size_of(path: str) -> int:
    """Bytes; 0 if the file cannot be examined."""
    status = _stat(path)
    return status.st_size if status is not None else 0


def absolute(root: str) -> Path:
    """The path from the root directory, links unresolved."""
    return Path(os.path.abspath(root))
