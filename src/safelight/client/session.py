"""One user's session with a cluster: upload, decrypt, download, remove.

The public clients and the command line are built on it. What is internal to the command line stays here: resumable
runs over a directory, and downloads that skip files which are there already.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, tee
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from safelight import names, timestamps
from safelight.client.files import atomic_output, source_file
from safelight.client.files.lookalikes import Lookalikes
from safelight.client.files.resume_log import Planned, ResumeLog, tag_of
from safelight.client.files.sink import Sink
from safelight.client.requests.feedback import Feedback
from safelight.client.requests.leader_request import LeaderRequest, Send
from safelight.client.requests.reads import Images, NoSuchImage
from safelight.client.requests.removal import Removal
from safelight.client.requests.transfer import Transfer
from safelight.client.transport.account import Account
from safelight.client.transport.servers import Servers
from safelight.config import Config
from safelight.encryption import sealed_size
from safelight.errors import SafelightError
from safelight.imagetypes import HEAD, sniff
from safelight.wire.messages import Action, Kept, Offer, Problem, Refusal, Scheme

QUIET = 0.1
"""Seconds of saving a file after which the wait is reported; syncing a large file takes longer."""


@dataclass(frozen=True)
class Saved:
    """The new file, the node that did the work, and the file's size in bytes.

    `kept`: the vault stores the image as `name`. `note`: what was left out, such as a time; empty if nothing was.
    """

    path: Path
    node: int
    size: int
    kept: bool = False
    name: str = ""
    note: str = ""


class AlreadyThere(SafelightError):
    """The output file exists already, with the right content."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{names.shown(str(path))} exists already")
        self.path = path


class _Task(NamedTuple):
    """What is to be done with a source: what its offer says, and the headers that its body gets."""

    action: Action
    scheme: Scheme = Scheme.SEALED
    keep: bool = True
    headers: Mapping[str, str] = {}


