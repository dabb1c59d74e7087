"""Many at a time: several under way, told in the order in which they were asked for; and which files are meant."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from safelight.errors import SafelightError

AT_ONCE = 8
"""Files under way: a node encrypts one while another is read from the disk and a third is synced."""

AHEAD = 16 * AT_ONCE
"""Files that may be finished, or waiting, behind one that takes long."""

_T = TypeVar("_T")
_R = TypeVar("_R")


async def several(
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


class File(NamedTuple):
    """One file to upload: its size in bytes, and the directory that was named in its place, if one was."""

    path: str
    size: int
    root: str | None


def files(paths: Iterable[str]) -> list[File]:
    """The files that are meant: those named, and those in the directories named, at any depth, but for hidden ones.

    A directory behind a symlink is not entered: it may lead round in a circle. What cannot be read is here all the
    same, for whoever opens it to say why.
    """
    return [file for path in paths for file in ([*_inside(path)] if is_directory(path) else [_file(path, None)])]


def _inside(root: str) -> Iterator[File]:
    def unreadable(error: OSError) -> None:
        trouble.append(str(error.filename))

    trouble: list[str] = []
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and (os.path.isfile(path) or os.path.islink(path)):
                yield _file(path, root)
    yield from (File(path, 0, None) for path in trouble)  # a directory: opened as a file, it says what is wrong


def _file(path: str, root: str | None) -> File:
    try:
        return File(path, os.stat(path).st_size, root)
    except OSError:
        return File(path, 0, root)


def is_directory(path: str) -> bool:
    return os.path.isdir(path)


def absolute(root: str) -> Path:
    return Path(os.path.abspath(root))
