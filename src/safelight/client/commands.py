"""What a user can ask for, the same from the REPL and from the command line: file after file, told as it happens."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from safelight.client.console import Transcript
from safelight.client.session import Saved, Session
from safelight.client.status import ServerStatus, survey
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.protocol import Scheme


class Commands:
    """Each method says whether all of it succeeded; what did not is told, and does not keep the rest from it."""

    def __init__(self, session: Session, transcript: Transcript) -> None:
        self._session = session
        self._transcript = transcript

    async def upload(self, paths: Iterable[str], *, to: Path, scheme: Scheme, any_type: bool) -> bool:
        async def seal(path: str) -> Saved:
            return await self._session.seal(path, to=to, scheme=scheme, any_type=any_type, feedback=self._transcript)

        return await self._each(paths, seal, "Encrypted")

    async def decrypt(self, paths: Iterable[str], *, to: Path, scheme: Scheme) -> bool:
        async def unseal(path: str) -> Saved:
            return await self._session.open(path, to=to, scheme=scheme, feedback=self._transcript)

        return await self._each(paths, unseal, "Decrypted")

    async def _each(self, paths: Iterable[str], work: Callable[[str], Awaitable[Saved]], done: str) -> bool:
        batch = list(paths)
        failed = 0
        for number, path in enumerate(batch, start=1):
            if len(batch) > 1:
                self._transcript.say(f"{path} ({number} of {len(batch)})", "bold")
            self._transcript.waiting("asking the servers")
            try:
                saved = await work(path)
            except SafelightError as error:
                self._transcript.failed(str(error) if shown(path) in str(error) else f"{path}: {error}")
                failed += 1
            else:
                self._transcript.succeeded(done, saved.path)
            finally:
                self._transcript.settle()
        if len(batch) > 1:
            self._transcript.say(f"{len(batch) - failed} done, {failed} failed", "bold")
        return not failed


def leader_of(servers: Iterable[ServerStatus]) -> int | None:
    """The node that answers and says of itself that it leads; hearsay may be of one that has died."""
    loads = [status.load for status in servers if status.load and not status.heard]
    leaders = [load for load in loads if load.leader == load.node]
    return max(leaders, key=lambda load: load.counter).node if leaders else None


def status_as_json(servers: list[ServerStatus]) -> str:
    """`{"leader": 3, "servers": [{"server": 1, "address": …, "load": {…}, "problem": "", …}, …]}`"""
    told = [dataclasses.asdict(status) | {"load": status.load} for status in servers]
    document = msgspec.json.encode({"leader": leader_of(servers), "servers": told})
    return msgspec.json.format(document, indent=2).decode()


# -- one command, one result: for scripts --


async def upload(
    config: Config, user: str, *, quiet: bool, paths: Iterable[str], to: Path, scheme: str, any_type: bool
) -> bool:
    """With `quiet` only the paths of the new files are printed. Raises InvalidName for the user."""
    async with _commands(config, user, quiet) as commands:
        return await commands.upload(paths, to=to, scheme=Scheme(scheme), any_type=any_type)


async def decrypt(config: Config, user: str, *, quiet: bool, paths: Iterable[str], to: Path, scheme: str) -> bool:
    """With `quiet` only the paths of the new files are printed. Raises InvalidName for the user."""
    async with _commands(config, user, quiet) as commands:
        return await commands.decrypt(paths, to=to, scheme=Scheme(scheme))


async def status(config: Config, *, as_json: bool) -> bool:
    """Whether there is a leader."""
    servers = await survey(config)
    if as_json:
        print(status_as_json(servers))
    else:
        Transcript(dialogue=False).status(servers)
    return leader_of(servers) is not None


async def fingerprint(config: Config, user: str) -> str:
    """Of the user's token for this cluster, which is made if there is none. Raises InvalidName for the user."""
    async with Session(config, user) as session:
        return await session.fingerprint()


@asynccontextmanager
async def _commands(config: Config, user: str, quiet: bool) -> AsyncIterator[Commands]:
    async with Session(config, user) as session:
        yield Commands(session, Transcript(dialogue=False, quiet=quiet))
