"""The command `safelight` as its users have it: a process with arguments, an environment, and an exit code."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safelight.cluster import environment
from safelight.config import Config
from tests.running import GENEROUS

COMMAND = (sys.executable, "-m", "safelight")


def safelight(
    *arguments: str | Path, config: Config, cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, without a terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(config),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=2 * GENEROUS,
    )


class Started:
    """A running one; everything that it prints is read, so that it never stands still."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._heard:
            self._heard.wait_for(found, GENEROUS)
            line = found()
        assert line is not None, f"never printed {text!r}: {self.lines}"
        return line

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end, without closing its standard input. The exit code, as subprocess tells it."""
        status = self.process.wait(GENEROUS)
        self._reader.join(GENEROUS)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


@contextmanager
def started(*arguments: str | Path, config: Config, cwd: Path) -> Iterator[Started]:
    """Standard output and standard error come together. It is killed at the end, if it is still there."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(config) | {"PYTHONUNBUFFERED": "1"},
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        it = Started(process)
        try:
            yield it
        finally:
            process.kill()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
