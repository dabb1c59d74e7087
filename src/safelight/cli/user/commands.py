"""What a user can ask for, the same from the REPL and from the command line: file after file, told as it happens."""

import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import msgspec

from safelight import timestamps
from safelight.cli.output import listing
from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user.bulk import Get, Remove, Upload, hopeless
from safelight.cli.user.discovery import is_directory
from safelight.client.async_client import AsyncClient
from safelight.client.files.file_info import describe
from safelight.client.requests.leader_request_state import BrokeOff
from safelight.client.requests.reads import Meaning
from safelight.client.requests.status import ServerStatus, leader_of, survey
from safelight.client.session import Saved, Session
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.runtime.signals import interruptible
from safelight.wire.messages import Kept, Scheme

REMEMBERED = 1000
"""Names of images that a listing leaves behind, for completion."""

Confirm = Callable[[str], Awaitable[bool]]


class Commands:
    """Each method returns whether everything succeeded; a failure is reported, and does not stop the rest."""

    def __init__(self, session: Session, transcript: ConsoleReporter) -> None:
        self._session = session
        self._transcript = transcript

    async def upload(
        self,
        paths: Iterable[str],
        *,
        to: Path,
        scheme: Scheme,
        any_type: bool,
        no_keep: bool = False,
        follow_links: bool = False,
    ) -> bool:
        """One file with all that happens to it; several, or directories, with a line for each and a bar for all."""
        batch = list(paths)
        if len(batch) == 1 and not is_directory(batch[0]):

            async def seal(path: str) -> Saved:
                saved = await self._session.seal(
                    path, to=to, scheme=scheme, any_type=any_type, keep=not no_keep, feedback=self._transcript
                )
                if scheme is Scheme.CLASSIC:
                    self._transcript.say("  - Not kept in the vault: a classic file protects nothing", "yellow")
                return saved

            return await self._each(batch, seal, "Encrypted")
        uploading = Upload(
            self._session, self._transcript, to, scheme, any_type, keep=not no_keep, follow_links=follow_links
        )
        return await uploading.run(batch)

    async def decrypt(self, paths: Iterable[str], *, to: Path, scheme: Scheme) -> bool:
        async def unseal(path: str) -> Saved:
            return await self._session.open(path, to=to, scheme=scheme, feedback=self._transcript)

        return await self._each(paths, unseal, "Decrypted")

    async def _each(self, paths: Iterable[str], work: Callable[[str], Awaitable[Saved]], done: str) -> bool:
        batch = list(paths)
        failed, left, number = 0, "", 0
        for number, path in enumerate(batch, start=1):
            if len(batch) > 1:
                self._transcript.say(f"{path} ({number} of {len(batch)})", "bold")
            self._transcript.waiting("asking the servers")
            try:
                saved = await work(path)
            except SafelightError as error:
                self._transcript.failed(str(error) if shown(path) in str(error) else f"{path}: {error}")
                failed += 1
                if hopeless(error) and not isinstance(error, BrokeOff) and number < len(batch):
                    left = f"; the rest was not tried: {error}"
                    break
            else:
                if saved.note:
                    self._transcript.note(f"{path}: {saved.note}")
                self._transcript.succeeded(done, saved.path, kept=saved.kept)
            finally:
                self._transcript.settle()
        if len(batch) > 1:
            self._transcript.say(f"{number - failed} done, {failed} failed{left}", "bold")
        return not failed

    # -- the vault ------------------------------------------------------------------------------------

    async def ls(self, pattern: str | None, *, as_json: bool = False, most: int | None = None) -> list[str]:
        """Show the images, newest first; the names of those that were shown. `most`: no more than so many."""
        shown_names: list[str] = []
        self._transcript.waiting("asking the servers")
        pages = self._session.images.listed(pattern)
        if as_json:
            async for page in pages:
                self._transcript.settle()
                sys.stdout.write("".join(timestamps.to_json(image).decode() + "\n" for image in page))
            return shown_names
        await listing.paged(self._lines(pages, pattern, most, shown_names))
        return shown_names

    async def _lines(
        self, pages: AsyncIterator[list[Kept]], pattern: str | None, most: int | None, names: list[str]
    ) -> AsyncIterator[list[str]]:
        table = listing.Table()
        async for page in pages:
            self._transcript.settle()
            room = len(page) if most is None else most - len(names)
            names += [image.name for image in page[:room]]
            if lines := table.lines(page[:room]):
                yield lines
            if len(page) > room:
                yield ["… older ones are not shown: ls PATTERN shows some, `safelight ls` all"]
                return
            del names[REMEMBERED:]
        self._transcript.settle()
        if not table.begun:
            yield [
                f"no image matches {shown(pattern)}"
                if pattern is not None
                else "the vault has no images of yours: upload one"
            ]

    async def get(self, words: Iterable[str], *, to: Path | None, sealed: bool, force: bool) -> bool:
        to = to or Path("images" if sealed else "decrypted")
        batch = list(words)
        known: dict[str, Meaning] = {}
        if len(batch) == 1:
            self._transcript.waiting("asking the servers")
            known[batch[0]] = meaning = await self._session.images.meant(batch[0])
            if not meaning.pattern:

                async def fetch(word: str) -> Saved:
                    [image] = [image async for image in meaning.images]
                    progress = self._transcript.received
                    return await self._session.fetch(image, to=to, sealed=sealed, force=force, progress=progress)

                return await self._each(batch, fetch, "Sealed" if sealed else "Decrypted")
        return await Get(self._session, self._transcript, to, sealed=sealed, force=force, known=known).run(batch)

    async def rm(self, words: Iterable[str], *, yes: bool, pattern: bool, confirm: Confirm | None) -> bool:
        """Remove exactly what was listed by name before. `confirm` asks the user; None: nobody is there to ask.

        `yes`: do not ask; a word that is taken as a pattern needs `pattern`, too. Raises SafelightError.
        """
        if not yes and confirm is None:
            raise SafelightError("nobody is there to ask whether you mean it: give --yes")
        self._transcript.waiting("asking the servers")
        images: dict[str, Kept] = {}
        patterns: list[str] = []
        for word in words:
            meaning = await self._session.images.meant(word)
            patterns += [word] if meaning.pattern else []
            async for image in meaning.images:
                images[image.name] = image
        self._transcript.settle()
        if patterns or not yes:
            for image in images.values():
                came_from = f"  (from {image.original})" if image.original not in ("", image.name) else ""
                self._transcript.note(f"  {image.name}{came_from}")
        count = f"{len(images)} {'image' if len(images) == 1 else 'images'}"
        if yes and patterns and not pattern:
            raise SafelightError(
                f"--yes does not confirm a pattern, as {shown(patterns[0])} is: nothing was removed; "
                f"to remove the {count} listed, give --pattern, too, or leave out --yes to be asked"
            )
        if not yes and confirm is not None:
            what = "this image" if len(images) == 1 else f"these {count}"
            if not await confirm(f"Remove {what} from the vault, permanently?"):
                self._transcript.say("nothing was removed")
                return False
        return await Remove(self._session, self._transcript).run(images)


def status_as_json(servers: list[ServerStatus]) -> str:
    """`{"leader": 3, "used": 17, "servers": [{"server": 1, "address": …, "load": {…}, "problem": "", …}, …]}`"""
    told = [dataclasses.asdict(status) | {"load": status.load} for status in servers]
    used = sum(status.load.used for status in servers if status.load)
    document = msgspec.json.encode({"leader": leader_of(servers), "used": used, "servers": told})
    return msgspec.json.format(document, indent=2).decode()


# -- one command, one result: for scripts --


async def upload(
    config: Config,
    user: str,
    *,
    quiet: bool,
    paths: Iterable[str],
    to: Path,
    scheme: str,
    any_type: bool,
    no_keep: bool,
    follow_links: bool,
) -> bool:
    """With `quiet` only the paths of the new files are printed. Raises InvalidName for the user."""
    async with _commands(config, user, quiet) as commands:
        return await commands.upload(
            paths, to=to, scheme=Scheme(scheme), any_type=any_type, no_keep=no_keep, follow_links=follow_links
        )


async def decrypt(config: Config, user: str, *, quiet: bool, paths: Iterable[str], to: Path, scheme: str) -> bool:
    """With `quiet` only the paths of the new files are printed. Raises InvalidName for the user."""
    async with _commands(config, user, quiet) as commands:
        return await commands.decrypt(paths, to=to, scheme=Scheme(scheme))


async def ls(config: Config, user: str, *, pattern: str | None, as_json: bool) -> None:
    """Raises SafelightError."""
    async with _commands(config, user, quiet=False) as commands:
        await commands.ls(pattern, as_json=as_json)


async def get(
    config: Config, user: str, *, quiet: bool, names: Iterable[str], to: Path | None, sealed: bool, force: bool
) -> bool:
    """With `quiet` only the paths of the new files are printed. Raises InvalidName for the user."""
    async with _commands(config, user, quiet) as commands:
        return await commands.get(names, to=to, sealed=sealed, force=force)


async def rm(config: Config, user: str, *, names: Iterable[str], yes: bool, pattern: bool) -> bool:
    """Asks on a terminal. Raises SafelightError."""

    async def confirm(question: str) -> bool:
        with interruptible():
            try:
                return click.confirm(question, err=True)
            except click.Abort as abort:
                if isinstance(abort.__context__, KeyboardInterrupt):
                    raise SystemExit(128 + signal.SIGINT) from None
                return False  # the end of what is typed is no yes

    async with _commands(config, user, quiet=False) as commands:
        return await commands.rm(names, yes=yes, pattern=pattern, confirm=confirm if sys.stdin.isatty() else None)


def info(paths: Iterable[str], transcript: ConsoleReporter) -> bool:
    """Tell what each file says of itself. Whether nothing is wrong with any of them."""
    good = True
    for path in paths:
        try:
            facts, fits = describe(path)
        except SafelightError as error:
            transcript.failed(str(error) if shown(path) in str(error) else f"{path}: {error}")
            good = False
            continue
        good &= fits
        transcript.say(path, "bold")
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            transcript.say(f"  {name.ljust(width)}  {value}")
    return good


async def status(config: Config, *, as_json: bool) -> bool:
    """Whether there is a leader."""
    servers = await survey(config)
    if as_json:
        print(status_as_json(servers))
    else:
        ConsoleReporter(dialogue=False).status(servers)
    return leader_of(servers) is not None


async def fingerprint(config: Config, user: str) -> str:
    """Of the user's token for this cluster, which is made if there is none. Raises InvalidName for the user."""
    async with AsyncClient.of(config, user) as client:
        return await client.session.fingerprint()


@asynccontextmanager
async def _commands(config: Config, user: str, quiet: bool) -> AsyncIterator[Commands]:
    async with AsyncClient.of(config, user) as client:
        yield Commands(client.session, ConsoleReporter(dialogue=False, quiet=quiet))
