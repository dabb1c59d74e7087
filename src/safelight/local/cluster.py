"""Nodes as child processes of this one: start, listen to, kill and stop them. None of them outlives this process.

Each child is `python -m safelight server N` in its own session, so the terminal's Ctrl-C reaches this process only.
Each child holds the read end of a pipe that is never written to, and stops when the pipe ends: if this process is
killed with SIGKILL, its nodes stop, too. The configuration is in the environment, because other users can read the
command line of a process; `ps` shows which node is which.
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

START = 30.0  # seconds in which a node must listen
GRACE = 2.0  # seconds beyond `drain_timeout` until a stopping node is killed
_PREFIX = "SAFELIGHT_"
_PASSED_ON = {"SAFELIGHT_KEYRING_SECRET"}  # not a setting: a `Config` may be printed, a secret must not
_LISTENING = "listening on "  # how the first line of a node begins,
_COMPLAINT = "safelight: "  # and the last line of a node that could not start


class CannotStart(SafelightError):
    """A node ended before it listened. The message is the node's."""


@dataclass
class _Child:
    process: subprocess.Popen[str]
    reader: threading.Thread | None = None
    last: str = ""
    listening: bool = False
    stopping: bool = False
    ended: bool = False


class LocalCluster:
    """The nodes of a configuration, or some of them. Leaving the `with` block stops them all, silently.

    `on_line(node, line)` receives every line that a node prints. `on_end(node, how)`, or `on_line` if there is none, is
    called when a node ends that was not stopped. Each node has its own thread, which calls them.
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
        """The nodes whose processes have not ended, including suspended ones."""
        with self._changed:
            return [node for node, child in self._children.items() if not child.ended]

    def start(self, *nodes: int) -> None:
        """Start these nodes, or all nodes of the configuration. Does not wait until they listen."""
        for node in nodes or tuple(self.config.addresses):
            self._start(node)

    def wait_until_listening(self) -> None:
        """Return when every started node listens: from then on, its address is answered by this node and no other.

        Raises CannotStart if a node has ended or takes longer than START, and what `on_line` raised.
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
                    raise CannotStart(self._reason(node, child))
        if self._broken is not None:
            raise self._broken

    def _reason(self, node: int, child: _Child) -> str:
        if not child.ended:
            return f"node {node} has not started within {START:g} s: the machine may be too busy"
        own = child.last.removeprefix(_COMPLAINT)
        return own if own != child.last else f"node {node} {_end(child.process.wait())} ({own or 'without a message'})"

    def pid(self, node: int) -> int:
        return self._children[node].process.pid

    def kill(self, node: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal. With SIGKILL, wait until the process has ended."""
        child = self._children[node]
        child.process.send_signal(how)
        if how is signal.SIGKILL:
            self._await([child], timeout=None)

    def wait(self) -> None:
        """Return when every node has ended. Raises what `on_line` raised, such as BrokenPipeError."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken is not None or not self.running)
        if self._broken is not None:
            raise self._broken

    def stop(self, *nodes: int) -> None:
        """Send SIGTERM to these nodes (or all), and SIGKILL after their deadline, or if this is interrupted."""
        children = [self._children[node] for node in nodes or tuple(self._children)]
        for child in children:
            child.stopping = True
            child.process.terminate()
            child.process.send_signal(signal.SIGCONT)  # or a suspended process would not receive SIGTERM
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
        self._leaving = True  # the elections of nodes that stop one by one are of no interest
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
                self._report(self._on_line, node, child.last)
        status = child.process.wait()
        if not child.stopping:
            self._report(self._on_end, node, _end(status))
        if child.process.stdin is not None:
            child.process.stdin.close()
        with self._changed:
            child.ended = True
            self._changed.notify_all()

    def _report(self, report: Callable[[int, str], None], node: int, line: str) -> None:
        if self._broken is None and not self._leaving:  # discarded otherwise: a node must not block
            try:
                report(node, line)
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
    return f"ended with exit status {status}"


def environment(config: Config) -> dict[str, str]:
    """This process's environment, with every setting of `config` and no configuration file."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_PREFIX) or key in _PASSED_ON}
    settings = {
        _PREFIX + key.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for key in config.__struct_fields__
        if (value := getattr(config, key)) is not None
    }
    return {**inherited, **settings, _PREFIX + "CONFIG": os.devnull, "PYTHONIOENCODING": "utf-8"}


_NOT_EPHEMERAL = range(10240, 32768)
"""Below the ports that Linux (from 32768) and others (from 49152, RFC 6335) use for outgoing connections."""


def ephemeral_config(directory: Path, nodes: int = 3, **settings: Any) -> Config:
    """The configuration of a cluster on free ports of this machine, with all its files in `directory`."""
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
    """Ports of 127.0.0.1 that are free, and that the kernel does not use for outgoing connections.

    A port that the kernel chooses (bind to 0) is in the ephemeral range: while its node is down, an outgoing connection
    can occupy it, even one to that port (TCP's simultaneous open with itself), and the node cannot restart.
    """
    ports: list[int] = []
    with ExitStack() as sockets:
        while len(ports) < count:
            port = random.choice(_NOT_EPHEMERAL)  # noqa: S311 — a port is no secret
            with suppress(OSError):
                sockets.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports
