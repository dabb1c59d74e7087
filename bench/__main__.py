"""`make bench`, which is `python -m bench`: all speeds in one run, beside their peers, into bench/RESULTS.md.

Rounds are interleaved, so that a machine that is busy elsewhere is so for all; each figure is the median of the rounds,
each ratio the median of the rounds' ratios. `--quick` is for trying it out: small sizes, one round, nothing written.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from bench import peers, results
from bench.picture import SPEED, speed
from bench.speed import ALONE, AT_A_PLACE, QUICK, WHOLE, Figure, placed

MEMORY_DISK = Path("/dev/shm")


class Goal(NamedTuple):
    """A row of the table."""

    name: str
    what: str
    unit: str
    peer: str
    """Whose figure stands beside it."""
    ratio: float | None = None
    """Of ours to the peer's, at least."""
    least: float | None = None
    most: float | None = None
    limit: str = ""
    """What keeps it from being better."""


GOALS = [
    Goal("seal in memory", "seal 64 MiB in memory", "MB/s", "openssl", 0.9,
         limit="memory: each segment has its own buffer"),
    Goal("open in memory", "open 64 MiB in memory", "MB/s", "openssl", 0.9, limit="the same"),
    Goal("kept and handed back", "a large image, sealed, stored and returned", "MB/s", "nginx + curl, PUT + GET", 1.0,
         limit="three processes on two cores, one of them encrypting"),
    Goal("kept", "that image, sealed and stored, sent by curl", "MB/s", "nginx + curl, PUT", 1.0,
         limit="a copy into segments, the cipher, and Python's parser of HTTP"),
    Goal("get", "`get` of that image, decrypted", "MB/s", "nginx + curl, GET", 0.8,
         limit="the same; nginx uses sendfile"),
    Goal("one after the other", "100 KB images, one after the other", "images/s", "", least=400,
         limit="Python, alternately in client and leader: see below"),
    Goal("upload DIR", "100 KB images, `upload DIR`", "images/s", "", least=800,
         limit="2.9 ms of processor time for each image in all processes: see below"),
    Goal("eight at once", "100 KB images, eight at once by wrk", "images/s", "nginx, PUT", 0.4,
         limit="changes of Python's lock in the leader: see below"),
    Goal("memory of the leader", "leader's memory growth for a huge image", "MiB", "", most=32),
    Goal("memory of the client", "client's memory growth for a huge image", "MiB", "", most=32),
    Goal("safelight --help", "`safelight --help`", "s", "python -c pass", most=0.15, limit="click"),
    Goal("safelight upload", "`safelight upload` of a small image, the whole process", "s", "", most=0.5,
         limit="imports"),
    Goal("safelight up, until an upload is done", "`safelight up`, until an upload is done", "s", "", most=1.5,
         limit="four times the imports, on two cores"),
    Goal("curl to a sink of bare aiohttp", "curl to bare aiohttp, which discards the body", "MB/s", ""),
    Goal("openssl enc, file to file", "`openssl enc -aes-128-ctr`, file to file", "MB/s", ""),
    Goal("age, file to file", "`age -r`, file to file", "MB/s", ""),
]  # fmt: skip


def main() -> None:
    options = _options()
    scale = QUICK if options.quick else WHOLE
    only = options.only or [*ALONE, *AT_A_PLACE]
    figures: dict[str, dict[str, list[Figure]]] = defaultdict(lambda: defaultdict(list))
    skipped: list[str] = []
    for _ in range(options.rounds):
        for name in ALONE.keys() & {*only}:
            _collect(name, ALONE[name](scale), figures["anywhere"], skipped)
    places = {_kind(place): place for place in options.dir}
    if AT_A_PLACE.keys() & {*only}:
        for kind, parent in places.items():
            with placed(parent, scale) as place:
                for _ in range(options.rounds):
                    for name in [name for name in AT_A_PLACE if name in only]:
                        _collect(f"{name}, {kind}", AT_A_PLACE[name](place), figures[kind], skipped)
    text = "\n".join([*_machine(options), "", *_table(figures), "", *_notes(skipped)])
    print(text)
    if not options.quick:
        results.write("speed", text)
        SPEED.write_text(speed())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help="default 5; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small sizes, and nothing is written")
    parser.add_argument("--only", action="append", choices=[*ALONE, *AT_A_PLACE], help="may be given several times")
    parser.add_argument("--dir", action="append", metavar="DIR", help="where; by default in memory and on the disk")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    memory = [str(MEMORY_DISK)] if os.access(MEMORY_DISK, os.W_OK) else []
    places = [*memory, tempfile.gettempdir()]
    options.dir = options.dir or (places[:1] if options.quick else places)
    return options


def _collect(name: str, rounds: Iterable[Figure], figures: dict[str, list[Figure]], skipped: list[str]) -> None:
    print(f"... {name}", file=sys.stderr, flush=True)
    try:
        for figure in rounds:
            figures[figure.name].append(figure)
    except peers.Absent as absent:
        line = f"Not measured: {name} ({absent})."
        if line not in skipped:
            skipped.append(line)


def _table(figures: dict[str, dict[str, list[Figure]]]) -> list[str]:
    rows = ["| what | where | measured | peer | ratio | goal | what limits it |", "|---|---|---|---|---|---|---|"]
    for goal in GOALS:
        for where, found in figures.items():
            if not (rounds := found.get(goal.name)):
                continue
            ours, ratio = statistics.median(each.ours for each in rounds), _ratio(rounds)
            theirs = [each.peer for each in rounds if each.peer is not None]
            peer = f"{_said(statistics.median(theirs), goal.unit)} ({goal.peer})" if theirs else ""
            times = "" if ratio is None or goal.ratio is None else f"{ratio:.2f}"
            cells = [goal.what, where, _said(ours, goal.unit), peer, times, _goal(goal, ours, ratio), goal.limit]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _goal(goal: Goal, ours: float, ratio: float | None) -> str:
    """What was to be reached, and whether it is."""
    if goal.ratio is not None and ratio is not None:
        return f"≥ {goal.ratio} × {_met(ratio >= goal.ratio)}"
    if goal.least is not None:
        return f"≥ {goal.least:g} {_met(ours >= goal.least)}"
    if goal.most is not None:
        return f"≤ {goal.most:g} {_met(ours <= goal.most)}"
    return ""


def _met(so: bool) -> str:
    return "✓" if so else "**missed**"


def _ratio(rounds: list[Figure]) -> float | None:
    ratios = [each.ours / each.peer for each in rounds if each.peer]
    return statistics.median(ratios) if ratios else None


def _said(value: float, unit: str) -> str:
    return f"{value:.{3 if unit == 's' else 0}f} {unit}"


def _machine(options: argparse.Namespace) -> list[str]:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    versions = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "cryptography"))
    command = f"python -m bench --rounds {options.rounds}{' --quick' if options.quick else ''}"
    return [
        f"`{command}` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores of {cpu}, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}, {versions}. "
        f"Medians of {options.rounds} rounds.",
    ]


def _notes(skipped: list[str]) -> list[str]:
    return [
        *skipped,
        "A large image has 512 MiB, a huge one 2 GiB, a directory 1,000 images. nginx does not sync what it stores; "
        "Safelight syncs four times before it acknowledges. For wrk and curl Safelight answers with a receipt "
        "(`Prefer: return=minimal`), as nginx does.",
    ]


def _kind(place: str) -> str:
    """What a directory is on: "tmpfs", or another file system's type."""
    try:
        return peers.run("stat", "-f", "-c", "%T", place).strip()
    except (OSError, subprocess.CalledProcessError):
        return place


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
