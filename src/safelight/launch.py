"""`up` and `run`: a cluster of child processes in one terminal, without and with a user's REPL on top."""

import asyncio
import sys

from safelight import signals
from safelight.client.console import Transcript, console, node_line
from safelight.client.repl import above_prompt, converse
from safelight.client.status import wait_for_leader
from safelight.cluster import Cluster
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import check_user

_NOBODY = "no node is running any more; the lines above say why"


def up(config: Config) -> None:
    """All nodes until Ctrl-C or SIGTERM, their lines named and coloured. Raises SafelightError if none is left."""
    lines = console()
    notes = console(stderr=True)
    notes.print(f"Starting {_described(config)}. Ctrl-C stops them.", style="dim")
    with signals.unwinding(), Cluster(config, lambda node, line: lines.print(node_line(node, line))) as cluster:
        cluster.start()
        try:
            cluster.wait()
        except KeyboardInterrupt:
            notes.print("\nStopping the nodes. Ctrl-C again stops them at once.", style="dim")
            return
    raise SafelightError(_NOBODY)


def run(config: Config, user: str) -> bool:
    """All nodes, and `user`'s REPL; the nodes stop with it. False if a command that came through a pipe failed.

    Raises SafelightError if no node could start, or if none leads in time.
    """
    check_user(user)
    board = _Board()
    with signals.unwinding(), Cluster(config, board.line) as cluster:
        board.note(f"Starting {_described(config)} ...")
        cluster.start()
        try:
            return signals.run(_run(config, user, cluster, board))
        finally:
            board.close()


async def _run(config: Config, user: str, cluster: Cluster, board: "_Board") -> bool:
    leader = asyncio.ensure_future(wait_for_leader(config, config.timeout))
    try:
        while not leader.done():
            if not cluster.running:
                raise SafelightError(f"{_NOBODY}. Are they running already? Then type: safelight client {user}")
            await asyncio.wait([leader], timeout=0.05)
        board.note(f"Node {leader.result()} leads.")
    finally:
        leader.cancel()
    board.attach(asyncio.get_running_loop())
    try:
        return await converse(config, user, board.transcript)
    finally:
        board.attach(None)


class _Board:
    """Where the nodes' lines go while a prompt may be waiting: to the event loop, which prints them above it."""

    def __init__(self) -> None:
        self.transcript = Transcript(dialogue=True)
        self._notes = console(stderr=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop if sys.stdin.isatty() else None

    def close(self) -> None:
        """Nobody wants to read how stopping nodes elect the last of them."""
        self._closed = True

    def note(self, text: str) -> None:
        self._notes.print(text, style="dim")

    def line(self, node: int, text: str) -> None:
        if self._closed:
            return
        if (loop := self._loop) is None:
            self.transcript.node(node, text)
        else:
            loop.call_soon_threadsafe(above_prompt, lambda: self.transcript.node(node, text))


def _described(config: Config) -> str:
    addresses = [address.netloc for address in config.addresses.values()]
    if len(addresses) == 1:
        return f"node 1 on {addresses[0]}"
    return f"nodes 1 to {len(addresses)} on {', '.join(addresses)}"
