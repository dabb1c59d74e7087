"""How often a node's process has crashed lately: a file that a clean stop deletes.

life-N.json   while node N runs, and after a crash: when it started, and after how many crashes
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from safelight.decoding import Malformed, decode
from safelight.node.state.data_directory import replace

CALM = 300.0
"""Seconds after which a crash no longer counts."""


class Run(NamedTuple):
    """One run of a node's process, as the next run finds it unless the process stopped cleanly."""

    since: float  # Unix time
    crashes: Annotated[int, msgspec.Meta(ge=0)]  # before it, each less than CALM after the start before


def next_run(last: Run | None, now: float) -> Run:
    """The run that starts `now` (Unix time) after `last` crashed; None after a clean stop, or if nothing is known."""
    if last is None:
        return Run(now, 0)
    lately = abs(now - last.since) < CALM  # a clock that was set back forgets crashes, harmlessly
    return Run(now, 1 + (last.crashes if lately else 0))


def record_start(directory: Path, node: int, now: float) -> Run:
    """Record that the node starts `now` (Unix time). If the disk fails, earlier crashes are unknown."""
    path, last = _path(directory, node), None
    with suppress(OSError, Malformed):
        last = decode(path.read_bytes(), Run)
    run = next_run(last, now)
    with suppress(OSError):
        replace(path, msgspec.json.encode(run))
    return run


def record_stop(directory: Path, node: int) -> None:
    """Record a stop on request, which is not a crash. It needs no free space on the disk."""
    with suppress(OSError):
        _path(directory, node).unlink(missing_ok=True)


def _path(directory: Path, node: int) -> Path:
    return directory / f"life-{node}.json"
