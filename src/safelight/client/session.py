"""One user's work with the cluster: images in, sealed files out, and back."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Self
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

BLINK = 0.1
"""Seconds that nobody needs to be told of; a disk takes longer to sync what is large."""


@dataclass(frozen=True)
class Saved:
    """The file that was put in place, the node that did the work, and the file's size in bytes.

    `kept`: the vault keeps the image, too, and calls it `name`. `note`: what could not be done as it ought to be.
    """

    path: Path
    node: int
    size: int
    kept: bool = False
    name: str = ""
    note: str = ""


class AlreadyThere(SafelightError):
    """A file that was to be made is there, and there is no need to make it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{names.shown(str(path))} is there already")
        self.path = path


class Session:
    """A user at a cluster; an async context manager."""

    def __init__(self, config: Config, user: str) -> None:
        self._config = config
        self._servers = Servers(config)
        self._account = Account(config, self._servers, user)
        self.images = Images(config, self._servers, self._account)
        self._swept: set[Path] = set()
        self._journals: dict[Path, ResumeLog] = {}

    async def __aenter__(self) -> Self:
        await self._servers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._account.close()
        for journal in self._journals.values():
            journal.close()
        await self._servers.__aexit__(kind, error, trace)

    async def seal(
        self,
        path: str | Path,
        *,
        to: Path,
        scheme: Scheme = Scheme.SEALED,
        any_type: bool = False,
        keep: bool = True,
        journal: Path | None = None,
        feedback: Feedback,
    ) -> Saved:
        """Encrypt the image at `path` into a new file in the directory `to`. Raises SafelightError.

        `keep`: in the vault, too, if the cluster has one. `journal`: this is part of a run over that directory; if an
        earlier one has begun with this file, it goes on under the same name and upload id: the vault keeps it once.
        """
        with self._image(path, any_type, once_more=journal is None) as source:
            if journal is None:
                return await self.seal_source(
                    source, Path(path).name, to=to, scheme=scheme, keep=keep, feedback=feedback
                )
            wanted, headers, note = _described(source, Path(path).name, keep)
            planned = Planned.of(source.path, source.size, source.modified_ns, to, scheme, keep)
            noted = await self._journal(journal)
            begun = noted.find(planned)
            if begun is not None and not begun.done:
                wanted = chain([(begun.name, begun.upload)], wanted)

            def commit(reservation: atomic_output.Reservation) -> None:
                noted.made(planned, tag_of(reservation.file.fileno()))
                reservation.commit_counted()

            wanted = noted.noting(planned, wanted)
            saved = await self._transform(source, Action.SEAL, scheme, to, wanted, commit, feedback, headers, keep)
            noted.finished(planned, saved.name if saved.kept else saved.path.name, saved.kept)
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
        saved = await self._transform(source, Action.SEAL, scheme, to, wanted, commit, feedback, headers, keep)
        return replace(saved, note=note if saved.kept else "")

    async def store(self, source: source_file.SourceFile, name: str, *, feedback: Feedback) -> tuple[str, int]:
        """Encrypt an image into the vault, without a local copy. Returns its name there, and the node that did it.

        Raises SafelightError.
        """
        wanted, headers, _ = _described(source, name, keep=True)
        for encrypted, upload in wanted:
            offer = await self._offer(source, Action.SEAL, Scheme.SEALED, encrypted, upload)
            transfer = Transfer(self._servers, offer, source, headers, None, feedback)
            try:
                return encrypted, await self._at_the_leader(offer, feedback, transfer.send)
            except Refusal as refusal:
                if refusal.problem is not Problem.IMAGE_TAKEN:
                    raise
        raise AssertionError("names do not run out")

    async def sealed_before(
        self, path: str, journal: Path, *, to: Path, scheme: Scheme, any_type: bool, keep: bool
    ) -> bool:
        """Whether an earlier run over the directory `journal` has encrypted this very image, unchanged since, and
        what it made is still there: in the vault if it was kept, else in `to`. Raises SafelightError.
        """
        with self._image(path, any_type, once_more=False) as source:
            planned = Planned.of(path, source.size, source.modified_ns, to, scheme, keep)
            done = (await self._journal(journal)).find(planned)
        if done is None:
            return False
        if not done.kept:
            return done.is_at(to / done.name)
        try:
            return (await self.images.find(done.name)).size == done.size
        except NoSuchImage:
            return False

    def _image(self, path: str | Path, any_type: bool, *, once_more: bool) -> source_file.SourceFile:
        """`once_more`: it was named by itself, not found in a directory."""
        limit = self._config.max_image_size
        return source_file.open_image(path, any_type=any_type, max_size=limit, once_more=once_more)

    async def _journal(self, directory: Path) -> ResumeLog:
        if directory not in self._journals:
            cluster = await self._account.cluster()
            found = ResumeLog.of(self._config.client_dir, cluster, self._account.user, directory)
            self._journals.setdefault(directory, found)
        return self._journals[directory]

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
        return await self._transform(source, Action.OPEN, scheme, to, wanted, _commit_opened, feedback)

    async def open_source(self, source: source_file.SourceFile, sink: Sink, *, feedback: Feedback) -> int:
        """Decrypt a sealed file into a sink. Returns the node that did it. Raises SafelightError."""
        name = names.decrypted_name(Path(source.path).name)
        offer = await self._offer(source, Action.OPEN, Scheme.SEALED, name, secrets.token_hex(16))
        transfer = Transfer(self._servers, offer, source, {}, sink, feedback)
        return await self._at_the_leader(offer, feedback, transfer.send)

    async def fetch(
        self,
        image: Kept,
        *,
        to: Path,
        name: str | None = None,
        sealed: bool = False,
        force: bool = False,
        among: set[atomic_output.Identity] | None = None,
        lookalikes: Lookalikes | None = None,
        progress: Callable[[int, int], None],
    ) -> Saved:
        """Decrypt an image of the vault into the directory `to`, under its original's name and with its time; or
        its sealed file, under the image's name. `name`: under this one instead.

        `force`: in place of what is there. `among`: the files that the images fetched before have, or were found to
        have; then a name that is taken counts on, and AlreadyThere is raised for an image whose file is there, of its
        size and time, or with all its bytes. `lookalikes`: of all images; a file that could be another's is taken for
        its bytes only. Raises SafelightError.
        """
        self._sweep(to)
        name = name or names.restored_name("" if sealed else image.original, image.name)
        size = sealed_size(Scheme.SEALED, image.size, self._account.user) if sealed else image.size
        moments = [] if sealed else _times(image)
        ours = set() if among is None else among
        counts_on = among is not None or force
        alike: list[tuple[Path, atomic_output.Identity]] = []  # of its size, and not of its time or perhaps another's

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
                        gap = path.name  # somebody removed that file, and the image's own may have a later number
                        continue
                    yield gap or path.name
                    if gap is None:
                        continue
                    gap = None
                    yield path.name
                elif not counts_on:
                    raise atomic_output.OutputExists(
                        f"{names.shown(str(path))} is there already: give --force to replace it, or --to DIR"
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
                if same and known not in ours:  # still
                    ours.add(known)
                    raise AlreadyThere(path)
            dated = await asyncio.to_thread(reservation.date, moments)
            chosen = reservation.name
            while True:
                try:
                    await atomic_output.in_thread(partial(reservation.commit, chosen, replace=force, others=ours))
                    break
                except (
                    atomic_output.OutputExists
                ):  # the file system takes two names for one, or another program was faster
                    chosen = next(candidates)
            left_out = not sealed and image.modified is not None and (dated is None or dated != moments[0])
            note = f"its time of modification is left out: no file in {names.shown(str(to))} can have it"
            return Saved(reservation.path, node, size, note=note if left_out else "")

    async def lookalikes(self) -> Lookalikes:
        """Of all the user's images, for `fetch`. Raises SafelightError."""
        found = Lookalikes()
        async for page in self.images.all():
            for image in page:
                file = names.restored_name(image.original, image.name)
                found.add(image.name, file, image.size, _times(image))
        return found

    async def remove(self, name: str, *, feedback: Feedback) -> int:
        """Remove an image from the vault permanently. Returns the node that did it. Raises SafelightError."""
        offer = Offer(
            user=self._account.user,
            upload=secrets.token_hex(16),
            name=name,
            size=0,
            action=Action.REMOVE,
            cluster=await self._account.cluster(),
        )
        return await self._at_the_leader(offer, feedback, Removal(self._servers).send)

    async def fingerprint(self) -> str:
        """What an operator needs to add this user: the SHA-256 of its token, made now if there is none."""
        return await self._account.fingerprint()

    # -- one image -----------------------------------------------------------------------------------

    async def _transform(
        self,
        source: source_file.SourceFile,
        action: Action,
        scheme: Scheme,
        to: Path,
        wanted: Iterator[tuple[str, str]],
        commit: Callable[[atomic_output.Reservation], None],
        feedback: Feedback,
        headers: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> Saved:
        """`wanted`: the names to try, each with its upload id."""
        self._sweep(to)
        while True:
            upload = ""

            def candidates() -> Iterator[str]:
                nonlocal upload
                for name, upload in wanted:  # noqa: B007 — it is the last one's that counts
                    yield name

            with atomic_output.reserve(to, candidates(), mode=source.mode) as reservation:
                offer = await self._offer(source, action, scheme, reservation.name, upload, keep)
                transfer = Transfer(self._servers, offer, source, headers or {}, reservation, feedback)
                try:
                    node = await self._at_the_leader(offer, feedback, transfer.send)
                except Refusal as refusal:
                    if refusal.problem is Problem.IMAGE_TAKEN:
                        continue
                    raise
                saving = asyncio.get_running_loop().call_later(BLINK, feedback.waiting, "saving")
                try:
                    await atomic_output.in_thread(lambda: commit(reservation))
                finally:
                    saving.cancel()
                return Saved(reservation.path, node, reservation.size, transfer.kept, offer.name)

    async def _offer(
        self, source: source_file.SourceFile, action: Action, scheme: Scheme, name: str, upload: str, keep: bool = True
    ) -> Offer:
        return Offer(
            user=self._account.user,
            upload=upload,
            name=name,
            size=source.size,
            action=action,
            scheme=scheme,
            cluster=await self._account.cluster(),
            keep=keep,
        )

    async def _at_the_leader(self, offer: Offer, feedback: Feedback, send: Send) -> int:
        """The node that did it."""
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
    """Under a suffix that says what the image is, if the reserved name has none.

    Nobody else knows an opened image's name yet: it may change until the last moment.
    """
    image_type = sniff(os.pread(reservation.file.fileno(), HEAD, 0))
    better = names.with_type(reservation.name, image_type.extension) if image_type else None
    reservation.commit_counted(better)


def _times(image: Kept) -> list[int | None]:
    """When the image's file was last modified, if that is known, and when the image was kept: Unix time, in
    nanoseconds. None for what is no time of any file.
    """
    modified = [] if image.modified is None else [timestamps.to_nanoseconds(image.modified)]
    return [*modified, round(image.created * 1e6) * 1000 if math.isfinite(image.created) else None]
