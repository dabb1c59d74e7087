"""The messages that clients and nodes exchange over HTTP. docs/api.md documents them with examples.

Images travel unencoded. Everything else is JSON of the structures below; every refusal is a problem document
(RFC 9457) whose `type` is one of `Problem`.
"""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from enum import Enum, StrEnum
from http import HTTPStatus
from typing import Annotated

import msgspec

from safelight.decoding import Malformed, decode
from safelight.encryption import Scheme as Scheme
from safelight.errors import SafelightError

API = "/v1"
MAX_JSON = 16 * 1024
"""Bytes; more than any message here needs. Longer ones are refused before they are read."""

MAX_AVOIDED = 100
"""Nodes in `Offer.avoid`."""

MAX_LISTED = 10_000
"""Images in one listing."""

MAX_LISTING = 16 << 20
"""Bytes; more than a listing of so many images needs."""

PROBLEM_TYPE = "application/problem+json"
SEALED_TYPE = "application/octet-stream"
ACCEPT_SEALED = "application/vnd.safelight.sealed"
"""The media type in `Accept` that asks for the sealed file instead of the image."""
UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
TOKEN = re.compile(r"slt_[A-Za-z0-9_-]{43}")
"""A user's token. Secret scanners recognise the prefix; 43 characters are 32 bytes in base64url (RFC 4648, 5)."""


def fingerprint(token: str) -> str:
    """What the cluster stores of a user's token: its SHA-256, in 64 hex digits."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


class Action(StrEnum):
    """What a request does."""

    SEAL = "seal"
    OPEN = "open"
    REMOVE = "remove"  # without a body: DELETE

    @property
    def path(self) -> str:
        return f"{API}/opened" if self is Action.OPEN else f"{API}/images"


class Problem(Enum):
    """Every refusal: its name in `type`, its HTTP status, and its title."""

    BAD_REQUEST = ("bad-request", HTTPStatus.BAD_REQUEST, "The request is malformed")
    BAD_LENGTH = ("bad-length", HTTPStatus.BAD_REQUEST, "The body is not as long as announced")
    NO_CREDENTIALS = ("no-credentials", HTTPStatus.UNAUTHORIZED, "A token is required")
    UNKNOWN_TOKEN = ("unknown-token", HTTPStatus.UNAUTHORIZED, "Unknown token")
    WRONG_USER = ("wrong-user", HTTPStatus.FORBIDDEN, "The token belongs to another user")
    BAD_TICKET = ("bad-ticket", HTTPStatus.FORBIDDEN, "The ticket is not valid for this request")
    FOREIGN_ORIGIN = ("foreign-origin", HTTPStatus.FORBIDDEN, "The request comes from another site")
    BAD_ORDER = ("bad-order", HTTPStatus.FORBIDDEN, "The admin command is not valid")
    ENROLMENT_CLOSED = ("enrolment-closed", HTTPStatus.FORBIDDEN, "Only the operator adds users here")
    USER_REVOKED = ("user-revoked", HTTPStatus.FORBIDDEN, "The operator has revoked this user")
    NOT_FOUND = ("not-found", HTTPStatus.NOT_FOUND, "Not found")
    METHOD = ("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED, "The method is not allowed here")
    STALLED = ("stalled", HTTPStatus.REQUEST_TIMEOUT, "The body stalled")
    NAME_TAKEN = ("name-taken", HTTPStatus.CONFLICT, "The user name is taken")
    IMAGE_TAKEN = ("image-taken", HTTPStatus.CONFLICT, "Another image has this name, or had it")
    REMOVED = ("removed", HTTPStatus.GONE, "This upload's image was removed")
    PRECONDITION = ("precondition-failed", HTTPStatus.PRECONDITION_FAILED, "A condition of the request failed")
    TOO_LARGE = ("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The image is too large")
    UNSUPPORTED_TYPE = ("unsupported-type", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is encoded")
    RANGE = ("range-not-satisfiable", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The range is outside the image")
    EXPECTATION = ("expectation-failed", HTTPStatus.EXPECTATION_FAILED, "The expectation is not supported")
    TOO_MANY_TOKENS = ("too-many-tokens", HTTPStatus.TOO_MANY_REQUESTS, "Too many unknown tokens from this address")
    NOT_THE_LEADER = ("not-the-leader", HTTPStatus.MISDIRECTED_REQUEST, "Another node leads")
    OTHER_CLUSTER = ("other-cluster", HTTPStatus.MISDIRECTED_REQUEST, "The node belongs to another cluster")
    WRONG_HOST = ("wrong-host", HTTPStatus.MISDIRECTED_REQUEST, "The host is not this node's")
    CANNOT_OPEN = ("cannot-open", HTTPStatus.UNPROCESSABLE_ENTITY, "The file cannot be opened")
    DAMAGED = ("damaged", HTTPStatus.INTERNAL_SERVER_ERROR, "The image in the vault is damaged")
    INTERNAL = ("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error")
    UNKNOWN_CODING = ("unknown-coding", HTTPStatus.NOT_IMPLEMENTED, "The transfer coding is not supported")
    NO_LEADER = ("no-leader", HTTPStatus.SERVICE_UNAVAILABLE, "No node leads")
    LEAVING = ("leaving", HTTPStatus.SERVICE_UNAVAILABLE, "The node is draining")
    BUSY = ("busy", HTTPStatus.SERVICE_UNAVAILABLE, "The node is at capacity")
    LACKS_KEY = ("lacks-key", HTTPStatus.SERVICE_UNAVAILABLE, "The node lacks a key that others have")
    VAULT_AWAY = ("vault-away", HTTPStatus.SERVICE_UNAVAILABLE, "The vault is unavailable")
    OVERTAKEN = ("overtaken", HTTPStatus.SERVICE_UNAVAILABLE, "The upload took too long and was aborted")
    DISK_FULL = ("disk-full", HTTPStatus.INSUFFICIENT_STORAGE, "The node's disk is full")

    def __init__(self, slug: str, status: HTTPStatus, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title

    @property
    def uri(self) -> str:
        return f"urn:safelight:problem:{self.slug}"

    @classmethod
    def of(cls, uri: str) -> Problem | None:
        return _PROBLEMS.get(uri)


_PROBLEMS = {problem.uri: problem for problem in Problem}


class Refusal(SafelightError):
    """A request refused: raised in a node, sent as a problem document, raised again in the client."""

    def __init__(self, problem: Problem, detail: str, *, node: int = 0, leader: int | None = None) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.node = node
        self.leader = leader


class ProblemDocument(msgspec.Struct, kw_only=True, omit_defaults=True):
    """RFC 9457, with the node that refused, and the leader if it knows one."""

    type: str
    title: str = ""
    status: int = 0
    detail: str = ""
    node: int = 0
    leader: int | None = None


def problem_body(refusal: Refusal) -> bytes:
    """The body of a refusal: a problem document (RFC 9457)."""
    problem = refusal.problem
    return msgspec.json.encode(
        ProblemDocument(
            type=problem.uri,
            title=problem.title,
            status=int(problem.status),
            detail=refusal.detail,
            node=refusal.node,
            leader=refusal.leader,
        )
    )


def read_problem(status: int, body: bytes) -> Refusal:
    """The refusal in a problem document. Any other content becomes a Refusal with `Problem.INTERNAL`."""
    try:
        document = decode(body, ProblemDocument)
    except Malformed:
        document = ProblemDocument(type="")
    problem = Problem.of(document.type)
    if problem is None:
        return Refusal(
            Problem.INTERNAL, f"the server answered {status} without a problem document: it is not a Safelight node"
        )
    return Refusal(problem, document.detail, node=document.node, leader=document.leader)


class Offer(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """POST /v1/offers, sent to every node at once: a request without its body. The leader grants it."""

    user: str
    upload: str
    """The upload id: 32 hex digits, the same in all attempts."""
    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """Bytes of the body that will follow."""
    action: Action = Action.SEAL
    scheme: Scheme = Scheme.SEALED
    cluster: str = ""
    """The cluster that the offer is for; nodes of another cluster refuse. Empty: any cluster."""
    keep: bool = True
    """Whether to store the sealed image in the vault, if there is one. Classic files are never stored."""
    avoid: Annotated[list[int], msgspec.Meta(max_length=MAX_AVOIDED)] = []
    """Nodes that failed when this was assigned to them: assign another, if there is one."""


class Grant(msgspec.Struct, omit_defaults=True):
    """201: the leader's answer to an offer. PUT the body to `url`, with `Authorization: Ticket …`."""

    node: int
    counter: int
    """With `node` the epoch in which it was granted, as (counter, node)."""
    url: str
    ticket: str
    assigned: int | None = None
    """The node that processes the request, at `url`; None if that is `node` itself."""

    @property
    def epoch(self) -> tuple[int, int]:
        return (self.counter, self.node)


