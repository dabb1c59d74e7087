"""Bulk runs: commands about many images, with one bar, a line for each image and a summary.

One failure does not stop a run, unless it would affect every image.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
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
    size_of,
)
from safelight.cli.user.history import History
from safelight.client.files.atomic_output import DiskFull, Identity
from safelight.client.files.lookalikes import Lookalikes
from safelight.client.files.resume_log import ResumeLogUnreadable
from safelight.client.files.source_file import NotAnImage, SkipReason
from safelight.client.requests.leader_search import NoLeader
from safelight.client.requests.reads import Meaning
from safelight.client.requests.retry_policy import policy
from safelight.client.session import AlreadyThere, Saved, Session
from safelight.client.transport.account import Disagreement, Unreachable
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.wire.messages import Kept, Problem, Refusal, Scheme

HOPELESS = (NoLeader, Unreachable, Disagreement, DiskFull, ResumeLogUnreadable)
"""Errors that would affect every image, beside refusals that the retry policy lists."""

Entry = dict[str, Any]
"""A result as a JSON object: see docs/json.md."""

SKIPPED = "skipped"

_T = TypeVar("_T")


def hopeless(error: object) -> bool:
    """Whether other images would fail for the same reason."""
    return isinstance(error, HOPELESS) or (isinstance(error, Refusal) and not policy(error).others)


class Result(NamedTuple):
    """What became of one image: a word for the summary, a line for people, and fields for programs and the history.

    `skipped`: the reason, if it was skipped. `note`: what else a user should know.
    """

    status: str
    line: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})
    skipped: SkipReason | None = None
    note: str = ""


class _Run(ABC, Generic[_T]):
    """One command."""

    command: str
    doing: str
    """The bar's label."""

    done: str
    """The summary's word for a success."""

    kind: str
    """The field that identifies an item: "file" or "name"."""

    give_up = AT_ONCE
    """The number of hopeless errors, without a success in between, after which the run stops."""

    def __init__(self, session: Session, reporter: ConsoleReporter, history: History | None = None) -> None:
        self._session, self._reporter, self._history = session, reporter, history
        self._many = reporter.many(self.doing)
        self._counts: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._untried = ""  # the reason why the remaining items were not tried

    @abstractmethod
    def items(self, words: Iterable[str]) -> AsyncIterator[_T]:
        """The items that the words mean. Reports to `_many` what to expect."""

    @abstractmethod
    async def work(self, item: _T) -> Result:
        """Process one item. Raises SafelightError."""

    @abstractmethod
    def name(self, item: _T) -> str:
        """The item's name in lines."""

    async def run(self, words: Iterable[str]) -> bool:
        """Process all items, then print a summary, also when cancelled. Returns whether all succeeded."""
        hopeless_ones, left = 0, ""
        with self._many:
            try:
                async with aclosing(bounded_map(self.items(words), self._counted)) as results:
                    async for item, result in results:
                        if isinstance(result, SafelightError):
                            self._failed(self.name(item), result)
                        else:
                            self._report(item, result)
                        if isinstance(result, Result) and result.status == self.done:
                            hopeless_ones = 0
                        hopeless_ones += hopeless(result)
                        if hopeless_ones >= self.give_up:
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
        """Count an item when it is finished; it is reported in its turn, unless the run is cancelled in between."""
        result = await self.work(item)
        self._counts[result.status] += 1
        if result.skipped:
            self._skipped[result.skipped] += 1
        return result

    def _report(self, item: _T, result: Result) -> None:
        if result.skipped:
            self._many.note(f"skipped {self.name(item)}: {result.skipped.one}")
        if result.note:
            self._many.note(f"{self.name(item)}: {result.note}")
        if result.line:
            self._many.line(f"✓ {result.line}", "green")
        fields = {self.kind: self.name(item), **result.fields}
        if result.skipped:
            fields["reason"] = result.skipped.one
        if result.note:
            fields["note"] = result.note
        self._reporter.result(status=result.status, **fields)
        if self._history is not None and result.status == self.done:
            self._history.add(self.command, fields)

    def _failed(self, name: str, error: SafelightError) -> None:
        self._counts["failed"] += 1
        self._many.failed(str(error) if shown(name) in str(error) else f"{name}: {error}")
        self._reporter.result(status="failed", **{self.kind: name}, error=str(error))

    def _summary(self) -> str:
        rest = [
            f"{count} {status}{self._reasons() if status == SKIPPED else ''}"
            for status, count in sorted(self._counts.items())
            if status not in (self.done, "failed")
        ]
        return ", ".join([f"{self._counts[self.done]} {self.done}", *rest, f"{self._counts['failed']} failed"])

    def _reasons(self) -> str:
        counted = (f"{count} {why.one if count == 1 else why.several}" for why, count in self._skipped.most_common())
        return f" ({', '.join(counted)})"


