"""A user's commands, the same on the command line and at the prompt: `declarations` declares each under its name here.

Each returns whether everything succeeded; it reports a failure itself, unless it raises SafelightError.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safelight.cli.output import listing
from safelight.cli.output.console import ConsoleReporter
from safelight.cli.output.documents import Outcome, show_document, show_lines
from safelight.cli.output.status_table import status_document, status_lines
from safelight.cli.output.tables import Column, Table, terminal_width
from safelight.cli.user import history as records
from safelight.cli.user.bulk import Decrypt, Entry, Get, Remove, Upload, new_file, uploaded
from safelight.cli.user.discovery import is_directory
from safelight.cli.user.history import History
from safelight.client.async_client import AsyncClient
from safelight.client.files.file_info import describe
from safelight.client.files.source_file import SourceFile
from safelight.client.requests.reads import AmbiguousName, Meaning, NoSuchImage
from safelight.client.requests.status import leader_of, survey
from safelight.client.session import Saved, Session
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.wire.messages import Kept, Scheme

REMEMBERED = 1000
"""Images whose names complete at the prompt, and among which a mistyped name is looked up."""

CHOICES = 20
"""Images that a question or an error lists."""

Ask = Callable[[str], Awaitable[str | None]]
"""Asks the user a question. Returns the line that the user types; None if the user cancels."""


class Commands:
    """The commands that need a session."""

    def __init__(
        self, session: Session, reporter: ConsoleReporter, *, ask: Ask | None = None, history: History | None = None
    ) -> None:
        """`ask`: None without a terminal."""
        self._session, self._reporter, self._ask, self._history = session, reporter, ask, history
        self.known: dict[str, str] = {}  # image names that this session has seen, newest first, with the original names

    # -- files ----------------------------------------------------------------------------------------

    async def upload(
        self,
        paths: Iterable[str],
        *,
        to: Path,
        scheme: str,
        any_type: bool,
        no_keep: bool = False,
        follow_links: bool = False,
        name: str | None = None,
        output: str | None = None,
        source: SourceFile | None = None,
    ) -> bool:
        """Upload one file with every step, or several with a line for each and one bar.

        `source`: the image on standard input, with this original `name`. Raises SafelightError if there is none.
        """
        batch, kind = list(paths), Scheme(scheme)
        if "-" in batch and source is None:
            raise SafelightError("- stands for standard input, which has the commands here: give a path, such as ./-")
        with self._reporter.reporting(output):
            if len(batch) != 1 or is_directory(batch[0]):
                run = Upload(
                    self._session,
                    self._reporter,
                    self._history,
                    to,
                    kind,
                    any_type,
                    keep=not no_keep,
                    follow_links=follow_links,
                )
                return await run.run(batch)

            async def seal(path: str) -> tuple[Saved, Entry]:
                if source is not None:
                    original = name or f"stdin.{source.extension or 'bin'}"
                    saved = await self._session.seal_source(
                        source, original, to=to, scheme=kind, keep=not no_keep, feedback=self._reporter
                    )
                else:
                    original = Path(path).name
                    saved = await self._session.seal(
                        path, to=to, scheme=kind, any_type=any_type, keep=not no_keep, feedback=self._reporter
                    )
                if kind is Scheme.CLASSIC:
                    self._reporter.say("  - Not kept in the vault: a classic file protects nothing", "yellow")
                if saved.kept:
                    self.known = {saved.name: original, **self.known}
                return saved, {"file": path, **uploaded(saved)}

            return await self._one("upload", "file", batch[0], seal, "Encrypted")

    async def decrypt(self, paths: Iterable[str], *, to: Path, scheme: str, output: str | None = None) -> bool:
        """Decrypt one file with every step, or several with a line for each and one bar."""
        batch, kind = list(paths), Scheme(scheme)
        with self._reporter.reporting(output):
            if len(batch) != 1:
                return await Decrypt(self._session, self._reporter, self._history, to, kind).run(batch)

            async def unseal(path: str) -> tuple[Saved, Entry]:
                saved = await self._session.open(path, to=to, scheme=kind, feedback=self._reporter)
                return saved, {"file": path, **new_file(saved)}

            return await self._one("decrypt", "file", batch[0], unseal, "Decrypted")

    async def _one(
        self, command: str, field: str, word: str, work: Callable[[str], Awaitable[tuple[Saved, Entry]]], done: str
    ) -> bool:
        self._reporter.waiting("asking the servers")
        try:
            saved, fields = await work(word)
        except SafelightError as error:
            self._reporter.failed(str(error) if shown(word) in str(error) else f"{word}: {error}")
            self._reporter.result(status="failed", **{field: word}, error=str(error))
            return False
        finally:
            self._reporter.settle()
        if saved.note:
            self._reporter.note(f"{word}: {saved.note}")
            fields["note"] = saved.note
        self._reporter.succeeded(done, saved.path, kept=saved.kept)
        self._reporter.result(status="done", **fields)
        if self._history is not None:
            self._history.add(command, fields)
        return True

    # -- the vault ------------------------------------------------------------------------------------

    async def ls(self, pattern: str | None, *, output: str | None = None, most: int | None = None) -> bool:
        """List images, newest first; at most `most`."""
        self._reporter.waiting("asking the servers")
        pages = self._session.images.listed(pattern)
        if output is not None:
            async for page in pages:
                self._reporter.settle()
                show_lines(list(page))
        else:
            await listing.paged(self._lines(pages, pattern, most))
        return True

    async def _lines(
        self, pages: AsyncIterator[list[Kept]], pattern: str | None, most: int | None
    ) -> AsyncIterator[list[str]]:
        table, count, listed = Table(listing.COLUMNS, terminal_width()), 0, dict[str, str]()
        async for page in pages:
            self._reporter.settle()
            rest = len(page) if most is None else most - count
            count += len(page[:rest])
            if len(listed) < REMEMBERED:
                listed |= {image.name: image.original for image in page[:rest]}
                self.known = listed | self.known
            if lines := table.lines([listing.row(image) for image in page[:rest]]):
                yield lines
            if len(page) > rest:
                yield ["… older images are not shown: ls PATTERN shows some, `safelight ls` shows all"]
                return
        self._reporter.settle()
        if not table.begun:
            yield [
                f"no image matches {shown(pattern)}"
                if pattern is not None
                else "the vault has no images of yours: upload one"
            ]

    async def get(
        self, names: Iterable[str], *, to: Path | None, sealed: bool, force: bool, output: str | None = None
    ) -> bool:
        """Download one image with progress, or several with a line for each and one bar."""
        to = to or Path("images" if sealed else "decrypted")
        words = list(names)
        meanings: dict[str, Meaning] = {}
        if len(words) == 1 or self._ask is not None:  # questions come before the bar
            self._reporter.waiting("asking the servers")
            for word in words:
                with suppress(*([] if len(words) == 1 else [SafelightError])):  # the run reports it
                    meanings[word] = await self._meaning(word)

        async def meaning(word: str) -> Meaning:
            return meanings.pop(word, None) or await self._meaning(word)

        with self._reporter.reporting(output):
            if len(words) != 1 or meanings[words[0]].pattern:
                run = Get(self._session, self._reporter, self._history, to, meaning, sealed=sealed, force=force)
                return await run.run(words)

            async def fetch(word: str) -> tuple[Saved, Entry]:
                [image] = [image async for image in (await meaning(word)).images]
                progress = self._reporter.received
                saved = await self._session.fetch(image, to=to, sealed=sealed, force=force, progress=progress)
                return saved, {"name": image.name, "original": image.original, **new_file(saved)}

            return await self._one("get", "name", words[0], fetch, "Sealed" if sealed else "Decrypted")

    async def rm(self, names: Iterable[str], *, yes: bool, pattern: bool, output: str | None = None) -> bool:
        """Remove the images that it lists first, and no others.

        `yes`: do not ask; a word that is a pattern needs `pattern`, too. Raises SafelightError.
        """
        if not yes and self._ask is None:
            raise SafelightError("without a terminal, rm cannot ask you to confirm: give --yes")
        self._reporter.waiting("asking the servers")
        images: dict[str, Kept] = {}
        patterns: list[str] = []
        for word in names:
            meaning = await self._meaning(word)
            patterns += [word] if meaning.pattern else []
            async for image in meaning.images:
                images[image.name] = image
        self._reporter.settle()
        if patterns or not yes:
            for image in images.values():
                came_from = f"  (from {image.original})" if image.original not in ("", image.name) else ""
                self._reporter.note(f"  {image.name}{came_from}")
        count = f"{len(images)} {'image' if len(images) == 1 else 'images'}"
        if yes and patterns and not pattern:
            raise SafelightError(
                f"--yes does not confirm a pattern, as {shown(patterns[0])} is: nothing was removed; "
                f"to remove the {count} listed, give --pattern, too, or leave out --yes to be asked"
            )
        if not yes and self._ask is not None:
            what = "this image" if len(images) == 1 else f"these {count}"
            answer = await self._ask(f"Remove {what} from the vault, permanently? [y/N]")
            if answer is None or answer.strip().lower() not in ("y", "yes"):
                self._reporter.say("nothing was removed")
                return False
        self.known = {name: original for name, original in self.known.items() if name not in images}
        with self._reporter.reporting(output):
            return await Remove(self._session, self._reporter, self._history).run(images)

    # -- which image ----------------------------------------------------------------------------------

    async def _meaning(self, word: str) -> Meaning:
        """The images that a NAME means. Asks which one, if several have this original name and there is a terminal.

        Raises SafelightError, which lists those images or suggests a similar name.
        """
        try:
            return await self._session.images.meant(word)
        except AmbiguousName as error:
            self._reporter.settle()
            return await self._choose(word, error)
        except NoSuchImage as error:
            if glob.has_magic(word) or (close := await self._similar(word)) is None:
                raise
            raise NoSuchImage(f"no image is called {shown(word)}: did you mean {shown(close)}?") from error

    async def _choose(self, word: str, error: AmbiguousName) -> Meaning:
        images = error.images
        if self._ask is None:
            names = ", ".join(image.name for image in images[:CHOICES])
            more = f" and {len(images) - CHOICES} more" if len(images) > CHOICES else ""
            raise NoSuchImage(f"{error}: {names}{more} (newest first)") from None
        self._reporter.note(f"{len(images)} images were made from {shown(word)}:")
        rows = [(f"{number}", *listing.row(image)) for number, image in enumerate(images[:CHOICES], start=1)]
        columns = (Column("", 10, right=True), *listing.COLUMNS)
        for line in Table(columns, terminal_width()).lines(rows):
            self._reporter.note(line)
        last = min(len(images), CHOICES)
        answer = await self._ask(f"Which one? [1 to {last}; Enter takes 1, the newest]")
        chosen = "" if answer is None else answer.strip() or "1"
        if not chosen.isascii() or not chosen.isdigit() or not 1 <= int(chosen) <= last:
            raise NoSuchImage(f"no image of {shown(word)} was chosen: type a number from 1 to {last}")
        return Meaning(_each([images[int(chosen) - 1]]), pattern=False)

    async def _similar(self, word: str) -> str | None:
        """The most similar name, or original name, among the newest images."""
        async for page in self._session.images.all():
            names = [name for image in page[:REMEMBERED] for name in (image.original, image.name) if name]
            return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=0.75)), None)
        return None


async def _each(images: list[Kept]) -> AsyncIterator[Kept]:
    for image in images:
        yield image


# -- commands without a session -------------------------------------------------------------------------


def info(reporter: ConsoleReporter, paths: Iterable[str], *, output: str | None = None) -> bool:
    """Describe each file. Returns whether all of them are intact, as far as that shows without a key."""
    good = True
    with reporter.reporting(output):
        for path in paths:
            try:
                found = describe(path)
            except SafelightError as error:
                reporter.failed(str(error) if shown(path) in str(error) else f"{path}: {error}")
                reporter.result(status="failed", file=path, error=str(error))
                good = False
                continue
            good &= found.intact
            reporter.result(status="done", file=path, **dataclasses.asdict(found), intact=found.intact)
            reporter.say(path, "bold")
            lines = found.lines()
            width = max(len(name) for name, _ in lines)
            for name, value in lines:
                reporter.say(f"  {name.ljust(width)}  {value}")
    return good


async def status(config: Config, reporter: ConsoleReporter, *, output: str | None = None) -> bool:
    """Show every node. Returns whether there is a leader."""
    servers = await survey(config)
    if output is None:
        reporter.table(status_lines(servers, terminal_width()))
    else:
        show_document(status_document(servers))
    return leader_of(servers) is not None


async def history(found: History, *, output: str | None = None, most: int | None = None) -> bool:
    """Show what the user has done on this machine, newest first."""
    entries = found.entries()[:most]
    if output == "json":
        show_document({"results": entries})
    elif output == "jsonl":
        show_lines(entries)
    else:
        table = Table(records.COLUMNS, terminal_width())

        async def lines() -> AsyncIterator[list[str]]:
            yield table.lines(records.rows(entries)) or ["nothing yet: upload an image"]

        await listing.paged(lines())
    return True


async def fingerprint(config: Config, user: str) -> Outcome:
    """The fingerprint of the user's token for this cluster; creates the token if there is none.

    Raises InvalidName for the user.
    """
    async with AsyncClient.of(config, user) as client:
        found = await client.session.fingerprint()
    return Outcome.of(found, user=user, fingerprint=found)


async def run(config: Config, user: str, command: str, ask: Ask | None, options: dict[str, Any]) -> bool:
    """Run one command of `Commands`. Raises SafelightError, also if `user` is not a user name."""
    async with AsyncClient.of(config, user) as client:
        reporter = ConsoleReporter(dialogue=False)
        commands = Commands(client.session, reporter, ask=ask, history=History(config.client_dir, user))
        method: Callable[..., Awaitable[bool]] = getattr(commands, command)
        return await method(**options)
