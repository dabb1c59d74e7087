"""Commands that are about many images: one bar, a line for each image, and at the end how many became what.

A failure keeps the rest from nothing, unless it is of a kind that will meet all of them: then the rest is left.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from safelight.cli.output.console import BulkItemFeedback, ConsoleReporter
from safelight.cli.user.discovery import (
    AT_ONCE,
    FoundFile,
    Item,
    SkippedEntry,
    UnreadableEntry,
    absolute,
    bounded_map,
    files,
)
from safelight.client.files.atomic_output import DiskFull, Identity
from safelight.client.files.lookalikes import Lookalikes
from safelight.client.files.resume_log import ResumeLogUnreadable
from safelight.client.files.source_file import NotAnImage, SkipReason
from safelight.client.requests.leader_search import NoLeader
from safelight.client.requests.reads import Meaning
from safelight.client.requests.retry_policy import policy
from safelight.client.session import AlreadyThere, Session
from safelight.client.transport.account import Disagreement, Unreachable
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.wire.messages import Kept, Problem, Refusal, Scheme

HOPELESS = (NoLeader, Unreachable, Disagreement, DiskFull, ResumeLogUnreadable)
"""What would meet every image alike, beside the refusals of which the retry policy says so. `AT_ONCE` of them without a
success in between, and the rest is left for another time.
"""

SKIPPED = "skipped"

_T = TypeVar("_T")


def hopeless(error: object) -> bool:
    """Whether other images would fail alike."""
    return isinstance(error, HOPELESS) or (isinstance(error, Refusal) and not policy(error).others)


class Result(NamedTuple):
    """What an image is to be counted as, `done` if it succeeded; what to say of it; the new file, if there is one.

    `skipped`: why, if it is not to be done at all. `note`: what of it could not be done as it ought to be.
    """

    what: str
    line: str = ""
    path: Path | None = None
    skipped: SkipReason | None = None
    note: str = ""


class _Run(ABC, Generic[_T]):
    """One command."""

    doing: str
    """What the bar says."""

    done: str
    """What the summary says of what succeeded."""

    def __init__(self, session: Session, transcript: ConsoleReporter) -> None:
        self._session, self._transcript = session, transcript
        self._many = transcript.many(self.doing)
        self._counts: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._untried = ""  # why what is left of the items was not tried

    @abstractmethod
    def items(self, words: Iterable[str]) -> AsyncIterator[_T]:
        """What is meant. Tells `_many` what to expect."""

    @abstractmethod
    async def work(self, item: _T) -> Result:
        """Do one. Raises SafelightError."""

    @abstractmethod
    def name(self, item: _T) -> str:
        """For lines about it."""

    async def run(self, words: Iterable[str]) -> bool:
        """Whether all succeeded. Ends with a summary, however it ends."""
        in_vain, left = 0, ""
        with self._many:
            try:
                async with aclosing(bounded_map(self.items(words), self._counted)) as results:
                    async for item, result in results:
                        if isinstance(result, SafelightError):
                            self._failed(self.name(item), result)
                        else:
                            self._tell(item, result)
                        if isinstance(result, Result) and result.what == self.done:
                            in_vain = 0
                        in_vain += hopeless(result)
                        if in_vain == AT_ONCE:
                            self._untried = str(result)
                            break
                left = f"; the rest was not tried: {self._untried}" if self._untried else ""
            except asyncio.CancelledError:
                left = "; stopped"
                raise
            finally:
                self._many.summary(self._summary() + left, noted=bool(self._skipped or left))
        return not self._counts["failed"]

    async def _counted(self, item: _T) -> Result:
        """Counted when it is done, told in its turn: who is stopped in between has done it all the same."""
        result = await self.work(item)
        self._counts[result.what] += 1
        if result.skipped:
            self._skipped[result.skipped] += 1
        return result

    def _tell(self, item: _T, result: Result) -> None:
        if result.skipped:
            self._many.note(f"skipped {self.name(item)}: {result.skipped.one}")
        if result.note:
            self._many.note(f"{self.name(item)}: {result.note}")
        if result.line:
            self._many.line(f"✓ {result.line}", "green")
        if result.path is not None:
            self._transcript.made(result.path)

    def _failed(self, name: str, error: SafelightError) -> None:
        self._counts["failed"] += 1
        self._many.failed(str(error) if shown(name) in str(error) else f"{name}: {error}")

    def _summary(self) -> str:
        rest = [
            f"{count} {what}{self._reasons() if what == SKIPPED else ''}"
            for what, count in sorted(self._counts.items())
            if what not in (self.done, "failed")
        ]
        return ", ".join([f"{self._counts[self.done]} {self.done}", *rest, f"{self._counts['failed']} failed"])

    def _reasons(self) -> str:
        counted = (f"{count} {why.one if count == 1 else why.several}" for why, count in self._skipped.most_common())
        return f" ({', '.join(counted)})"


class Upload(_Run[Item]):
    """Files, and all images in directories. Of a directory, what an earlier run has done is not done again; a file
    that is named is always uploaded.
    """

    doing, done = "uploading", "done"

    def __init__(
        self,
        session: Session,
        transcript: ConsoleReporter,
        to: Path,
        scheme: Scheme,
        any_type: bool,
        *,
        keep: bool,
        follow_links: bool,
    ) -> None:
        super().__init__(session, transcript)
        self._to, self._scheme, self._any_type, self._keep = to, scheme, any_type, keep
        self._follow_links = follow_links
        self._lacking = False  # the vault has not kept every image

    async def items(self, words: Iterable[str]) -> AsyncIterator[Item]:
        words = list(words)
        found = await asyncio.to_thread(files, words, to=self._to, follow_links=self._follow_links)
        if all(isinstance(item, SkippedEntry) for item in found):
            self._many.line(f"nothing to upload: no visible file is in {' or '.join(map(shown, words))}", "yellow")
        self._many.expect(len(found), sum(item.size for item in found if isinstance(item, FoundFile)))
        for item in found:
            yield item

    async def work(self, item: Item) -> Result:
        feedback = BulkItemFeedback(self._many, item.size if isinstance(item, FoundFile) else 0)
        try:
            if isinstance(item, UnreadableEntry):
                raise item.error
            if isinstance(item, SkippedEntry):
                return Result(SKIPPED, skipped=item.reason)
            return await self._upload(item, feedback)
        finally:
            feedback.settled()

    async def _upload(self, item: FoundFile, feedback: BulkItemFeedback) -> Result:
        path, root = item.path, absolute(item.root) if item.root is not None else None
        how: Any = {"to": self._to, "scheme": self._scheme, "any_type": self._any_type, "keep": self._keep}
        try:
            if root is not None and await self._session.sealed_before(path, root, **how):
                return Result("done before")
            saved = await self._session.seal(path, **how, journal=root, feedback=feedback)
        except NotAnImage as error:
            if root is None:
                raise
            return Result(SKIPPED, skipped=error.reason)
        self._lacking |= not saved.kept
        return Result(self.done, f"{path} → {saved.path} (server {saved.node})", saved.path, note=saved.note)

    def name(self, item: Item) -> str:
        return item.path

    def _summary(self) -> str:
        kept = " and kept in the vault" if self._counts[self.done] and not self._lacking else ""
        return super()._summary().replace(f" {self.done}", f" {self.done}{kept}", 1)


class Get(_Run[Kept]):
    """Images of the vault. Those whose files are there already, of their size and time, are skipped."""

    doing, done = "downloading", "done"

    def __init__(
        self,
        session: Session,
        transcript: ConsoleReporter,
        to: Path,
        *,
        sealed: bool,
        force: bool,
        known: Mapping[str, Meaning] | None = None,
    ) -> None:
        """`known`: words whose meaning has been looked up before."""
        super().__init__(session, transcript)
        self._known = known or {}
        self._to, self._sealed, self._force = to, sealed, force
        self._among: set[Identity] = set()
        self._lookalikes: Lookalikes | None = None

    async def items(self, words: Iterable[str]) -> AsyncIterator[Kept]:
        left = list(words)
        while left:
            word = left.pop(0)
            try:
                meaning = self._known.get(word) or await self._session.images.meant(word)
                if self._lookalikes is None and not (self._force or self._sealed):
                    self._lookalikes = await self._session.lookalikes()
                async for image in meaning.images:
                    self._many.expect(1, image.size)
                    yield image
            except SafelightError as error:
                self._failed(word, error)
                if hopeless(error) and left:
                    self._untried = str(error)
                    return

    async def work(self, item: Kept) -> Result:
        feedback = BulkItemFeedback(self._many, item.size)
        try:
            saved = await self._session.fetch(
                item, to=self._to, sealed=self._sealed, force=self._force, among=self._among,
                lookalikes=self._lookalikes, progress=feedback.progress,
            )  # fmt: skip
        except AlreadyThere:
            return Result("there already")
        finally:
            feedback.settled()
        return Result(self.done, f"{item.name} → {saved.path} (server {saved.node})", saved.path, note=saved.note)

    def name(self, item: Kept) -> str:
        return item.name


class Remove(_Run[str]):
    """Images of the vault, by their names."""

    doing, done = "removing", "removed"

    async def items(self, words: Iterable[str]) -> AsyncIterator[str]:
        for name in words:
            self._many.expect(1, 0)
            yield name

    async def work(self, item: str) -> Result:
        feedback = BulkItemFeedback(self._many, 0)
        try:
            node = await self._session.remove(item, feedback=feedback)
        except Refusal as refusal:
            if refusal.problem is not Problem.NOT_FOUND:
                raise
            return Result("gone already")  # somebody else has removed it since we looked
        finally:
            feedback.settled()
        return Result(self.done, f"{item} removed (server {node})")

    def name(self, item: str) -> str:
        return item
