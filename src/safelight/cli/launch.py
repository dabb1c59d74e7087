"""`up` and `run`: a cluster of child processes in one terminal, without and with a user's REPL on top.

All nodes start, or none: of a cluster that is there already, or cannot be, one line says why. A node that dies
later takes nobody along.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safelight.cli.output.console import ConsoleReporter, console, node_line
from safelight.cli.user.repl import above_prompt, converse
from safelight.client.requests.status import wait_for_leader
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.local.cluster import CannotStart, LocalCluster
from safelight.names import check_user
from safelight.runtime import signals

_NOBODY = "no node is running any more; the lines above say why"


def up(config: Config, options: str = "") -> None:
    """All nodes until Ctrl-C or SIGTERM, their lines named and coloured. Raises SafelightError if none is left.

    `options`: how a command line says what is special about the configuration; empty, or with a space before it.
    """
    lines = console()
    notes = console(stderr=True)
    notes.print(f"Starting {_described(config)}. Ctrl-C stops them.", style="dim")
    with (
        signals.unwinding(),
        _started(config, options, lambda node, line: lines.print(node_line(node, line)), "safelight status") as cluster,
    ):
        try:
            cluster.wait()
        except KeyboardInterrupt:
            notes.print("\nStopping the nodes. Ctrl-C again stops them at once.", style="dim")
            return
    raise SafelightError(_NOBODY)


def run(config: Config, user: str, options: str = "") -> bool:
    """All nodes, and `user`'s REPL; the nodes stop with it. False if a command that came through a pipe failed.

    `options` as for `up`.

    Raises SafelightError if a node cannot start, or if none leads in time.
    """
    check_user(user)
    board = _Board()
    board.note(f"Starting {_described(config)} ...")
    with signals.unwinding(), _started(config, options, board.line, f"safelight client {user}"):
        return signals.run(_run(config, user, board))


async def _run(config: Config, user: str, board: "_Board") -> bool:
    board.note(f"Node {await wait_for_leader(config, config.timeout)} leads.")
    board.attach(asyncio.get_running_loop())
    try:
        return await converse(config, user, board.transcript)
    finally:
        board.attach(None)


@contextmanager
def _started(config: Config, options: str, show: Callable[[int, str], None], otherwise: str) -> Iterator[LocalCluster]:
    """A cluster whose nodes all listen. `show` gets no line before that is certain.

    Raises CannotStart; `otherwise` is the command of somebody who has forgotten that the nodes are running already.
    """
    curtain = _HeldOutput(show)

    def ended(node: int, how: str) -> None:
        curtain.line(node, f"{how}; to bring it back, type in another terminal: safelight server {node}{options}")

    with LocalCluster(config, curtain.line, ended) as cluster:
        cluster.start()
        try:
            cluster.wait_until_listening()
        except CannotStart as error:
            if "already in use" not in str(error):
                raise
            raise CannotStart(f"{error}. Are they running already? Then type: {otherwise}") from None
        curtain.open()
        yield cluster


class _HeldOutput:
    """Holds lines back until it is opened."""

    def __init__(self, show: Callable[[int, str], None]) -> None:
        self._show = show
        self._held: list[tuple[int, str]] | None = []
        self._lock = threading.Lock()

    def line(self, node: int, text: str) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append((node, text))
                return
        self._show(node, text)

    def open(self) -> None:
        with self._lock:
            held, self._held = self._held or [], None
            for node, text in held:
                self._show(node, text)


class _Board:
    """Where the nodes' lines go while a conversation goes on: to its event loop, which prints them above the prompt."""

    def __init__(self) -> None:
        self.transcript = ConsoleReporter(dialogue=True)
        self._notes = console(stderr=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def note(self, text: str) -> None:
        self._notes.print(text, style="dim")

    def line(self, node: int, text: str) -> None:
        if (loop := self._loop) is None:
            self.transcript.node(node, text)
        else:
            loop.call_soon_threadsafe(above_prompt, lambda: self.transcript.node(node, text))


def _described(config: Config) -> str:
    addresses = [address.netloc for address in config.addresses.values()]
    if len(addresses) == 1:
        return f"node 1 on {addresses[0]}"
    return f"nodes 1 to {len(addresses)} on {', '.join(addresses)}"
