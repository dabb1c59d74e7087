"""Nodes as child processes of this one: started, heard, killed and stopped; none of them outlives it.

Each child is `python -m safelight server N` in a session of its own, so the terminal's Ctrl-C is ours to pass on.
It holds the other end of a pipe that nothing is ever written to; when that pipe ends it stops. So a parent that
is killed with SIGKILL takes its nodes along, too. The configuration travels in the environment: the command line
of a process is everybody's to read, and `ps` shows which node is which.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safelight.config import Config, local_servers
from safelight.errors import SafelightError

START = 30.0  # seconds that a node has until it listens
GRACE = 2.0  # seconds beyond `drain_timeout` until a stopping node is killed
_PREFIX = "SAFELIGHT_"
_PASSED_ON = {"SAFELIGHT_KEYRING_SECRET"}  # no setting: a `Config` may be shown, a secret not
_LISTENING = "listening on "  # how a node's first line begins, if it could start,
_COMPLAINT = "safelight: "  # and how its last line begins if it could not


class CannotStart(SafelightError):
    """A node ended before it listened; the message is its own reason."""


@dataclass
class _Child:
    process: subprocess.Popen[str]
    reader: threading.Thread | None = None
    last: str = ""
    listening: bool = False
    stopping: bool = False
    ended: bool = False


class LocalCluster:
    """The nodes of a configuration, or some of them. Leaving the `with` block stops them all, without a word.

    `on_line(node, line)` gets every line that a node prints; `on_end(node, how)`, or `on_line` if there is none, gets
    the way in which a node ended that was not stopped. Both are called from a thread of each node.
    """

    def __init__(
        self,
        config: Config,
        on_line: Callable[[int, str], None],
        on_end: Callable[[int, str], None] | None = None,
    ) -> None:
        self.config = config
        self._on_line = on_line
        self._on_end = on_end or on_line
        self._leaving = False
        self._children: dict[int, _Child] = {}
        self._changed = threading.Condition()
        self._broken: BaseException | None = None

    @property
    def running(self) -> list[int]:
        """The nodes whose processes have not ended, suspended ones included."""
        with self._changed:
            return [node for node, child in self._children.items() if not child.ended]

    def start(self, *nodes: int) -> None:
        """Start these nodes; all of the configuration if none is named. Does not wait until they are ready."""
        for node in nodes or tuple(self.config.addresses):
            self._start(node)

    def wait_until_listening(self) -> None:
        """Return when every node that was started listens: what answers at its address is ours, then.

        Raises CannotStart as soon as that is settled for each and one will not, or if one takes longer than
        START; and what `on_line` raised.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._broken is not None or all(each.listening or each.ended for each in self._children.values())
                ),
                START,
            )
            for node, child in self._children.items():
                if not child.listening and self._broken is None:
                    raise CannotStart(self._why_not(node, child))
        if self._broken is not None:
            raise self._broken

    def _why_not(self, node: int, child: _Child) -> str:
        if not child.ended:
            return f"node {node} has not started within {START:g} s: the machine may be too busy"
        own = child.last.removeprefix(_COMPLAINT)
        return own if own != child.last else f"node {node} {_end(child.process.wait())} ({own or 'without a word'})"

    def pid(self, node: int) -> int:
        return self._children[node].process.pid

    def kill(self, node: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, and with SIGKILL wait for the end."""
        child = self._children[node]
        child.process.send_signal(how)
        if how is signal.SIGKILL:
            self._await([child], timeout=None)

    def wait(self) -> None:
        """Return when no node is running any more. Raises what `on_line` raised (a closed pipe, perhaps)."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken is not None or not self.running)
        if self._broken is not None:
            raise self._broken

    def stop(self, *nodes: int) -> None:
        """SIGTERM to these nodes (or all); SIGKILL to those that go on beyond their deadline, or when interrupted."""
        children = [self._children[node] for node in nodes or tuple(self._children)]
        for child in children:
            child.stopping = True
            child.process.terminate()
            child.process.send_signal(signal.SIGCONT)  # a suspended process would not hear of it otherwise
        try:
            self._await(children, timeout=self.config.drain_timeout + GRACE)
        finally:
            for child in children:
                child.process.kill()
            self._await(children, timeout=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving = True  # how stopping nodes elect the last of them looks like a disaster, and is none
        self.stop()

    def _start(self, node: int) -> None:
        if node in self.running:
            raise SafelightError(f"node {node} is running already")
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "safelight", "server", str(node), "--until-eof"],
            env=environment(self.config),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        child = _Child(process)
        child.reader = threading.Thread(target=self._listen, args=(node, child), daemon=True)
        with self._changed:
            self._children[node] = child
        child.reader.start()

    def _listen(self, node: int, child: _Child) -> None:
        assert child.process.stdout is not None
        with child.process.stdout as lines:
            for line in lines:
                child.last = line.rstrip("\n")
                if child.last.startswith(f"Node {node}: {_LISTENING}"):
                    with self._changed:
                        child.listening = True
                        self._changed.notify_all()
                self._say(self._on_line, node, child.last)
        status = child.process.wait()
        if not child.stopping:
            self._say(self._on_end, node, _end(status))
        if child.process.stdin is not None:
            child.process.stdin.close()
        with self._changed:
            child.ended = True
            self._changed.notify_all()

    def _say(self, say: Callable[[int, str], None], node: int, line: str) -> None:
        if self._broken is None and not self._leaving:  # else swallowed: a node must not stand still on a full pipe
            try:
                say(node, line)
            except BaseException as error:
                with self._changed:
                    self._broken = error
                    self._changed.notify_all()

    def _await(self, children: list[_Child], timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(
                lambda: all(child.ended for child in children),
                None if deadline is None else deadline - time.monotonic(),
            )


def _end(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended by itself, with exit status {status}"


def environment(config: Config) -> dict[str, str]:
    """This process's environment, in which `safelight` finds exactly `config` and reads no file."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_PREFIX) or key in _PASSED_ON}
    settings = {
        _PREFIX + key.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for key in config.__struct_fields__
        if (value := getattr(config, key)) is not None
    }
    return {**inherited, **settings, _PREFIX + "CONFIG": os.devnull, "PYTHONIOENCODING": "utf-8"}


_NOT_EPHEMERAL = range(10240, 32768)
"""Below what Linux (32768 and up) and the others (49152 and up, RFC 6335) take for outgoing connections."""


def ephemeral_config(directory: Path, nodes: int = 3, **settings: Any) -> Config:
    """The configuration of a cluster on free ports of this machine that keeps everything in `directory`."""
    servers = tuple(server for port in _free_ports(nodes) for server in local_servers(1, port))
    return Config(
        **{
            "servers": servers,
            "data_dir": directory / "data",
            "client_dir": directory / "client",
            "drain_timeout": 5.0,
            **settings,
        }
    )


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, and that no outgoing connection will be given.

    A port that the kernel hands out (bind to 0) lies in the ephemeral range: while its node is down, any connection
    of any program may get it as its own, even one to that very port (TCP's simultaneous open with itself), and then
    the node cannot come back.
    """
    ports: list[int] = []
    with ExitStack() as sockets:
        while len(ports) < count:
            port = random.choice(_NOT_EPHEMERAL)  # noqa: S311 — a port is no secret
            with suppress(OSError):
                sockets.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports
