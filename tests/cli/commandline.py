"""The command `safelight` as its users have it: a process with arguments, an environment, and an exit code."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import pytest

from safelight.cli import main as cli
from safelight.config import Config
from safelight.local.cluster import environment
from tests.running import GENEROUS

COMMAND = (sys.executable, "-m", "safelight")


def safelight(*arguments: str | Path, config: Config, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
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


class Call:
    """`safelight` in this process: exit code, standard output, standard error."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """No setting from outside; everything is in `directory`."""
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.chdir(directory)
        for key in Config.__struct_fields__:
            monkeypatch.delenv(f"SAFELIGHT_{key.upper()}", raising=False)
        monkeypatch.setenv("SAFELIGHT_CONFIG", "/dev/null")
        monkeypatch.setenv("SAFELIGHT_DATA_DIR", str(directory / "data"))
        monkeypatch.setenv("SAFELIGHT_CLIENT_DIR", str(directory / "client"))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["safelight", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err


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


class Terminal:
    """`safelight` on a pseudo-terminal of its own: what a person types, and what a person sees."""

    def __init__(
        self,
        *arguments: str,
        config: Config,
        cwd: Path,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`variables`: of the environment, beside those of the configuration."""
        self._keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(config) | {"TERM": "xterm", **variables},
            cwd=cwd,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )
        os.close(screen)
        self.seen = ""

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self._keyboard, text.encode())

    def wait_for(self, text: str) -> None:
        give_up = time.monotonic() + GENEROUS
        while text not in self.seen:
            assert time.monotonic() < give_up, f"never showed {text!r}: {self.seen!r}"
            if select.select([self._keyboard], [], [], 0.1)[0]:
                self._read()

    def interrupt(self) -> None:
        """Ctrl-C as a signal: from `kill -INT`, and from a terminal on which it is no key."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """The exit code, once it has ended by itself; `seen` has the rest of what it showed."""
        with suppress(OSError):  # how Linux says that nobody has the screen open any more
            while True:
                self._read()
        return self._process.wait(GENEROUS)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(GENEROUS)
        os.close(self._keyboard)

    def _read(self) -> None:
        data = os.read(self._keyboard, 65536)
        if b"\x1b[6n" in data:  # "where is the cursor?"
            os.write(self._keyboard, b"\x1b[1;1R")
        self.seen += data.decode(errors="replace")
