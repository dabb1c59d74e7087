"""What the library returns: images, receipts, the state of the cluster. Plain frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.sizes import human_size

if TYPE_CHECKING:
    from safelight.client.requests.status import ServerStatus
    from safelight.wire.messages import Kept

__all__ = ["ClusterStatus", "Image", "NodeStatus", "Receipt"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Record:
    """A table of one row for each field where a notebook shows the value."""

    def _repr_html_(self) -> str:
        rows = [(field.name, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        cells = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
        return f"<table>{''.join(cells)}</table>"


@dataclass(frozen=True)
class Image(_Record):
    """One image in the vault.

    Attributes:
        name: Its unique name, such as `encrypted_cat_1730738456.png`.
        size: Bytes of the original.
        type: Its media type, such as `image/png`.
        created: When the vault stored it, in UTC.
        original: The file name it was uploaded from; empty if unknown.
        modified: When that file was last modified, in UTC, to the microsecond; None if unknown.
    """

    name: str
    size: int
    type: str
    created: datetime
    original: str
    modified: datetime | None

    @classmethod
    def _of(cls, kept: Kept) -> Image:
        modified = None if kept.modified is None else _time(float(kept.modified))
        return cls(kept.name, kept.size, kept.type, _time(kept.created) or _EPOCH, kept.original, modified)

    def __repr__(self) -> str:
        return f"<Image {self.name} {self.type} {human_size(self.size)} {self.created:%Y-%m-%d %H:%M:%S}Z>"


@dataclass(frozen=True)
class Receipt(_Record):
    """An upload that succeeded: the image is durable.

    Attributes:
        name: The image's name in the vault.
        size: Bytes of the original.
        node: The node that encrypted it.
        path: The local copy of the sealed file; None if none was asked for.
    """

    name: str
    size: int
    node: int
    path: Path | None

    def __repr__(self) -> str:
        return f"<Receipt {self.name} {human_size(self.size)} by node {self.node}>"


@dataclass(frozen=True)
class NodeStatus(_Record):
    """One node, as it describes itself, or as others last heard of it.

    Attributes:
        node: Its number.
        address: host:port.
        role: `leader`, `worker`, or another state of the election; `unreachable`.
        epoch: The epoch it is in, such as `1.3`; empty if unknown.
        uptime: Since it started; None if unknown.
        in_flight: Images it works on.
        error: Why it did not answer, or what is wrong with it; empty if nothing is.
    """

    node: int
    address: str
    role: str
    epoch: str
    uptime: timedelta | None
    in_flight: int
    error: str

    @classmethod
    def _of(cls, status: ServerStatus) -> NodeStatus:
        load = status.load
        if load is None or status.heard:
            return cls(status.server, status.address, "unreachable", "", None, 0, status.problem)
        epoch = f"{load.counter}.{load.leader}" if load.leader is not None else ""
        error = load.ineligible or load.degraded
        up = _time(load.uptime)  # from the network: it may be any number
        return cls(load.node, status.address, load.role, epoch, up - _EPOCH if up else None, load.in_flight, error)

    def __repr__(self) -> str:
        return f"<NodeStatus {self.node} {self.role} {self.epoch}>".replace(" >", ">")


@dataclass(frozen=True)
class ClusterStatus(_Record):
    """The cluster at one moment.

    Attributes:
        leader: The number of the node that leads; None if none does.
        nodes: Every node, in the order of the configuration.
    """

    leader: int | None
    nodes: tuple[NodeStatus, ...]

    def __repr__(self) -> str:
        return f"<ClusterStatus leader={self.leader} {' '.join(f'{each.node}:{each.role}' for each in self.nodes)}>"


def _time(seconds: float) -> datetime | None:
    """None for a time that no `datetime` holds."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None