class Session:
    """One user at one cluster; an async context manager."""

    def __init__(self, config: Config, user: str) -> None:
        self._config = config
        self._servers = Servers(config)
        self._account = Account(config, self._servers, user)
        self.images = Images(config, self._servers, self._account)
        self._swept: set[Path] = set()
        self._logs: dict[Path, ResumeLog] = {}

    async def __aenter__(self) -> Self:
        await self._servers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._account.close()
        for log in self._logs.values():
            log.close()
        await self._servers.__aexit__(kind, error, trace)

    def abandon(self) -> None:
        """After a fork, in the child."""
        self._servers.abandon()

    async def seal(
        self,
        path: str | Path,
        *,
        to: Path,
        scheme: Scheme = Scheme.SEALED,
        any_type: bool = False,
        keep: bool = True,
        run: Path | None = None,
        feedback: Feedback,
    ) -> Saved:
        """Encrypt the image at `path` into a new file in the directory `to`. Raises SafelightError.

        `keep`: store it in the vault, too. `run`: this is part of a run over that directory. If an earlier run started
        with this file, the upload continues under the same name and upload id, so the vault keeps the image once.
        """
        with self._image(path, any_type, once_more=run is None) as source:
            if run is None:
                return await self.seal_source(
                    source, Path(path).name, to=to, scheme=scheme, keep=keep, feedback=feedback
                )
            wanted, headers, note = _described(source, Path(path).name, keep)
            planned = Planned.of(source.path, source.size, source.modified_ns, to, scheme, keep)
            log = await self._log(run)
            started = log.find(planned)
            if started is not None and not started.done:
                wanted = chain([(started.name, started.upload)], wanted)

            def commit(reservation: atomic_output.Reservation) -> None:
                log.made(planned, tag_of(reservation.file.fileno()))
                reservation.commit_counted()

            wanted = log.noting(planned, wanted)
            saved = await self._transform(
                source, _Task(Action.SEAL, scheme, keep, headers), to, wanted, commit, feedback
            )
            log.finished(planned, saved.name if saved.kept else saved.path.name, saved.kept)
            return replace(saved, note=note if saved.kept else "")

    async def seal_source(
        self,
        source: source_file.SourceFile,
        name: str,
        *,
        to: Path,
        scheme: Scheme = Scheme.SEALED,
        keep: bool = True,
        feedback: Feedback,
    ) -> Saved:
        """As `seal`, of an image that is open already, and whose original name is `name`."""
        wanted, headers, note = _described(source, name, keep)
        commit = atomic_output.Reservation.commit_counted
        saved = await self._transform(source, _Task(Action.SEAL, scheme, keep, headers), to, wanted, commit, feedback)
        return replace(saved, note=note if saved.kept else "")

    async def store(self, source: source_file.SourceFile, name: str, *, feedback: Feedback) -> tuple[str, int]:
        """Encrypt an image into the vault, without a local copy. Returns its name there, and the node that did it.

        Raises SafelightError.
        """
        wanted, headers, _ = _described(source, name, keep=True)
        for encrypted, upload in wanted:
            offer = await self._offer(source.size, _Task(Action.SEAL), encrypted, upload)
            transfer = Transfer(self._servers, offer, source, headers, None, feedback)
            try:
                return encrypted, await self._at_the_leader(offer, feedback, transfer.send)
            except Refusal as refusal:
                if refusal.problem is not Problem.IMAGE_TAKEN:
                    raise
        raise AssertionError("names do not run out")

    async def sealed_before(
        self, path: str, run: Path, *, to: Path, scheme: Scheme, any_type: bool, keep: bool
    ) -> bool:
        """Whether an earlier run over the directory `run` encrypted this image, it is unchanged since, and the result
        still exists: in the vault if it was kept, else in `to`. Raises SafelightError.
        """
        with self._image(path, any_type, once_more=False) as source:
            planned = Planned.of(path, source.size, source.modified_ns, to, scheme, keep)
            done = (await self._log(run)).find(planned)
        if done is None:
            return False
        if not done.kept:
            return done.is_at(to / done.name)
        try:
            return (await self.images.find(done.name)).size == done.size
        except NoSuchImage:
            return False

    def _image(self, path: str | Path, any_type: bool, *, once_more: bool) -> source_file.SourceFile:
        """`once_more`: it is named itself, not found in a directory."""
        limit = self._config.max_image_size
        return source_file.open_image(path, any_type=any_type, max_size=limit, once_more=once_more)

    async def _log(self, directory: Path) -> ResumeLog:
        if directory not in self._logs:
            cluster = await self._account.cluster()
            found = ResumeLog.of(self._config.client_dir, cluster, self._account.user, directory)
            self._logs.setdefault(directory, found)
        return self._logs[directory]

    async def open(self, path: str | Path, *, to: Path, scheme: Scheme = Scheme.SEALED, feedback: Feedback) -> Saved:
        """Decrypt the file at `path` into a new file in the directory `to`. Raises SafelightError."""
        with source_file.open_image(path, any_type=True, max_size=sys.maxsize) as source:
            return await self.open_file(source, Path(path).name, to=to, scheme=scheme, feedback=feedback)

    async def open_file(
        self,
        source: source_file.SourceFile,
        name: str,
        *,
        to: Path,
        scheme: Scheme = Scheme.SEALED,
        feedback: Feedback,
    ) -> Saved:
        """As `open`, of a file that is open already, and whose name is `name`."""
        name = names.decrypted_name(name)
        wanted = ((names.counted(name, number), secrets.token_hex(16)) for number in count(1))
        return await self._transform(source, _Task(Action.OPEN, scheme), to, wanted, _commit_opened, feedback)

    async def open_source(self, source: source_file.SourceFile, sink: Sink, *, feedback: Feedback) -> int:
        """Decrypt a sealed file into a sink. Returns the node that did it. Raises SafelightError."""
        name = names.decrypted_name(Path(source.path).name)
        offer = await self._offer(source.size, _Task(Action.OPEN), name, secrets.token_hex(16))
        transfer = Transfer(self._servers, offer, source, {}, sink, feedback)
        return await self._at_the_leader(offer, feedback, transfer.send)

    async def fetch(  # noqa: C901 — one case for each way in which a name can be taken
        self,
        image: Kept,
        *,
        to: Path,
        sealed: bool = False,
        force: bool = False,
        among: set[atomic_output.Identity] | None = None,
        lookalikes: Lookalikes | None = None,
        progress: Callable[[int, int], None],
    ) -> Saved:
        """Decrypt an image of the vault into the directory `to`, under its original's name and with its time; or
        its sealed file, under the image's name.

        `force`: replace an existing file. `among`: the files of the images downloaded before in this run; then a taken
        name is counted up, and AlreadyThere is raised for an image whose file exists, with its size and time, or with
        its bytes. `lookalikes`: of all images; a file that could belong to another image counts only by its bytes.
        Raises SafelightError.
        """
        self._sweep(to)
        name = names.restored_name("" if sealed else image.original, image.name)
        size = sealed_size(Scheme.SEALED, image.size, self._account.user) if sealed else image.size
        moments = [] if sealed else _times(image)
        ours = set() if among is None else among
        counts_on = among is not None or force
        alike: list[tuple[Path, atomic_output.Identity]] = []  # right size; other time, or a lookalike

        def known_by_sight(path: Path, found: os.stat_result) -> bool:
            if lookalikes is not None and lookalikes.others(image.name, name, size, found.st_mtime_ns):
                return False
            return sealed or atomic_output.dated(path, found, moments)

        def wanted() -> Iterator[str]:
            gap: str | None = None
            for number in count(1):
                path = to / names.counted(name, number)
                found = atomic_output.examine(path)
                if found is None:
                    if gap is None and among is not None and not force:
                        gap = path.name  # that file was removed; the image's own may have a later number
                        continue
                    yield gap or path.name
                    if gap is None:
                        continue
                    gap = None
                    yield path.name
                elif not counts_on:
                    raise atomic_output.OutputExists(
                        f"{names.shown(str(path))} exists: give --force to replace it, or --to DIR"
                    )
                elif atomic_output.identity(found) in ours:
                    continue
                elif force:
                    yield path.name
                elif among is not None and stat.S_ISREG(found.st_mode) and found.st_size == size:
                    if known_by_sight(path, found):
                        ours.add(atomic_output.identity(found))
                        raise AlreadyThere(path)
                    alike.append((path, atomic_output.identity(found)))

        candidates = wanted()
        with atomic_output.reserve(to, candidates, replace=force) as reservation:
            ours.add(reservation.identity)
            counts_on = True
            node = await self.images.fetch(image, reservation, sealed=sealed, progress=progress)
            for path, known in alike:
                same = known not in ours and await asyncio.to_thread(reservation.has_content_of, path)
                if same and known not in ours:  # checked again after the wait
                    ours.add(known)
                    raise AlreadyThere(path)
            dated = await asyncio.to_thread(reservation.date, moments)
            chosen = reservation.name
            while True:
                try:
                    await atomic_output.in_thread(partial(reservation.commit, chosen, replace=force, others=ours))
                    break
                except atomic_output.OutputExists:  # taken by now, or two names are one here
                    chosen = next(candidates)
            left_out = not sealed and image.modified is not None and (dated is None or dated != moments[0])
            note = (
                f"its time of modification is left out: the file system of {names.shown(str(to))} cannot represent it"
            )
            return Saved(reservation.path, node, size, note=note if left_out else "")

    async def download_to(self, image: Kept, path: Path, *, force: bool, progress: Callable[[int, int], None]) -> Path:
        """Decrypt an image of the vault into exactly this file, with its time; see `fetch`. Raises SafelightError."""

        async def fill(reservation: atomic_output.Reservation) -> None:
            await self.images.fetch(image, reservation, sealed=False, progress=progress)
            await asyncio.to_thread(reservation.date, _times(image))

        return await self._write_to(path, force, fill)

    async def decrypt_to(self, source: source_file.SourceFile, path: Path, *, force: bool, feedback: Feedback) -> Path:
        """Decrypt a sealed file into exactly this file. Raises SafelightError."""

        async def fill(reservation: atomic_output.Reservation) -> None:
            await self.open_source(source, reservation, feedback=feedback)

        return await self._write_to(path, force, fill)

    async def _write_to(
        self, path: Path, force: bool, fill: Callable[[atomic_output.Reservation], Awaitable[None]]
    ) -> Path:
        if not force and await asyncio.to_thread(os.path.lexists, path):
            raise atomic_output.OutputExists(f"{names.shown(str(path))} exists")
        self._sweep(path.parent)
        with atomic_output.reserve(path.parent, [path.name], replace=force) as reservation:
            await fill(reservation)
            await atomic_output.in_thread(partial(reservation.commit, replace=force))
        return path

    async def lookalikes(self) -> Lookalikes:
        """The lookalikes among all the user's images, for `fetch`. Raises SafelightError."""
        found = Lookalikes()
        async for page in self.images.all():
            for image in page:
                file = names.restored_name(image.original, image.name)
                found.add(image.name, file, image.size, _times(image))
        return found

    async def remove(self, name: str, *, feedback: Feedback) -> int:
        """Remove an image from the vault, permanently. Returns the node that did it. Raises SafelightError."""
        offer = await self._offer(0, _Task(Action.REMOVE), name, secrets.token_hex(16))
        return await self._at_the_leader(offer, feedback, Removal(self._servers).send)

    async def fingerprint(self) -> str:
        """The fingerprint (SHA-256) of the user's token, which is created if missing: the operator adds users by it."""
        return await self._account.fingerprint()

    # -- one image -----------------------------------------------------------------------------------

    async def _transform(
        self,
        source: source_file.SourceFile,
        task: _Task,
        to: Path,
        wanted: Iterator[tuple[str, str]],
        commit: Callable[[atomic_output.Reservation], None],
        feedback: Feedback,
    ) -> Saved:
        """`wanted`: the names to try, each with its upload id. `commit` puts the output in place."""
        self._sweep(to)
        while True:
            candidates, uploads = tee(wanted)
            with atomic_output.reserve(to, (name for name, _ in candidates), mode=source.mode) as reservation:
                upload = next(upload for name, upload in uploads if name == reservation.name)
                wanted = candidates
                offer = await self._offer(source.size, task, reservation.name, upload)
                transfer = Transfer(self._servers, offer, source, task.headers, reservation, feedback)
                try:
                    node = await self._at_the_leader(offer, feedback, transfer.send)
                except Refusal as refusal:
                    if refusal.problem is Problem.IMAGE_TAKEN:
                        continue
                    raise
                saving = asyncio.get_running_loop().call_later(QUIET, feedback.waiting, "saving")
                try:
                    await atomic_output.in_thread(lambda: commit(reservation))
                finally:
                    saving.cancel()
                return Saved(reservation.path, node, reservation.size, transfer.kept, offer.name)

    async def _offer(self, size: int, task: _Task, name: str, upload: str) -> Offer:
        return Offer(
            user=self._account.user,
            upload=upload,
            name=name,
            size=size,
            action=task.action,
            scheme=task.scheme,
            cluster=await self._account.cluster(),
            keep=task.keep,
        )

    async def _at_the_leader(self, offer: Offer, feedback: Feedback, send: Send) -> int:
        """Returns the node that did it."""
        return await LeaderRequest(self._config, self._servers, self._account, offer, feedback, send).run()

    def _sweep(self, directory: Path) -> None:
        if directory not in self._swept:
            atomic_output.sweep(directory)
            self._swept.add(directory)


