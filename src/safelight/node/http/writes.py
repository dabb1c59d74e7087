"""What only the leader does: an image in, its sealed file out; a sealed file in, its image out; an image removed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from decimal import Decimal

from safelight import timestamps
from safelight.config import Config
from safelight.encryption import Scheme
from safelight.encryption.stream import Bytes
from safelight.names import check_image_name
from safelight.node.http.admission import Admission
from safelight.node.http.conditional import check_conditions, conditional
from safelight.node.http.reads import current
from safelight.node.http.request_head import unescaped
from safelight.node.http.responses import from_the_vault, send, send_sealed, send_whole
from safelight.node.state.vault_handle import VaultHandle
from safelight.node.work.fair_share import Slot
from safelight.node.work.limits import largest_body
from safelight.node.work.load import LoadTracker
from safelight.node.work.pipeline import Pipeline
from safelight.node.work.request_body import RequestBody
from safelight.runtime.http import web
from safelight.sizes import human_size
from safelight.vault.records import Image
from safelight.vault.vault import AlreadyRemoved, UnknownImage, Vault, sealed_size_of
from safelight.wire.messages import SEALED_TYPE, Action, Problem, Refusal
from safelight.wire.tickets import Scope

JOB = web.RequestKey("job", Scope)


class WriteHandlers:
    """The handlers of requests that pass the leader's gate."""

    def __init__(
        self,
        config: Config,
        node: int,
        *,
        gate: Admission,
        workshop: Pipeline,
        keeper: VaultHandle,
        load: LoadTracker,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._node = config, node
        self._gate, self._workshop, self._keeper, self._load, self._say = gate, workshop, keeper, load, say

    async def seal(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/images/NAME: an image in, its sealed file out, and kept in the vault."""
        job = await self._job(request, Action.SEAL)
        vault = self._keeper.vault if job.keep and job.scheme is Scheme.SEALED else None
        if vault is not None:
            with from_the_vault(job.user, self._say):
                return await self._keep(request, job, vault)
        async with self._workshop.spool() as spool:
            with self._load.work(job.user, job.size) as place:
                size = await self._workshop.seal(job, self._body(request, job, place), spool)
            self._say(f"Encrypted an image for {job.user} ({human_size(size)})")
            with self._load.answering(job.user) as place:
                return await self._send(request, job, place, spool.size, spool.chunks(), status=201)

    async def _keep(self, request: web.Request, job: Scope, vault: Vault) -> web.StreamResponse:
        try:
            return await self._keep_and_answer(request, job, vault)
        except UnknownImage:  # what this very upload has made, and what was compared with the body or about to be sent
            raise AlreadyRemoved("this upload succeeded, and its image was removed since") from None

    async def _keep_and_answer(self, request: web.Request, job: Scope, vault: Vault) -> web.StreamResponse:
        original, modified = _original(request, job), _modified(request)
        with self._load.work(job.user, job.size) as place:
            body = self._body(request, job, place)
            image, sealed = await self._workshop.keep(job, body, vault, original, modified)
        self._say(f"Encrypted an image for {job.user} ({human_size(image.size)})")
        if _wants_a_receipt(request):
            headers = {**self._headers(job, kept=True), "Preference-Applied": "return=minimal"}
            return web.Response(status=201, headers=headers)
        if sealed:
            response = web.StreamResponse(status=201, headers=self._file(job, len(sealed), kept=True))
            return await send_whole(request, response, sealed, self._config.body_timeout)
        with self._load.answering(job.user) as place:
            response = web.StreamResponse(status=201, headers=self._file(job, sealed_size_of(image), kept=True))
            return await send_sealed(request, response, vault, image, self._config.body_timeout, place)

    async def open(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/opened/NAME: a sealed file in, its image out."""
        job = await self._job(request, Action.OPEN)
        async with self._workshop.spool() as spool:
            with self._load.work(job.user, job.size) as place:
                size = await self._workshop.verify(job, self._body(request, job, place), spool)
            self._say(f"Opened an image for {job.user} ({human_size(size)})")
            with self._load.answering(job.user) as place:
                return await self._send(request, job, place, size, self._workshop.opened(job, spool), status=200)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """DELETE /v1/images/NAME: remove an image from the vault permanently."""
        job = await self._gate.admit(request, Action.REMOVE)
        vault = self._keeper.vault
        if vault is None:
            raise Refusal(Problem.NO_VAULT, "this cluster has no vault: there is nothing to remove")
        with self._load.answering(job.user):
            await vault.remove(
                job.user,
                job.name,
                lambda image: check_conditions(request, current(image)),
                enrolment=job.enrolment,
            )
        self._say(f"Removed an image of {job.user}")
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    # -- admission -----------------------------------------------------------------------------------

    def _body(self, request: web.Request, job: Scope, place: Slot) -> RequestBody:
        return RequestBody(
            request.content,
            announced=job.size,
            limit=largest_body(self._config, job),
            stall_timeout=self._config.body_timeout,
            place=place,
        )

    async def _job(self, request: web.Request, action: Action) -> Scope:
        if (job := request.get(JOB)) is None:
            job = await self.admit(request, action)
        return job

    async def admit(self, request: web.Request, action: Action) -> Scope:
        """The job that a request with a body is, if the body is wanted. Raises GoTo and Refusal."""
        job = request[JOB] = await self._gate.admit(request, action)
        if conditional(request):
            image = await self._kept(job) if action is Action.SEAL else None  # what is opened is never kept
            if image is None or image.upload != job.upload:  # else it has succeeded already (RFC 9110, 13.1.1)
                check_conditions(request, None if image is None else current(image))
        return job

    async def _kept(self, job: Scope) -> Image | None:
        """What the vault has under a job's name."""
        try:
            return (
                await self._keeper.vault.find(job.user, job.name, enrolment=job.enrolment)
                if self._keeper.vault is not None
                else None
            )
        except UnknownImage:
            return None

    # -- answers -------------------------------------------------------------------------------------

    async def _send(
        self,
        request: web.Request,
        job: Scope,
        place: Slot,
        size: int,
        chunks: AsyncGenerator[Bytes],
        *,
        status: int,
        kept: bool = False,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=self._file(job, size, kept=kept))
        return await send(request, response, chunks, self._config.body_timeout, place)

    def _file(self, job: Scope, size: int, *, kept: bool) -> dict[str, str]:
        return {**self._headers(job, kept=kept), "Content-Type": SEALED_TYPE, "Content-Length": str(size)}

    def _headers(self, job: Scope, *, kept: bool) -> dict[str, str]:
        return {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Safelight-Node": str(self._node),
            "Safelight-Upload": job.upload,
            "Safelight-Kept": "yes" if kept else "no",
        }


def _original(request: web.Request, job: Scope) -> str:
    """The name of the file that the image comes from, as the request says it; else the image's name."""
    said = request.headers.get("Safelight-Original")
    if said is None:
        return job.name
    return check_image_name(unescaped(said, "Safelight-Original"))


def _modified(request: web.Request) -> Decimal | None:
    """When that file was last modified: Unix seconds."""
    said = request.headers.get("Safelight-Modified")
    if said is None:
        return None
    modified = timestamps.read(said)
    if modified is None:
        raise Refusal(Problem.BAD_REQUEST, "Safelight-Modified is a number of Unix seconds, such as 1795380272.5")
    return modified


def _wants_a_receipt(request: web.Request) -> bool:
    """Whether the request says `Prefer: return=minimal` (RFC 7240, 4.2)."""
    preferences = ",".join(request.headers.getall("Prefer", [])).split(",")
    return "return=minimal" in (each.partition(";")[0].replace(" ", "").lower() for each in preferences)
