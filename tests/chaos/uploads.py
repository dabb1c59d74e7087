"""A stream of uploads, from a process of its own, and what became of each.

Several sessions in each process, several processes in a test: they contend for the same names in one directory, as
people who share it do. No two originals are alike, so a file that holds another's image does not go unnoticed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from safelight import samples
from safelight.client.requests.feedback import NullFeedback
from safelight.client.session import Session
from safelight.config import Config
from safelight.errors import SafelightError
from tests.mission.support import MEBIBYTE, contents
from tests.running import GENEROUS, as_user

SMALL, LARGE, HOW_OFTEN = 20_000, 8 * MEBIBYTE, 0.2
"""Bytes at most of most images, and of this share of them: such a body takes long enough to be cut in its middle."""

PAUSE = 0.1
"""Seconds at most between a session's uploads: a fast machine is not to make more than it can check afterwards."""

UPLOADS = 20
"""Uploads of one session, until another takes its place, with new connections."""


@dataclass(frozen=True)
class Outcome:
    """How one upload ended: with a sealed file and the node that made it, or with an error."""

    original: Path
    sealed: Path | None = None
    node: int = 0
    error: str = ""
    clear: bool = True
    """Whether the error is one that is meant for people, a SafelightError."""


class Stream:
    """Uploads, one after the other in each session, from the beginning of a `with` block to its end.

    Leaving the block lets each session finish what it has begun.
    """

    def __init__(self, config: Config, originals: Path, images: Path, *, sessions: int = 2) -> None:
        self._changed = threading.Condition()
        self._outcomes: list[Outcome] = []
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_upload, args=(config, originals, images, sessions, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._reader = threading.Thread(target=self._read, daemon=True)

    @property
    def outcomes(self) -> list[Outcome]:
        with self._changed:
            return list(self._outcomes)

    def wait_for_an_upload(self, by: Callable[[int], bool]) -> None:
        """Return when, from now on, an upload has been acknowledged by a node of which `by` holds."""
        with self._changed:
            start = len(self._outcomes)
            assert self._changed.wait_for(
                lambda: any(each.sealed and by(each.node) for each in self._outcomes[start:]), GENEROUS
            ), f"no such upload came; the last outcomes were {self._outcomes[-5:]}"

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._ours.send("stop")
                self._process.join(2 * GENEROUS)
                assert self._process.exitcode == 0, "an upload did not come to an end"
        finally:
            self._process.kill()
            self._process.join()
            self._reader.join()
            self._ours.close()

    def _read(self) -> None:
        while True:
            try:
                outcome = self._ours.recv()
            except (EOFError, OSError):
                return
            with self._changed:
                self._outcomes.append(outcome)
                self._changed.notify_all()


def _upload(config: Config, originals: Path, images: Path, sessions: int, report: Connection) -> None:
    """The process: its life is the stream's, and it does not outlive whoever listens to it."""

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(report.fileno(), stop.set)
        await asyncio.gather(*(one_after_the_other(originals / str(number), stop) for number in range(sessions)))

    async def one_after_the_other(directory: Path, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            async with Session(config, "alice") as session:
                for _ in range(UPLOADS):
                    if stop.is_set():
                        return
                    number += 1
                    report.send(await one(session, _image(directory / str(number))))
                    await asyncio.sleep(random.uniform(0.0, PAUSE))

    async def one(session: Session, original: Path) -> Outcome:
        try:
            saved = await session.seal(original, to=images, feedback=NullFeedback())
        except SafelightError as error:
            return Outcome(original, error=str(error))
        except Exception:
            return Outcome(original, error=traceback.format_exc(), clear=False)
        return Outcome(original, saved.path, saved.node)

    asyncio.run(main())


def _image(directory: Path) -> Path:
    directory.mkdir(parents=True)
    path = directory / "cat.png"
    size = LARGE if random.random() < HOW_OFTEN else SMALL
    path.write_bytes(samples.path("lighthouse.png").read_bytes()[:1024] + random.randbytes(random.randrange(size)))
    return path


def check(config: Config, outcomes: Iterable[Outcome], images: Path, opened: Path) -> list[Outcome]:
    """Every acknowledged upload has a file of its own that opens to its original; nothing else is there.

    Returns the uploads that failed, each with a clear error.
    """
    outcomes = list(outcomes)
    unclear = [outcome.error for outcome in outcomes if not outcome.clear]
    assert not unclear, f"{len(unclear)} uploads ended in what nobody can read, such as\n{unclear[0]}"
    acknowledged = [outcome for outcome in outcomes if outcome.sealed]
    assert contents(images) == sorted(outcome.sealed.name for outcome in acknowledged if outcome.sealed)

    async def open_all(session: Session) -> None:
        await asyncio.gather(*(open_some(session, opened / str(part), acknowledged[part::8]) for part in range(8)))

    async def open_some(session: Session, to: Path, some: list[Outcome]) -> None:
        for outcome in some:
            assert outcome.sealed is not None
            image = (await session.open(outcome.sealed, to=to, feedback=NullFeedback())).path
            assert image.read_bytes() == outcome.original.read_bytes(), f"{outcome.sealed} is another image"
            image.unlink()

    as_user(config, "alice", open_all)
    return [outcome for outcome in outcomes if not outcome.sealed]
