"""What the command line says yes and no to, where no cluster is needed."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safelight import cli
from safelight.cluster import environment, throwaway
from safelight.config import Config
from tests.cli.commandline import COMMAND, safelight, started

NOWHERE = "127.0.0.1:1"  # tcpmux: nobody listens there


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting from outside; an empty configuration file, data directory and client directory."""
    monkeypatch.chdir(tmp_path)
    for key in Config.__struct_fields__:
        monkeypatch.delenv(f"SAFELIGHT_{key.upper()}", raising=False)
    monkeypatch.setenv("SAFELIGHT_CONFIG", "/dev/null")
    monkeypatch.setenv("SAFELIGHT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SAFELIGHT_CLIENT_DIR", str(tmp_path / "client"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Call":
    return Call(monkeypatch, capsys)


class Call:
    """`safelight` in this process: exit code, standard output, standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["safelight", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err


def test_help_costs_no_server_and_no_terminal() -> None:
    program = """if True:
        import sys
        from safelight.cli import main
        sys.argv = ["safelight", "--help"]
        try:
            main()
        finally:
            heavy = {"aiohttp", "asyncio", "cryptography", "msgspec", "PIL", "prompt_toolkit", "rich", "uvloop"}
            print(heavy & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_command_explains_itself(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for name in ("server", "up", "run", "client", "upload", "decrypt", "init", "status", "demo", "user", "token"):
        assert f"\n  {name} " in out
        assert call(name, "--help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["upld"], "No such command 'upld'"),
        (["upload", "photo.png"], "--user"),
        (["upload", "--user", "alice"], "PATH"),
        (["upload", "--user", "alice", "--scheme", "rot13", "x.png"], "rot13"),
        (["status", "--timeout", "soon"], "soon"),
        (["server"], "NODE"),
        (["server", "three"], "three"),
        (["status", "--servers", NOWHERE, "--nodes", "5"], "leave out --nodes"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(call: Call, arguments: list[str], reason: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("safelight: ")
    assert reason in err
    assert err.count("\n") == 1


def addresses(call: Call, *arguments: str) -> list[str]:
    _, out, _ = call("status", "--json", *arguments)  # whoever may be there
    return [server["address"] for server in json.loads(out)["servers"]]


def test_the_command_line_outdoes_the_environment_which_outdoes_the_file_which_outdoes_the_default(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(addresses(call)) == 3
    file = tmp_path / "safelight.toml"
    file.write_text('servers = ["127.0.0.1:2"]\n')
    assert addresses(call, "--config", str(file)) == ["127.0.0.1:2"]
    monkeypatch.setenv("SAFELIGHT_CONFIG", str(file))
    assert addresses(call) == ["127.0.0.1:2"]
    monkeypatch.setenv("SAFELIGHT_SERVERS", "127.0.0.1:3, 127.0.0.1:4")
    assert addresses(call) == ["127.0.0.1:3", "127.0.0.1:4"]
    assert addresses(call, "--servers", "127.0.0.1:5") == ["127.0.0.1:5"]
    assert addresses(call, "--nodes", "2", "--base-port", "6") == ["127.0.0.1:6", "127.0.0.1:7"]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("heartbeat = 0.5\ntimeot = 3\n", 2, "timeot"),
        ("\n\nheartbeat = 'often'\n", 3, "heartbeat"),
        ('max_image_size = "big"\n', 1, "max_image_size"),
        ('# three\nservers = ["127.0.0.1"]\n', 2, "servers"),
    ],
)
def test_a_broken_configuration_file_is_named_with_line_and_key(
    call: Call, tmp_path: Path, text: str, line: int, key: str
) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(text)
    code, _, err = call("status", "--config", str(file))
    assert code == 1
    assert err.startswith(f"safelight: {file}, line {line}, key {key}: ")
    assert err.count("\n") == 1


def test_a_missing_configuration_file_is_named(call: Call) -> None:
    code, _, err = call("status", "--config", "nowhere.toml")
    assert code == 1
    assert "nowhere.toml" in err


@pytest.mark.parametrize("name", ["../bob", "", "b" * 300])
@pytest.mark.parametrize("command", [["upload", "x.png", "--user"], ["client"], ["run", "--user"], ["token"]])
def test_what_is_no_user_name_is_refused(call: Call, command: list[str], name: str) -> None:
    code, out, err = call(*command, name)
    assert (code, out) == (1, "")
    assert "cannot be a user name" in err
    assert err.count("\n") == 1


def test_a_node_that_is_not_in_the_configuration_is_refused(call: Call) -> None:
    code, _, err = call("server", "7")
    assert code == 1
    assert "no node 7" in err


def test_a_port_in_use_is_named_with_the_way_to_choose_another(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call("server", "1", "--servers", f"127.0.0.1:{port}")
    assert code == 1
    assert f"port {port} is already in use" in err
    assert "--base-port" in err


def test_status_without_a_cluster_shows_each_node_as_unreachable_and_fails(call: Call) -> None:
    code, out, _ = call("status", "--servers", f"{NOWHERE},127.0.0.1:2")
    assert code == 1
    first, second = out.splitlines()[1:]
    assert first.split()[:3] == ["1", NOWHERE, "unreachable"]
    assert first.endswith("connection refused")
    assert second.split()[0] == "2"


def test_every_file_that_cannot_be_uploaded_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    code, out, err = call("upload", "--user", "alice", "missing.png", ".", "empty.png", "text.png")
    assert (code, out) == (1, "")
    assert [line.removeprefix("safelight: ").split("'")[1] for line in err.splitlines()] == [
        "missing.png",
        ".",
        "empty.png",
        "text.png",
    ]
    assert not (tmp_path / "images").exists()


def test_init_makes_a_keyring_once(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("init")
    assert code == 0
    assert str(tmp_path / "data") in out
    assert (tmp_path / "data" / "keyring.json").stat().st_mode & 0o077 == 0
    before = (tmp_path / "data" / "keyring.json").read_bytes()
    code, _, err = call("init")
    assert code == 1
    assert "exists already" in err
    assert (tmp_path / "data" / "keyring.json").read_bytes() == before


def test_an_operator_adds_a_user_by_fingerprint(call: Call) -> None:
    call("init")
    fingerprint = hashlib.sha256(b"a token").hexdigest()
    assert call("user", "add", "bob", fingerprint)[:2] == (0, "bob may use this cluster now.\n")
    assert call("user", "add", "bob", fingerprint)[:2] == (0, "bob could use this cluster already.\n")
    code, _, err = call("user", "add", "carol", "fingerprint")
    assert code == 1
    assert "64 hex digits" in err


def test_whoever_reads_the_output_may_go_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "upload", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(throwaway(tmp_path)),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = throwaway(tmp_path, nodes=1)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with started("upload", photo, "--user", "alice", "--servers", address, config=config, cwd=tmp_path) as it:
            connection, _ = silent.accept()  # now it waits for an answer that never comes
            with connection:
                it.send(signal.SIGINT)
                assert it.end() == 130
    assert it.lines in ([], [""])
    assert not list(tmp_path.glob("images/*"))


def test_without_a_terminal_nothing_is_coloured_and_nothing_moves(tmp_path: Path) -> None:
    done = safelight("status", config=throwaway(tmp_path), cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
