"""`run`, `up` and `demo`: what they print, how they end, and that nothing is left of them."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from safelight.config import Config
from safelight.local.cluster import ephemeral_config
from tests.cli.commandline import safelight, started
from tests.running import eventually, running_as


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return ephemeral_config(tmp_path / "cluster")


@pytest.fixture
def photo(tmp_path: Path, photograph: Path) -> Path:
    return Path(shutil.copy(photograph, tmp_path / "test.png"))


def listening(config: Config) -> list[int]:
    """The nodes whose ports answer."""
    found = []
    for node, address in config.addresses.items():
        with socket.socket() as probe:
            if probe.connect_ex((address.host, address.port)) == 0:
                found.append(node)
    return found


# -- run --


def test_run_does_what_it_reads_and_leaves_nothing_running(config: Config, photo: Path, tmp_path: Path) -> None:
    commands = f"upload {photo.name}\nupload {photo.name}\ndecrypt images/*\nstatus\nquit\nnever read\n"
    done = safelight("run", "--user", "alice", config=config, cwd=tmp_path, stdin=commands)
    assert done.returncode == 0
    assert listening(config) == []
    assert len(list((tmp_path / "images").iterdir())) == 2
    opened = list((tmp_path / "decrypted").iterdir())
    assert [path.read_bytes() for path in opened] == [photo.read_bytes()] * 2
    lines = done.stdout.splitlines()
    assert lines[:2] == ["alice> upload test.png", "Broadcasting..."]
    assert "alice> quit" in lines
    assert "never" not in done.stdout
    assert "Node 3: I am the new leader!" in done.stderr


def test_run_goes_on_after_a_failure_and_tells_of_it_at_the_end(config: Config, photo: Path, tmp_path: Path) -> None:
    done = safelight(
        "run", "--user", "alice", config=config, cwd=tmp_path, stdin=f"upload missing.png\nupload {photo.name}\n"
    )
    assert done.returncode == 1
    assert "✗ 'missing.png' does not exist\n" in done.stdout
    assert "✓ Success!" in done.stdout


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGINT, 130),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_however_run_ends_its_nodes_end_too(
    config: Config, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with started("run", "--user", "alice", config=config, cwd=tmp_path) as run:
        run.type("status")
        run.wait_for("alice> status")
        assert listening(config) == [1, 2, 3]
        run.send(number)
        assert run.end() == status
    assert "Traceback" not in "\n".join(run.lines)
    if number is signal.SIGKILL:
        eventually(lambda: not listening(config), "the nodes have ended")
    assert listening(config) == []


def test_run_beside_running_nodes_says_what_to_do(config: Config, tmp_path: Path) -> None:
    with running_as(config) as others:
        others.cluster.start()
        others.cluster.wait_until_listening()
        done = safelight("run", "--user", "bob", config=config, cwd=tmp_path, stdin="upload test.png\n")
        assert listening(config) == [1, 2, 3]
    assert (done.returncode, done.stdout) == (1, "")
    [_, line] = done.stderr.splitlines()
    assert f"port {config.addresses[1].port} is already in use" in line
    assert line.endswith("safelight client bob")


def test_what_no_node_can_work_with_is_said_once_and_without_a_wrong_hint(config: Config, tmp_path: Path) -> None:
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "keyring.json").write_text("my keys")
    (config.data_dir / "keyring.json").chmod(0o600)
    for command in (["run", "--user", "alice"], ["up"]):
        done = safelight(*command, config=config, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        [_, line] = done.stderr.splitlines()
        assert line.startswith(f"safelight: {config.data_dir / 'keyring.json'}")
        assert "running already" not in line


# -- up --


def test_up_names_the_lines_of_each_node_and_ctrl_c_stops_them(config: Config, tmp_path: Path) -> None:
    with started("up", config=config, cwd=tmp_path) as up:
        for node in (1, 2):
            up.wait_for(f"Node {node}: Node 3 is the leader")
        up.send(signal.SIGINT)
        assert up.end() == 0
    assert listening(config) == []
    assert all(line.startswith("Node ") for line in up.lines[1:] if line and "Stopping" not in line)
    assert not any(line.startswith("Node 1: Node 1: ") for line in up.lines)
    assert not any("DOWN" in line for line in up.lines)
    assert "\x1b" not in "\n".join(up.lines)


@pytest.mark.parametrize("taken", [[1, 2, 3], [3]])
def test_up_starts_all_nodes_or_says_in_one_line_why_not(config: Config, tmp_path: Path, taken: list[int]) -> None:
    with ExitStack() as others:
        for node in taken:
            others.enter_context(socket.create_server((config.addresses[node].host, config.addresses[node].port)))
        done = safelight("up", config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [_, line] = done.stderr.splitlines()
    assert f"port {config.addresses[taken[0]].port} is already in use" in line
    assert line.endswith("safelight status")
    assert listening(config) == []


def test_up_goes_on_without_a_node_that_dies_and_says_how_to_bring_it_back(config: Config, tmp_path: Path) -> None:
    with started("up", "--balance", "least-loaded", config=config, cwd=tmp_path) as up:
        for node in (1, 2):
            up.wait_for(f"Node {node}: Node 3 is the leader")
        os.kill(process_of(3, parent=up.process.pid), signal.SIGKILL)
        assert up.wait_for("Node 3: was killed").endswith("with the options of this command: safelight server 3")
        up.wait_for("Node 2: I am the new leader!")
        up.wait_for("Node 1: Node 2 is the leader")
        before = len(up.lines)
        up.send(signal.SIGTERM)
        assert up.end() == 128 + signal.SIGTERM
    assert not any("DOWN" in line or "leader" in line for line in up.lines[before:])


def process_of(node: int, *, parent: int) -> int:
    processes = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    found = [line.split(maxsplit=2) for line in processes.stdout.splitlines()]
    return next(int(pid) for pid, ppid, args in found if int(ppid) == parent and f" server {node} " in args)


# -- demo --


def test_the_demo_shows_a_failover_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    done = safelight("demo", "--to", "out", config=ephemeral_config(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Node 3 leads." in done.stdout
    assert "Node 2 has taken over: " in done.stdout
    assert "Leader 2 is DOWN" not in done.stderr
    assert done.stdout.count("decrypts to the original, byte for byte.") == 2
    assert done.stdout.endswith("Picture saved to: out/failover.png\n")
    assert (tmp_path / "out" / "failover.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(scratch.iterdir()) == []
