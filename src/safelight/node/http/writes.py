"""The requests that only a leader, or a node that it assigns, processes: encrypt, decrypt, remove."""

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

SCOPE = web.RequestKey("scope", Scope)
"""What the request was admitted for."""


class WriteHandlers:
    """The handlers of requests that need admission."""

    def __init__(
        self,
        config: Config,
        node: int,
        *,
        admission: Admission,
        pipeline: Pipeline,
        vault_handle: VaultHandle,
        load: LoadTracker,
        log: Callable[[str], None],
    ) -> None:
        self._config, self._node = config, node
        self._admission, self._pipeline, self._vault_handle = admission, pipeline, vault_handle
        self._load, self._log = load, log

    async def seal(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/images/NAME: the response to an image is its sealed file, which the vault stores."""
        scope = await self._scope(request, Action.SEAL)
        if scope.keep and scope.scheme is Scheme.SEALED:
            with from_the_vault(scope.user, self._log):
                return await self._store(request, scope, self._vault_handle.vault)
        async with self._pipeline.spool() as spool:
            with self._load.work(scope.user, scope.size) as slot:
                size = await self._pipeline.seal(scope, self._body(request, scope, slot), spool)
            self._log(f"Encrypted an image for {scope.user} ({human_size(size)})")
            with self._load.answering(scope.user) as slot:
                return await self._send(request, scope, slot, spool.size, spool.chunks(), status=201)

    async def _store(self, request: web.Request, scope: Scope, vault: Vault) -> web.StreamResponse:
        try:
            return await self._store_and_respond(request, scope, vault)
        except UnknownImage:  # the image of this very upload, before it was compared with the body or sent
            raise AlreadyRemoved("this upload succeeded, and its image was removed since") from None

    async def _store_and_respond(self, request: web.Request, scope: Scope, vault: Vault) -> web.StreamResponse:
        original, modified = _original(request, scope), _modified(request)
        with self._load.work(scope.user, scope.size) as slot:
            body = self._body(request, scope, slot)
            image, sealed = await self._pipeline.store(scope, body, vault, original, modified)
        self._log(f"Encrypted an image for {scope.user} ({human_size(image.size)})")
        if _wants_a_receipt(request):
            headers = {**self._headers(scope, kept=True), "Preference-Applied": "return=minimal"}
            return web.Response(status=201, headers=headers)
        if sealed:
            response = web.StreamResponse(status=201, headers=self._file(scope, len(sealed), kept=True))
            return await send_whole(request, response, sealed, self._config.body_timeout)
        with self._load.answering(scope.user) as slot:
            response = web.StreamResponse(status=201, headers=self._file(scope, sealed_size_of(image), kept=True))
            return await send_sealed(request, response, vault, image, self._config.body_timeout, slot)

    async def open(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/opened/NAME: the response to a sealed file is its image."""
        scope = await self._scope(request, Action.OPEN)
        async with self._pipeline.spool() as spool:
            with self._load.work(scope.user, scope.size) as slot:
                size = await self._pipeline.verify(scope, self._body(request, scope, slot), spool)
            self._log(f"Decrypted an image for {scope.user} ({human_size(size)})")
            with self._load.answering(scope.user) as slot:
                return await self._send(request, scope, slot, size, self._pipeline.opened(scope, spool), status=200)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """DELETE /v1/images/NAME: remove an image from the vault, permanently."""
        scope = await self._admission.admit(request, Action.REMOVE)
        vault = self._vault_handle.vault
        with self._load.answering(scope.user):

            def check(image: Image) -> None:
                check_conditions(request, current(image))

            await vault.remove(scope.user, scope.name, check, enrolment=scope.enrolment)
        self._log(f"Removed an image of {scope.user}")
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    # -- admission -----------------------------------------------------------------------------------

    def _body(self, request: web.Request, scope: Scope, slot: Slot) -> RequestBody:
        return RequestBody(
            request.content,
            announced=scope.size,
            limit=largest_body(self._config, scope),
            stall_timeout=self._config.body_timeout,
            slot=slot,
        )

    async def _scope(self, request: web.Request, action: Action) -> Scope:
        return request.get(SCOPE) or await self.admit(request, action)

    async def admit(self, request: web.Request, action: Action) -> Scope:
        """Admit a request with a body, before its body. Raises Redirect and Refusal."""
        scope = request[SCOPE] = await self._admission.admit(request, action)
        if conditional(request):
            image = await self._stored(scope) if action is Action.SEAL else None
            if image is None or image.upload != scope.upload:  # else it has succeeded already (RFC 9110, 13.1.1)
                check_conditions(request, None if image is None else current(image))
        return scope

    async def _stored(self, scope: Scope) -> Image | None:
        """The image in the vault with the name of a request."""
        try:
            return await self._vault_handle.vault.find(scope.user, scope.name, enrolment=scope.enrolment)
        except UnknownImage:
            return None

    # -- responses -----------------------------------------------------------------------------------

    async def _send(
        self,
        request: web.Request,
        scope: Scope,
        slot: Slot,
        size: int,
        chunks: AsyncGenerator[Bytes],
        *,
        status: int,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=self._file(scope, size, kept=False))
        return await send(request, response, chunks, self._config.body_timeout, slot)

    def _file(self, scope: Scope, size: int, *, kept: bool) -> dict[str, str]:
        return {**self._headers(scope, kept=kept), "Content-Type": SEALED_TYPE, "Content-Length": str(size)}

    def _headers(self, scope: Scope, *, kept: bool) -> dict[str, str]:
        return {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Safelight-Node": str(self._node),
            "Safelight-Upload": scope.upload,
            "Safelight-Kept": "yes" if kept else "no",
        }


def _original(request: web.Request, scope: Scope) -> str:
    """The name of the image's original file, from the request's header; otherwise the image's name."""
    value = request.headers.get("Safelight-Original")
    if value is None:
        return scope.name
    return check_image_name(unescaped(value, "Safelight-Original"))


def _modified(request: web.Request) -> Decimal | None:
    """When that file was last modified, in Unix seconds."""
    value = request.headers.get("Safelight-Modified")
    if value is None:
        return None
    modified = timestamps.read(value)
    if modified is None:
        raise Refusal(Problem.BAD_REQUEST, "Safelight-Modified is a time in Unix seconds, such as 1795380272.5")
    return modified


def _wants_a_receipt(request: web.Request) -> bool:
    """Whether the request has `Prefer: return=minimal` (RFC 7240, 4.2)."""
    preferences = ",".join(request.headers.getall("Prefer", [])).split(",")
    return "return=minimal" in (each.partition(";")[0].replace(" ", "").lower() for each in preferences)
