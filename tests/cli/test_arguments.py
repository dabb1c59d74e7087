"""What the command line says yes and no to, where no cluster is needed."""

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from safelight.cli import main as cli
from safelight.config import Config
from safelight.encryption.sealed import MAGIC
from safelight.local.cluster import environment, ephemeral_config
from tests.cli.commandline import COMMAND, Call, safelight, started

NOWHERE = "127.0.0.1:1"  # tcpmux: nobody listens there


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(tmp_path, monkeypatch, capsys)


def test_help_costs_no_server_and_no_terminal() -> None:
    program = """if True:
        import sys
        from safelight.cli.main import main
        sys.argv = ["safelight", "--help"]
        try:
            main()
        finally:
            heavy = {"aiohttp", "asyncio", "cryptography", "msgspec", "PIL", "prompt_toolkit", "rich", "uvloop"}
            print(heavy & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_command_explains_itself(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call("--help")
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]
    for name in (
        "server",
        "up",
        "run",
        "client",
        "upload",
        "decrypt",
        "init",
        "status",
        "demo",
        "user",
        "token",
        "keys",
    ):
        assert f"\n  {name} " in out
        assert call(name, "--help")[0] == 0


def test_help_tells_the_defaults(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    _, out, _ = call("run", "--help")
    options = " ".join(out.split()).split(" --")
    for name, default in (
        ("data-dir", "/safelight]"),
        ("client-dir", "/safelight]"),
        ("profile", "lan]"),
        ("timeout", "30]"),
        ("max-image-size", "16 GiB]"),
    ):
        assert any(option.startswith(f"{name} ") and default in option for option in options), name


SHOWN = {
    "--max-image-size": r"\d+(\.\d)? [KMGT]iB",
    "--min-rate": r"\d+(\.\d)? [KMGT]iB",
    "--balance": "leader",
    "--profile": "lan",
    "--scheme": "sealed",
    "--servers": r"[0-9.:,]+",
    "--data-dir": r"[~/].*",
    "--client-dir": r"[~/].*",
    "--to": r"\w+",
}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_help_of_every_command_shows_the_value_that_holds_in_words_of_its_kind(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    seen = 0
    for path, command in commands(cli.safelight):
        code, out, err = call(*path, "--help")
        assert (code, err) == (0, "")
        text = " " + " ".join(out.partition("Options:")[2].split())
        for option in (each for each in command.params if isinstance(each, click.Option) and not each.hidden):
            name = option.opts[0]
            said = re.search(rf" {name}[, ].*?(?= --[a-z]|$)", text)
            assert said, (path, name)
            default = re.search(r"default: (.*?)\]", said[0])
            if default is None:
                assert option.is_flag or option.show_default is False or not getattr(Config(), option.name or "", None)
                continue
            seen += 1
            kind = SHOWN.get(name) or (r"\d+" if option.type is click.INT else r"\d+(\.\d+)?")
            assert re.fullmatch(kind, default[1]), (path, name, default[1])
    assert seen > 50
    assert "default: 64]" in " ".join(call("server", "--help")[1].split())


def test_the_user_may_be_named_once_and_for_all(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('user = "Alice"\n')
    code, _, err = call("token", "--config", str(file))  # a name that is none tells us whose turn it is
    assert code == 1
    assert err.startswith(f"safelight: {file}, key user: 'Alice' cannot be a user name")
    file.write_text('user = "alice"\n')
    monkeypatch.setenv("SAFELIGHT_USER", "Bob")
    for command in (["upload", "x.png"], ["decrypt", "x.png"], ["token"], ["client"], ["run"]):
        assert "'Bob' cannot be" in call(*command, "--config", str(file))[2]
    assert "'Carol' cannot be" in call("token", "Carol", "--config", str(file))[2]
    assert "'Carol' cannot be" in call("run", "--user", "Carol", "--config", str(file))[2]
    monkeypatch.delenv("SAFELIGHT_USER")
    assert "'x.png' does not exist" in call("upload", "x.png", "--config", str(file))[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["upld"], "No such command 'upld'"),
        (["upload", "photo.png"], "--user"),
        (["client"], "USER"),
        (["run"], "set user in the configuration file"),
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
    ("text", "key", "problem"),
    [
        ("heartbeat = 0.5\ntimeot = 3\n", "timeot", "there is no such setting; did you mean timeout?\n"),
        ("frobnicate = 1\n", "frobnicate", "there is no such setting; there are "),
        ("\n\nheartbeat = 'often'\n", "heartbeat", "expects a number, not text\n"),
        ("heartbeat = 0\n", "heartbeat", "must be at least 0.05\n"),
        ("timeout = 0\n", "timeout", "must be above 0\n"),
        ("timeout = 2020-01-01\n", "timeout", "expects a number, not a date\n"),
        ("insecure_http = 'yes'\n", "insecure_http", "expects true or false, not text\n"),
        ("data_dir = 3\n", "data_dir", "expects a path, in quotes\n"),
        ("profile = 'moon'\n", "profile", "choose local or lan or wan\n"),
        ('max_image_size = "big"\n', "max_image_size", "'big' is not a size"),
        ("max_image_size = []\n", "max_image_size", "'[]' is not a size"),
        ("max_image_size = 0\n", "max_image_size", "must be at least 1\n"),
        ('# three\nservers = ["127.0.0.1"]\n', "servers", "is not a server's address"),
        ("servers = 3\n", "servers", "expects a list, not a whole number\n"),
        ("servers = []\n", "servers", "this list is empty"),
        ('servers = ["127.0.0.1:1", "127.0.0.1:1"]\n', "servers", "127.0.0.1:1 is there twice"),
        ('vault = "none"\n', "vault", "to store no copy, upload with --no-keep\n"),
        ('\ntls_key = "key.pem"\n', "tls_key", "set tls_certificate, too"),
    ],
)
def test_a_broken_configuration_file_is_named_with_its_key(
    call: Call, tmp_path: Path, text: str, key: str, problem: str
) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(text)
    code, _, err = call("status", "--config", str(file))
    assert code == 1
    assert err.startswith(f"safelight: {file}, key {key}: ")
    assert problem in err
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


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_what_is_wrong_with_a_tls_file_is_said_in_plain_words(call: Call, tmp_path: Path, content: str | None) -> None:
    for name in ("a.pem", "b.pem"):
        if content is not None:
            (tmp_path / name).write_text(content)
    for command, options in (
        (["status", "--servers", "https://127.0.0.1:1"], ["--tls-ca", "a.pem"]),
        (["server", "1", "--servers", NOWHERE], ["--tls-certificate", "a.pem", "--tls-key", "b.pem"]),
    ):
        code, _, err = call(*command, *options)
        assert code == 1
        assert options[0].strip("-").replace("-", "_") + " a.pem" in err
        assert ("no such file" if content is None else "not in PEM format") in err
        assert "Errno" not in err
        assert "_ssl" not in err


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
    (tmp_path / "sealed.png").write_bytes(MAGIC + bytes(100))
    files = ["missing.png", "empty.png", "text.png", "sealed.png", "http://x/y.png"]
    code, out, err = call("upload", "--user", "alice", "--quiet", *files)
    assert (code, out) == (1, "")
    assert [line.removeprefix("safelight: ").split("'")[1] for line in err.splitlines()] == files
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
        env=environment(ephemeral_config(tmp_path)),
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
        config = ephemeral_config(tmp_path, nodes=1)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with started("upload", photo, "--user", "alice", "--servers", address, config=config, cwd=tmp_path) as it:
            connection, _ = silent.accept()  # now it waits for an answer that never comes
            with connection:
                it.send(signal.SIGINT)
                assert it.end() == 130
    assert it.lines in ([], [""])
    assert not list(tmp_path.glob("images/*"))


def test_without_a_terminal_nothing_is_coloured_and_nothing_moves(tmp_path: Path) -> None:
    done = safelight("status", config=ephemeral_config(tmp_path), cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
