"""`up` and `run`: a cluster of child processes in one terminal, without and with a user's REPL.

All nodes start, or none does and one line states the reason. The others keep running if a node dies later.
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

_NO_NODE = "no node is running; the lines above state the reasons"


def up(config: Config) -> None:
    """Run all nodes until Ctrl-C or SIGTERM. Each line has the node's name in colour. Raises SafelightError if the last
    node ends.
    """
    lines = console()
    notes = console(stderr=True)
    notes.print(f"Starting {_described(config)}. Ctrl-C stops them.", style="dim")
    with (
        signals.unwinding(),
        _started(config, lambda node, line: lines.print(node_line(node, line)), "safelight status") as cluster,
    ):
        try:
            cluster.wait()
        except KeyboardInterrupt:
            notes.print("\nStopping the nodes. Ctrl-C again stops them at once.", style="dim")
            return
    raise SafelightError(_NO_NODE)


def run(config: Config, user: str) -> bool:
    """Run all nodes and `user`'s REPL. The nodes stop with the REPL. Returns False if a command from a pipe failed.

    Raises SafelightError if a node cannot start, or if no node leads in time.
    """
    check_user(user)
    board = _Board()
    board.note(f"Starting {_described(config)} ...")
    with signals.unwinding(), _started(config, board.line, f"safelight client {user}"):
        return signals.run(_run(config, user, board))


async def _run(config: Config, user: str, board: "_Board") -> bool:
    board.note(f"Node {await wait_for_leader(config, config.timeout)} leads.")
    board.attach(asyncio.get_running_loop())
    try:
        return await converse(config, user, board.reporter)
    finally:
        board.attach(None)


@contextmanager
def _started(config: Config, show: Callable[[int, str], None], otherwise: str) -> Iterator[LocalCluster]:
    """A cluster in which every node listens. `show` receives lines only from then on.

    Raises CannotStart; `otherwise` is the command to use if the nodes are already running.
    """
    held = _HeldOutput(show)

    def ended(node: int, how: str) -> None:
        held.line(
            node,
            f"{how}; to restart it, run in another terminal, with the options of this command: safelight server {node}",
        )

    with LocalCluster(config, held.line, ended) as cluster:
        cluster.start()
        try:
            cluster.wait_until_listening()
        except CannotStart as error:
            if "already in use" not in str(error):
                raise
            raise CannotStart(f"{error}. If the nodes are already running, use: {otherwise}") from None
        held.open()
        yield cluster


class _HeldOutput:
    """Holds lines back until `open`."""

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
    """Passes the nodes' lines to the REPL's event loop, which prints them above the prompt."""

    def __init__(self) -> None:
        self.reporter = ConsoleReporter(dialogue=True)
        self._notes = console(stderr=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def note(self, text: str) -> None:
        self._notes.print(text, style="dim")

    def line(self, node: int, text: str) -> None:
        if (loop := self._loop) is None:
            self.reporter.node(node, text)
        else:
            loop.call_soon_threadsafe(above_prompt, lambda: self.reporter.node(node, text))


def _described(config: Config) -> str:
    addresses = [address.netloc for address in config.addresses.values()]
    if len(addresses) == 1:
        return f"node 1 on {addresses[0]}"
    return f"nodes 1 to {len(addresses)} on {', '.join(addresses)}"
