"""Many at a time: several under way, told in the order in which they were asked for; and which files are meant."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from safelight.client.files.source_file import CannotRead, SkipReason
from safelight.errors import SafelightError, reason
from safelight.names import shown

AT_ONCE = 8
"""Files under way: a node encrypts one while another is read from the disk and a third is synced."""

AHEAD = 16 * AT_ONCE
"""Files that may be finished, or waiting, behind one that takes long."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_Identity = tuple[int, int]


async def bounded_map(
    items: AsyncIterator[_T], work: Callable[[_T], Awaitable[_R]]
) -> AsyncGenerator[tuple[_T, _R | SafelightError]]:
    """Each item with what `work` made of it, or why it failed. To be closed (`aclose`) if not read to its end: then
    what is under way is stopped.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: _T) -> _R | SafelightError:
        async with room:
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
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)


class FoundFile(NamedTuple):
    """One file to upload: its size in bytes, and the directory that was named in its place, if one was."""

    path: str
    size: int
    root: str | None


class SkippedEntry(NamedTuple):
    """What is in a directory that was named, and is not to be uploaded."""

    path: str
    reason: SkipReason


class UnreadableEntry(NamedTuple):
    """What cannot be examined, so that nobody knows whether it is meant."""

    path: str
    error: CannotRead


Item = FoundFile | SkippedEntry | UnreadableEntry


def files(paths: Iterable[str], *, to: Path, follow_links: bool) -> list[Item]:
    """The files that are meant: those named, and those in the directories named, at any depth; and what is left out.

    Hidden files and what is in the directory `to`, where the outputs go, are left out. A directory behind a symbolic
    link is entered with `follow_links` only. No directory is entered twice, whichever ways lead to it: so a link cannot
    lead round in a circle. Only what vanishes meanwhile is neither here nor an error.
    """
    walk, found = _Walk(to, follow_links), list[Item]()
    named = [(path, _stat(path)) for path in paths]
    roots = walk.claim(status for _, status in named if status)
    for path, status in named:
        if status is None or not stat.S_ISDIR(status.st_mode):
            found.append(FoundFile(path, status.st_size if status else 0, None))
        elif _identity(status) in roots:
            roots.remove(_identity(status))
            found += walk.inside(path)
        else:
            found.append(SkippedEntry(path, SkipReason.ENTERED))
    return found


class _Walk:
    """Directories entered one after the other, each once: identified by device and inode."""

    def __init__(self, to: Path, follow_links: bool) -> None:
        self._output = {_identity(status)} if (status := _stat(to)) else set()
        self._follow_links = follow_links
        self._entered: set[_Identity] = set()

    def claim(self, directories: Iterable[os.stat_result]) -> set[_Identity]:
        """It is entered only if it was named as one of these."""
        claimed = {_identity(each) for each in directories if stat.S_ISDIR(each.st_mode)}
        self._entered |= claimed
        return claimed

    def inside(self, root: str) -> Iterator[Item]:
        """What is behind links comes last: a directory that also has a path without a link is entered by that."""
        folders, linked = [root], deque[tuple[str, _Identity]]()
        while folders or linked:
            if not folders:
                link, identity = linked.popleft()
                if identity in self._entered:
                    yield SkippedEntry(link, SkipReason.ENTERED)
                    continue
                self._entered.add(identity)
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

    def _item(self, path: str, root: str, folders: list[str], linked: deque[tuple[str, _Identity]]) -> Item | None:
        """One entry of a directory; a directory that may be entered goes to one of the two."""
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
        if _identity(found) in self._output:
            return SkippedEntry(path, SkipReason.OUTPUT)
        if is_link and not self._follow_links:
            return SkippedEntry(path, SkipReason.LINK)
        if is_link:
            linked.append((path, _identity(found)))
        elif _identity(found) in self._entered:
            return SkippedEntry(path, SkipReason.ENTERED)
        else:
            self._entered.add(_identity(found))
            folders.append(path)
        return None


def _names(folder: str) -> tuple[list[str], OSError | None]:
    """The names in a directory, in order, and what kept it from being read to its end."""
    names = list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
    except OSError as error:
        return sorted(names), error
    return sorted(names), None


def _unread(path: str, error: OSError) -> UnreadableEntry:
    return UnreadableEntry(path, CannotRead(f"cannot read {shown(path)}: {reason(error)}"))


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _stat(path: str | Path) -> os.stat_result | None:
    """None where it cannot be examined: opened as a file, it says why."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def is_directory(path: str) -> bool:
    status = _stat(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def absolute(root: str) -> Path:
    return Path(os.path.abspath(root))
