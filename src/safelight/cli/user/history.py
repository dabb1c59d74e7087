"""What one user has uploaded, decrypted, downloaded and removed on this machine: one line of JSON for each result.

The file is in the client directory, readable by its owner alone, because paths are private. It is a convenience: a
command succeeds even if its line cannot be written. Only the newest lines are kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safelight.cli.output.documents import encode
from safelight.cli.output.listing import moment
from safelight.cli.output.tables import Column
from safelight.decoding import Malformed, decode
from safelight.runtime import atomic_file

LARGEST = 256 * 1024
"""Bytes; a larger file is cut to its newer half."""

COLUMNS = (
    Column("TIME", 5),
    Column("COMMAND", 8),
    Column("NODE", 1),
    Column("NAME", 6),
    Column("FROM", 2),
    Column("SAVED TO", 3),
)


class History:
    """The history of one user on this machine."""

    def __init__(self, client_dir: Path, user: str) -> None:
        self._file = client_dir / f"results-{user}.jsonl"

    def add(self, command: str, fields: dict[str, Any]) -> None:
        """Append a result of a command."""
        paths = {key: os.path.abspath(fields[key]) for key in ("file", "path") if key in fields}
        line = encode({"time": round(time.time(), 3), "command": command, **fields, **paths}) + b"\n"
        try:
            self._file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
            with open(os.open(self._file, flags, 0o600), "ab+", buffering=0) as file:
                file.write(line)
                if file.tell() > LARGEST:
                    file.seek(-LARGEST // 2, os.SEEK_END)
                    atomic_file.replace(self._file, file.read().partition(b"\n")[2])
        except OSError:  # a read-only home directory, or a full disk
            return

    def entries(self) -> list[dict[str, Any]]:
        """Everything there is, the newest first. A malformed line is skipped."""
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return []
        return [entry for line in reversed(lines) if (entry := _entry(line)) is not None]


def rows(entries: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The cells of `COLUMNS`."""
    return [
        [
            moment(entry["time"]),
            f"{entry['command']}",
            f"{entry.get('node', '')}",
            f"{entry.get('name') or ''}",
            f"{entry.get('file') or entry.get('original') or ''}",
            f"{entry.get('path', '')}",
        ]
        for entry in entries
    ]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = decode(line, dict[str, Any])
    except Malformed:
        return None
    return entry if isinstance(entry.get("time"), int | float) and isinstance(entry.get("command"), str) else None