class Upload(_Run[Item]):
    """Upload files, and all images in directories. In a directory, images that an earlier run has finished are not
    uploaded again; a file that is named always is.
    """

    command, doing, done, kind = "upload", "uploading", "done", "file"

    def __init__(
        self,
        session: Session,
        reporter: ConsoleReporter,
        history: History | None,
        to: Path,
        scheme: Scheme,
        any_type: bool,
        *,
        keep: bool,
        follow_links: bool,
    ) -> None:
        super().__init__(session, reporter, history)
        self._to, self._scheme, self._any_type, self._keep = to, scheme, any_type, keep
        self._follow_links = follow_links
        self._lacking = False  # whether an image is not in the vault

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
            saved = await self._session.seal(path, **how, run=root, feedback=feedback)
        except NotAnImage as error:
            if root is None:
                raise
            return Result(SKIPPED, skipped=error.reason)
        self._lacking |= not saved.kept
        return Result(self.done, f"{path} → {saved.path} (server {saved.node})", uploaded(saved), note=saved.note)

    def name(self, item: Item) -> str:
        return item.path

    def _summary(self) -> str:
        kept = " and kept in the vault" if self._counts[self.done] and not self._lacking else ""
        return super()._summary().replace(f" {self.done}", f" {self.done}{kept}", 1)


class Decrypt(_Run[str]):
    """Decrypt files."""

    command, doing, done, kind, give_up = "decrypt", "decrypting", "done", "file", 1

    def __init__(
        self, session: Session, reporter: ConsoleReporter, history: History | None, to: Path, scheme: Scheme
    ) -> None:
        super().__init__(session, reporter, history)
        self._to, self._scheme = to, scheme

    async def items(self, words: Iterable[str]) -> AsyncIterator[str]:
        found = [(path, size_of(path)) for path in words]
        self._many.expect(len(found), sum(size for _, size in found))
        for path, _ in found:
            yield path

    async def work(self, item: str) -> Result:
        feedback = BulkItemFeedback(self._many, size_of(item))
        try:
            saved = await self._session.open(item, to=self._to, scheme=self._scheme, feedback=feedback)
        finally:
            feedback.settled()
        return Result(self.done, f"{item} → {saved.path} (server {saved.node})", new_file(saved))

    def name(self, item: str) -> str:
        return item


class Get(_Run[Kept]):
    """Download images. An image whose file exists with the same size and time is skipped."""

    command, doing, done, kind = "get", "downloading", "done", "name"

    def __init__(
        self,
        session: Session,
        reporter: ConsoleReporter,
        history: History | None,
        to: Path,
        meaning: Callable[[str], Awaitable[Meaning]],
        *,
        sealed: bool,
        force: bool,
    ) -> None:
        """`meaning`: looks up which images a word means."""
        super().__init__(session, reporter, history)
        self._meaning = meaning
        self._to, self._sealed, self._force = to, sealed, force
        self._among: set[Identity] = set()
        self._lookalikes: Lookalikes | None = None

    async def items(self, words: Iterable[str]) -> AsyncIterator[Kept]:
        left = list(words)
        while left:
            word = left.pop(0)
            try:
                meaning = await self._meaning(word)
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
        fields = {"original": item.original, **new_file(saved)}
        return Result(self.done, f"{item.name} → {saved.path} (server {saved.node})", fields, note=saved.note)

    def name(self, item: Kept) -> str:
        return item.name


class Remove(_Run[str]):
    """Remove images, by their names."""

    command, doing, done, kind = "rm", "removing", "removed", "name"

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
            return Result("gone already")  # removed by somebody else in the meantime
        finally:
            feedback.settled()
        return Result(self.done, f"{item} removed (server {node})", {"node": node})

    def name(self, item: str) -> str:
        return item


def new_file(saved: Saved) -> Entry:
    """The fields of a result that is a new file."""
    return {"path": saved.path, "node": saved.node, "size": saved.size}


def uploaded(saved: Saved) -> Entry:
    """The fields of an upload's result; `name` is null if the vault does not have the image."""
    return {"name": saved.name if saved.kept else None, **new_file(saved), "kept": saved.kept}