def _described(
    source: source_file.SourceFile, name: str, keep: bool
) -> tuple[Iterator[tuple[str, str]], dict[str, str], str]:
    """Of an image to encrypt: the names to try, each with its upload id; headers; what could not be said in them."""
    extension, now = source.extension or "bin", int(time.time())
    wanted = ((names.encrypted_name(name, now + later, extension), secrets.token_hex(16)) for later in count())
    headers = {"Safelight-Original": quote(names.repaired(name), safe="")}
    modified = timestamps.from_nanoseconds(source.modified_ns) if source.dated else None
    if modified is not None:
        headers["Safelight-Modified"] = timestamps.text(modified)
    if not keep:
        headers["Safelight-Keep"] = "no"
    left_out = source.dated and modified is None
    return wanted, headers, "its time of modification is out of range, and is left out" if left_out else ""


def _commit_opened(reservation: atomic_output.Reservation) -> None:
    """Commit under a suffix for the image's type, if the reserved name has none.

    The name of a decrypted image is local, so it may still change.
    """
    image_type = sniff(os.pread(reservation.file.fileno(), HEAD, 0))
    better = names.with_type(reservation.name, image_type.extension) if image_type else None
    reservation.commit_counted(better)


def _times(image: Kept) -> list[int | None]:
    """When the image's file was last modified, if known, and when the vault stored the image: Unix time in nanoseconds.
    None for a time that no file can have.
    """
    modified = [] if image.modified is None else [timestamps.to_nanoseconds(image.modified)]
    return [*modified, round(image.created * 1e6) * 1000 if math.isfinite(image.created) else None]
