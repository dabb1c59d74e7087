"""A real cluster for a test: processes on free ports of loopback, in the test's own directory, stopped at its end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import LocalCluster, ephemeral_config

GENEROUS = 30.0
"""Seconds that a test waits for what takes milliseconds: a slow machine is no failure."""

SETTLED = 5.0
"""A heartbeat for clusters that are not to hold an election while a test looks elsewhere, however busy the machine
is. It slows nothing down when nodes start, die and return, as long as all of them do: links tell, not heartbeats.
"""

_T = TypeVar("_T")


class Running:
    """A cluster's processes, what they print, and a few questions that tests ask."""

    def __init__(self, cluster: LocalCluster, lines: dict[int, list[str]], heard: threading.Condition) -> None:
        self.cluster = cluster
        self.config = cluster.config
        self._lines = lines
        self._heard = heard

    def said(self, node: int) -> list[str]:
        """What a node has printed so far."""
        with self._heard:
            return list(self._lines.get(node, []))

    def wait_for_line(self, node: int, text: str, *, after: int = 0) -> str:
        """The first line of a node, from its line number `after` on, that has `text` in it."""

        def found() -> str | None:
            return next((line for line in self._lines.get(node, [])[after:] if text in line), None)

        with self._heard:
            self._heard.wait_for(found, GENEROUS)
            line = found()
        assert line is not None, f"node {node} never said {text!r}: {self.said(node)}"
        return line

    def leader(self) -> int:
        """Wait until all nodes that answer agree on a leader that answers, too."""
        return asyncio.run(wait_for_leader(self.config, GENEROUS))

    def wait_until_leader(self, node: int) -> None:
        """Wait until all nodes that answer follow `node`."""
        eventually(lambda: self.leader() == node, f"node {node} leads")

    def suspend(self, node: int) -> None:
        """As `kill -STOP`, and wait until it stands still."""
        pid = self.cluster.pid(node)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)

    def wait_until_ended(self, *nodes: int) -> None:
        eventually(lambda: not {*nodes} & {*self.cluster.running}, f"the processes of nodes {nodes} ended")


@contextmanager
def running(directory: Path, nodes: int = 3, *, start: bool = True, **settings: Any) -> Iterator[Running]:
    """A cluster in `directory`; with `start` all its nodes run and have a leader when the block begins."""
    with running_as(ephemeral_config(directory, nodes, **settings)) as it:
        if start:
            it.cluster.start()
            it.wait_until_leader(nodes)
        yield it


@contextmanager
def running_as(config: Config) -> Iterator[Running]:
    """The cluster of a configuration; none of its nodes runs yet."""
    lines: dict[int, list[str]] = {}
    heard = threading.Condition()

    def on_line(node: int, line: str) -> None:
        with heard:
            lines.setdefault(node, []).append(line)
            heard.notify_all()

    with LocalCluster(config, on_line) as cluster:
        try:
            yield Running(cluster, lines, heard)
        except BaseException as error:
            for node, said in sorted(lines.items()):
                error.add_note("\n".join([f"The last that node {node} said:", *said[-12:]]))
            raise


def eventually(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < give_up, f"it never came true that {what}"
        time.sleep(0.02)


def as_user(config: Config, user: str, work: Callable[[Session], Awaitable[_T]]) -> _T:
    """Run `work` with a session of this user."""

    async def go() -> _T:
        async with Session(config, user) as session:
            return await work(session)

    return asyncio.run(go())
