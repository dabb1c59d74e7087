"""What `status` shows: a line for each node, and the same as a document."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from safelight.cli.output.console import plain
from safelight.cli.output.tables import Column, Table
from safelight.client.requests.status import ServerStatus, leader_of
from safelight.sizes import human_size
from safelight.wire.messages import Load

_COLUMNS = [
    Column("NODE", 9),
    Column("ADDRESS", 8),
    Column("ROLE", 9),
    Column("EPOCH", 7),
    Column("LEADER", 6),
    Column("UPTIME", 5, right=True),
    Column("IN FLIGHT", 2, right=True),
    Column("IMAGES", 4, right=True),
    Column("BYTES", 3, right=True),
    Column("DECLINES", 1, right=True),
]
_COUNTS = 5  # columns that a node's peers know, too


def status_lines(servers: Iterable[ServerStatus], width: int | None) -> list[Text]:
    """A table with one line for each node, for a terminal of this width (None: any). The leader's line is bold; an
    error follows the line, or stands below it where the terminal is narrow.

    For an unreachable node the table shows the load that its peers report, not its role or epoch: they may be old.
    """
    rows, ends, styles = [], [""], ["dim"]
    for status in servers:
        load, own = status.load, status.load if not status.heard else None
        state = (own.role, epoch(own) or "-", f"{own.leader or '-'}") if own else ("unreachable", "-", "-")
        rows.append((f"{status.server}", plain(status.address), *state, *(_counts(load) if load else ["-"] * _COUNTS)))
        ends.append(_health(own) if own else status.problem + ("; load as its peers report it" if load else ""))
        styles.append("yellow" if own is None else "bold" if own.leader == own.node else "")
    lines = []
    for line, end, style in zip(Table(_COLUMNS, width).lines(rows), ends, styles, strict=True):
        if end and width is not None and len(line) + 2 + len(end) > width:
            lines += [Text(line, style), Text(f"      {plain(end)}", style)]
        else:
            lines.append(Text(f"{line}  {plain(end)}" if end else line, style))
    return lines


def status_document(servers: list[ServerStatus]) -> dict[str, Any]:
    """`{"leader": 3, "epoch": "1.3", "used": 17, "servers": [{"server": 1, "load": {…}, "epoch": "1.3", …}, …]}`."""
    leader = leader_of(servers)
    found = []
    for status in servers:
        own = status.load if not status.heard else None
        words = {
            "node": status.server,
            "epoch": epoch(own) if own else None,
            "ineligible": own.ineligible if own else "",
        }
        found.append(dataclasses.asdict(status) | words | {"load": status.load})
    used = sum(status.load.used for status in servers if status.load)
    current = next((each["epoch"] for each in found if each["server"] == leader), None)
    return {"leader": leader, "epoch": current, "used": used, "servers": found}


def epoch(load: Load) -> str | None:
    """The epoch that a node is in, such as "1.3"; None while it follows no leader."""
    return None if load.leader is None else f"{load.counter}.{load.leader}"


def _counts(load: Load) -> list[str]:
    return [_duration(load.uptime), f"{load.in_flight}", f"{load.images}", human_size(load.bytes), f"{load.declines}"]


def _health(load: Load) -> str:
    health = {"ineligible": load.ineligible, "degraded": load.degraded, "advice": load.advice}
    return "  ".join(f"{what}: {why}" for what, why in health.items() if why)


def _duration(seconds: float) -> str:
    for length, unit, below in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < length * below:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"
