"""Whatever a process finds around itself at its start, it works or says in one line why not: closed and full standard
streams, pagers that fail, sizes that no terminal has, accounts without a home, names and settings of any bytes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from safelight import config
from safelight.config import Config
from safelight.local.cluster import environment, ephemeral_config
from tests.cli.commandline import COMMAND, Call, Terminal
from tests.running import GENEROUS, Running

NOWHERE = "127.0.0.1:1"
CLOSED = "safelight: cannot write to standard output: it is closed\n"
FULL = "safelight: cannot write to standard output: no space left on device\n"
NO_INPUT = "safelight: cannot read commands from standard input: it is closed\n"


class Shell:
    """`safelight` as a shell starts it: in a script it is `$S`."""

    def __init__(self, settings: Config, cwd: Path) -> None:
        self.cwd = cwd
        self._environment = environment(settings) | {"S": " ".join(COMMAND)}

    def __call__(self, script: str | bytes, **variables: str | None) -> tuple[int, str, str]:
        """The exit code, standard output, standard error. A variable that is None is not set."""
        env = {key: value for key, value in {**self._environment, **variables}.items() if value is not None}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=2 * GENEROUS,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def shell(shared_cluster: Running, tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Shell:
    """In an empty directory with p.png, of which alice has an image in the vault and a sealed file here."""
    shell = Shell(shared_cluster.config, tmp_path_factory.mktemp("work"))
    shutil.copy(photograph, shell.cwd / "p.png")
    assert shell("$S upload p.png --user alice --to sealed")[0] == 0
    return shell


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """In an empty directory, without settings."""
    return Call(tmp_path, monkeypatch, capsys)


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """No cluster, nothing in the directory."""
    return Shell(ephemeral_config(tmp_path / "cluster"), tmp_path)


# -- standard streams --

PRINTING = (
    "$S --help",
    "$S upload p.png --user alice",
    "$S upload p.png p.png --user alice --quiet",
    "$S ls --user bob",
    "$S ls --json --user alice",
    "$S get '*' --force --user alice",
    "$S status --json",
    "$S keys list",
    "$S verify",
    "echo status | $S client alice",
)


def each(shell: Shell, *scripts: str) -> list[tuple[int, str, str]]:
    with ThreadPoolExecutor(3) as threads:
        return list(threads.map(shell, scripts))


def test_a_full_device_is_one_line_and_exit_code_1(shell: Shell) -> None:
    results = each(shell, *(f"{script} > /dev/full" for script in PRINTING))
    assert dict(zip(PRINTING, results, strict=True)) == dict.fromkeys(PRINTING, (1, "", FULL))
    assert not [*shell.cwd.rglob(".*.part")]


def test_closed_streams_do_no_harm_but_to_what_goes_through_them(shell: Shell) -> None:
    uploads, lists = "$S upload p.png --user alice", "$S user list"
    for script, code, out, err in (
        (f"{uploads} <&-", 0, True, ""),
        (f"{uploads} 2>&-", 0, True, ""),
        (f"{uploads} >&-", 1, False, CLOSED),
        (f"{uploads} <&- 2>&-", 0, True, ""),
        (f"{uploads} <&- >&- 2>&-", 1, False, ""),
        (f"{lists} <&-", 0, True, ""),
        (f"{lists} <&- >&-", 1, False, CLOSED),
        ("$S get '*' --force --user alice <&-", 0, True, ""),
    ):
        result = shell(script)
        assert (result[0], bool(result[1]), result[2]) == (code, out, err), script


def test_an_error_that_cannot_be_told_is_still_an_exit_code(shell: Shell) -> None:
    assert [result[0] for result in each(shell, "$S info nosuch 2> /dev/full", "$S nosuch 2>&-")] == [1, 2]


def test_a_conversation_needs_something_to_read_from(shell: Shell) -> None:
    assert shell("$S client alice <&-") == (1, "", NO_INPUT)
    assert shell("$S rm p.png --user alice <&-")[0] == 1
    assert shell("$S user revoke bob <&-")[0] == 2


def test_a_reader_that_goes_away_is_no_news(shell: Shell) -> None:
    for command in ("upload p.png --user alice", "keys list"):
        assert shell(f"$S {command} | true")[2] == "", command


def test_a_cluster_and_a_node_start_with_closed_streams_and_stop_where_their_lines_cannot_be_written(
    alone: Shell,
) -> None:
    up = "$S up --nodes 1 --base-port $(( 10240 + RANDOM % 20000 ))"
    code, _, err = alone(f"{up} > /dev/full <&-")
    assert (code, err.splitlines()[1:]) == (1, [FULL.strip()])
    run = "echo status | $S run --user alice --nodes 1 --base-port $(( 10240 + RANDOM % 20000 ))"
    code, _, err = alone(f"{run} >&-")
    assert (code, err.splitlines()[-1]) == (1, CLOSED.strip())
    serving = (
        "port=$(( 10240 + RANDOM % 20000 )); $S server 1 --nodes 1 --base-port $port {} & pid=$!; "
        "until (: < /dev/tcp/127.0.0.1/$port) 2> /dev/null; do sleep 0.05; done; kill $pid; wait $pid"
    )
    assert alone(serving.format("<&- >&- 2>&-")) == (0, "", "")
    assert alone(serving.format("> /dev/full")) == (1, "", f"safelight: log lines of this node are lost: {FULL[11:]}")


# -- terminals --


def on_terminal(shell: Shell, settings: Config, *arguments: str, **variables: str) -> tuple[int, str]:
    """On one so low that a listing goes through a pager."""
    with closing(
        Terminal(*arguments, config=settings, cwd=shell.cwd, variables={"LINES": "2"} | variables)
    ) as terminal:
        return terminal.end(), terminal.seen.replace("\r\n", "\n")


def test_a_pager_that_cannot_work_is_done_without_and_one_that_fails_is_told(
    shell: Shell, shared_cluster: Running
) -> None:
    def ls(pager: str) -> tuple[int, str]:
        return on_terminal(shell, shared_cluster.config, "ls", "--user", "alice", PAGER=pager)

    _, expected, _ = shell("$S ls --user alice")
    for pager in ("'", "nosuchpager", "''", "cat"):
        assert ls(pager) == (0, expected), pager
    for pager, status in (("false", 1), ("sh -c 'exit 7'", 7)):
        code, seen = ls(pager)
        assert (code, seen.count("\n")) == (1, 1), seen
        assert seen.startswith("safelight: the pager ")
        assert seen.endswith(f" failed (exit status {status}): set PAGER to another\n")


@pytest.mark.parametrize("size", ["0", "-5", "abc", "²", "9" * 5000, "1", ""])
def test_no_size_of_a_terminal_takes_anything_away(
    call: Call, photograph: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, size)
    monkeypatch.setenv("TERM", "dumb")
    assert call("info", str(photograph))[1].splitlines()[0] == str(photograph)
    assert "Usage:" in call("upload", "--help")[1]
    assert len(call("status", "--servers", NOWHERE)[1].splitlines()) == 2


# -- homes --

NO_ACCOUNT = (
    "setpriv --reuid 4242 --regid 4242 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
)
"""Rights of an account that is not in /etc/passwd; it may read the interpreter, wherever that is."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be another account")
@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_what_needs_one_says_so_and_the_rest_works(alone: Shell, home: str | None) -> None:
    nothing: dict[str, str | None] = dict.fromkeys(("SAFELIGHT_DATA_DIR", "SAFELIGHT_CLIENT_DIR", "SAFELIGHT_CONFIG"))
    for command, key in (
        ("init", "data_dir"),
        ("token alice", "client_dir"),
        ("upload x.png --user alice", "client_dir"),
    ):
        option = f"--{key.replace('_', '-')}"
        expected = f"safelight: {key}: this account has no home directory: set HOME, or say {option}\n"
        assert alone(f"{NO_ACCOUNT} $S {command}", HOME=home, **nothing) == (1, "", expected)
    code, out, err = alone(f"{NO_ACCOUNT} $S upload --help", HOME=home, **nothing)
    assert (code, err) == (0, "")
    assert "default: 16 GiB" in out
    directory = tempfile.gettempdir()
    code, out, err = alone(f"{NO_ACCOUNT} $S status --servers {NOWHERE} --client-dir {directory}", HOME=home, **nothing)
    assert (code, err) == (1, "")
    assert "connection refused" in out
    assert not [*alone.cwd.glob("~*")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be another account")
@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent", "/" + "a" * 300])
def test_a_home_that_cannot_be_used_is_named(alone: Shell, home: str) -> None:
    nothing: dict[str, str | None] = dict.fromkeys(("SAFELIGHT_DATA_DIR", "SAFELIGHT_CLIENT_DIR", "SAFELIGHT_CONFIG"))
    for command in ("init", "verify"):
        code, out, err = alone(f"{NO_ACCOUNT} $S {command}", HOME=home, XDG_DATA_HOME=None, **nothing)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert home in err


def test_a_file_in_the_working_directory_is_never_the_configuration(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (".", "~/.config", "~", ".config"):
        (tmp_path / directory / "safelight").mkdir(parents=True)
        (tmp_path / directory / "safelight" / "config.toml").write_text('servers = ["127.0.0.1:2"]\n')
    monkeypatch.delenv("SAFELIGHT_CONFIG")
    for home in ("", "."):
        for config_home in (".", "~/.config", ""):
            monkeypatch.setenv("HOME", home)
            monkeypatch.setenv("XDG_CONFIG_HOME", config_home)
            _, out, _ = call("status")
            assert "127.0.0.1:8001" in out


# -- bytes --


def test_names_of_any_bytes_are_uploaded_and_come_back(
    shell: Shell, shared_cluster: Running, photograph: Path, tmp_path: Path
) -> None:
    work, inside = Shell(shared_cluster.config, tmp_path), os.fsencode(tmp_path)
    locale = {"LC_ALL": "C", "PYTHONIOENCODING": None}
    os.mkdir(inside + b"/d\xfe")
    for name in (b"/a\xff.png", b"/d\xfe/\xff.png", "/ü.png".encode()):
        Path(os.fsdecode(inside + name)).write_bytes(photograph.read_bytes())
    assert work(rb"$S upload $'a\xff.png' --user eve --to $'to\xff'", **locale)[0] == 0
    assert work(rb"$S upload $'d\xfe' --user eve", **locale)[0] == 0
    code, out, _ = work("$S upload ü.png --user eve --quiet --to $'to\\xff'", **locale)
    assert code == 0
    assert Path(tmp_path, out.rstrip("\n")).exists(), "a path is printed as it is"
    code, out, err = work(rb"$S get '*' --user eve --to $'back\xff'", **locale)
    assert (code, err) == (0, "")
    assert len(os.listdir(inside + b"/back\xff")) == 3
    for path in os.scandir(inside + b"/back\xff"):
        assert Path(os.fsdecode(path.path)).read_bytes() == photograph.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ls", "\udcff*", "--user", "alice"], 0, "no image matches"),
        (["get", "\udcff", "--user", "alice"], 1, "no image is called"),
        (["get", "\udcff*", "--user", "alice"], 1, "no image matches"),
        (["rm", "\udcff", "--yes", "--user", "alice"], 1, "no image is called"),
        (["upload", "p.png", "--user", "\udcff"], 1, "cannot be a user name"),
        (["info", "nosuch\udcff"], 1, "does not exist"),
        (["\udcff"], 2, "No such command"),
        (["status", "--servers", "\udcff:1"], 1, "is not a server's address"),
        (["status", "--servers", f"https://{NOWHERE}", "--tls-ca", "\udcff"], 1, "no such file"),
        (["verify", "--vault", "file:///\udcff"], 1, "not UTF-8"),
        (["verify", "--vault", "file:///a%00b"], 1, "control characters"),
        (["verify", "--vault", "file://[x"], 1, "not a vault's address"),
        (["init", "--data-dir", "/proc/a\nb"], 1, "data directory"),
        (["init", "--data-dir", "x\udcff"], 0, "is created"),
    ],
)
def test_words_of_any_bytes_are_answered_in_one_line(
    call: Call, shared_cluster: Running, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    for key, value in environment(shared_cluster.config).items():
        monkeypatch.setenv(key, value)
    status, out, err = call(*words)
    assert status == code
    assert said in out + err
    assert err.count("\n") <= 1


def test_a_conversation_takes_any_bytes_and_no_home_that_does_not_exist(shell: Shell) -> None:
    commands = (
        rb"info \xff\nls \xff\nupload ~nosuchuser/p.png\nupload p.png --to ~nosuchuser\nget p.png --to ~nosuchuser/x"
    )
    code, out, err = shell(b"printf '" + commands + b"' | $S client alice")
    assert (code, err) == (1, "")
    assert out.count("does not exist\n") == 2
    assert out.count("there is no home directory ~nosuchuser: write the whole path, or ./~nosuchuser\n") == 2
    assert not (shell.cwd / "~nosuchuser").exists()


# -- settings --


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"timeout = 1" + 400 * b"0", "key timeout: "),
        (b"timeout = 1" + 5000 * b"0", "too long a number"),
        (b"timeout = nan", "must be above 0"),
        (b"timeout = inf", "must be at most 3600"),
        (b"heartbeat = nan", "must be at least"),
        (b"max_in_flight = 1" + 30 * b"0", "must be at most 100000"),
        (b"max_image_size = 1" + 30 * b"0", "must be at most"),
        (b'max_image_size = "1' + 400 * b"0" + b' G"', "more than any file has"),
        (b"servers = " + 3000 * b"[", "nested too deeply"),
        (b"x = " + 3000 * b"{a=", "nested too deeply"),
        (b'client_dir = "a\\u0000b"', "NUL"),
        (b'client_dir = "~nosuchuser/x"', "there is no home directory ~nosuchuser"),
        (b'vault = "file:///a\\u0000b"', "control characters"),
        (b"a\0b = 1", "this is not TOML"),
        ("timeout = 1".encode("utf-16"), "not UTF-8"),
        (b" " * (1 << 20) + b"\n", "larger than 1 MiB"),
    ],
)
def test_a_configuration_of_any_bytes_is_refused_in_one_line(
    call: Call, tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "c.toml").write_bytes(text + b"\n")
    code, out, err = call("status", "--config", "c.toml", "--servers", NOWHERE)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("safelight: c.toml")
    assert said in err