class NumberedOffer(msgspec.Struct, forbid_unknown_fields=True):
    """A frame on the WebSocket of GET /v1/offers: an offer, and the client's number for it."""

    number: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
    offer: msgspec.Raw
    """An `Offer`."""


class NumberedAnswer(msgspec.Struct):
    """The frame that answers an offer: the status and the body that POST /v1/offers would have."""

    number: int
    status: int
    body: msgspec.Raw
    """A `Grant`, or a problem document."""


class Kept(msgspec.Struct, omit_defaults=True):
    """One stored image of a user."""

    name: str
    size: int
    """Bytes of the image."""
    type: str
    """Its media type."""
    created: float
    """When it was stored: Unix seconds."""
    original: str = ""
    """The name of its original file, if the client sent it."""
    modified: Decimal | None = None
    """When that file was last modified: Unix seconds, to the nanosecond."""


class Listing(msgspec.Struct, omit_defaults=True):
    """GET /v1/images: a user's images, newest first; at most `MAX_LISTED`."""

    images: list[Kept]
    next: str | None = None
    """The value of `after` for the next listing; None if this is the last."""


class CommandResult(msgspec.Struct):
    """POST /v1/orders: the command was executed. `answer` is the signed acknowledgement."""

    answer: str


class ClusterInfo(msgspec.Struct):
    """GET /v1/cluster: which cluster and node this is. Needs no token."""

    cluster: str
    node: int
    version: str
    open_enrolment: bool


class Load(msgspec.Struct):
    """What a node has in progress and has done. It sends this with every heartbeat."""

    node: int
    role: str
    counter: int
    leader: int | None
    uptime: float = 0.0
    in_flight: int = 0
    images: int = 0
    bytes: int = 0
    declines: int = 0
    weight: int = 0
    """Of the requests in progress: their bytes, and 256 KiB for each."""
    ineligible: str = msgspec.field(default="", name="stands_back")
    """Why it may not lead; empty if it may."""
    degraded: str = ""
    """The fault of a node that may lead in spite of it, as no other node is known to be healthy; else empty."""
    free_slots: int = msgspec.field(default=0, name="room")
    """How many more images it takes."""
    used: int = 0
    """How often it has used the current cluster key: the larger of records that it sealed and data keys that it
    wrapped."""
    advice: str = ""
    """What the operator should do about that key; empty if nothing."""


class Status(msgspec.Struct):
    """GET /v1/status: this node's load, and those of the others from their heartbeats."""

    cluster: str
    node: int
    nodes: list[Load]
