"""What a person at a terminal sees and types."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from safelight.config import Config
from safelight.local.cluster import ephemeral_config
from tests.cli.commandline import Terminal

YELLOW = "\x1b[33m"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return ephemeral_config(tmp_path / "cluster")


@pytest.fixture
def terminals() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(terminals: ExitStack, *arguments: str, config: Config, cwd: Path) -> Terminal:
    terminal = Terminal(*arguments, config=config, cwd=cwd)
    terminals.callback(terminal.close)
    return terminal


def test_a_conversation(terminals: ExitStack, config: Config, photograph: Path, tmp_path: Path) -> None:
    shutil.copy(photograph, tmp_path / "my photo.png")
    terminal = opened(terminals, "run", "--user", "alice", config=config, cwd=tmp_path)
    terminal.wait_for("alice>")
    terminal.type("upl\x1aaod\r")  # Ctrl-Z: nobody is there to suspend us for, so that nothing happens
    terminal.wait_for("did you mean upload?")
    terminal.type("upload my\t")
    terminal.wait_for("photo.png")
    terminal.type("\r")
    terminal.wait_for("Encrypted image saved to: images/encrypted_my photo_")
    terminal.wait_for("alice>")
    terminal.type("half a li\x03")
    terminal.wait_for("alice>")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_ends_the_upload_and_not_the_conversation(
    terminals: ExitStack, config: Config, photograph: Path, tmp_path: Path
) -> None:
    silent = terminals.enter_context(socket.create_server(("127.0.0.1", config.addresses[1].port)))
    terminal = opened(terminals, "client", "alice", config=config, cwd=tmp_path)
    terminal.wait_for("alice>")
    terminal.type(f"upload {photograph}\r")
    terminals.enter_context(silent.accept()[0])  # it waits for an answer that never comes,
    terminal.wait_for("asking the servers")  # and says so
    terminal.type("\x03")
    terminal.wait_for("stopped by Ctrl-C")
    terminal.wait_for("alice>")
    terminal.type(f"upload {photograph}\r")
    terminals.enter_context(silent.accept()[0])
    terminal.wait_for("asking the servers")
    terminal.interrupt()
    terminal.wait_for("stopped by Ctrl-C")
    terminal.wait_for("alice>")
    terminal.type("quit\r")
    assert terminal.end() == 0
    assert not list(tmp_path.glob("images/*"))


def test_colours_on_a_terminal_unless_somebody_asks_for_none(
    terminals: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = opened(terminals, "status", config=ephemeral_config(tmp_path), cwd=tmp_path)
    shown.end()
    assert YELLOW in shown.seen
    monkeypatch.setenv("NO_COLOR", "1")
    shown = opened(terminals, "status", config=ephemeral_config(tmp_path), cwd=tmp_path)
    shown.end()
    assert "unreachable" in shown.seen
    assert YELLOW not in shown.seen