def test_a_byte_order_mark_is_no_part_of_a_configuration(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b'\xef\xbb\xbfservers = ["127.0.0.1:2"]\n')
    assert "127.0.0.1:2" in call("status", "--config", "c.toml")[1]


def test_a_configuration_may_come_through_a_pipe_and_not_from_a_directory(
    alone: Shell, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "$S status --config <(sleep 0.2; echo 'servers = [\"127.0.0.1:2\"]')"
    assert "127.0.0.1:2" in alone(script, SAFELIGHT_SERVERS=None)[1]
    monkeypatch.setattr(config, "SLOWEST", 0.1)
    os.mkfifo(alone.cwd / "fifo")
    for path, said in ((".", "is a directory"), ("fifo", "nothing is written"), ("/dev/zero", "larger than 1 MiB")):
        code, out, err = call("status", "--config", path)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert said in err


@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [
        ("status --nodes 1" + 30 * "0", "", "do not exist"),
        ("status --base-port 1" + 30 * "0", "", "do not exist"),
        ("server 1" + 30 * "0", "", "there is no node"),
        ("status", "TIMEOUT=nan", "must be above 0"),
        ("status", "TIMEOUT=1e400", "must be at most 3600"),
        ("server 1", "MAX_IN_FLIGHT=1" + 30 * "0", "must be at most 100000"),
        ("up", "MAX_IMAGE_SIZE=1" + 400 * "0", "more than any file has"),
        ("init", "DATA_DIR=~nosuchuser/x", "there is no home directory ~nosuchuser"),
        ("init --data-dir ~nosuchuser/x", "", "there is no home directory ~nosuchuser"),
        ("step-down --for nan", "", "for 1 to"),
    ],
)
def test_a_number_or_place_that_cannot_be_is_refused_in_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: str, variable: str, said: str
) -> None:
    if variable:
        monkeypatch.setenv(*f"SAFELIGHT_{variable}".split("="))
    code, out, err = call(*words.split())
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err


CORE_LIMIT = """
import atexit, resource
from safelight.cli.main import main
atexit.register(lambda: print(resource.getrlimit(resource.RLIMIT_CORE)))
main()
"""


def test_no_command_leaves_a_core_dump(shell: Shell) -> None:
    program = f"ulimit -c unlimited; {sys.executable} -c '{CORE_LIMIT}'"
    for command in ("keys list", "user list", "token alice"):
        assert shell(f"{program} {command}")[1].endswith("(0, 0)\n")
