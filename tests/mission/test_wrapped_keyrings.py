"""A wrapped keyring: useless without its secret, and otherwise a keyring like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from safelight.cli.admin import cluster as admin
from safelight.config import Config
from safelight.encryption.keyring_protection import Wrapper
from safelight.encryption.keys import Keyring
from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster
from safelight.node.state.key_file import DataError, KeyFile
from tests.cli.commandline import safelight
from tests.mission.support import contents, open_, seal, wait_until_all_follow
from tests.node.test_secrets import spellings
from tests.running import SETTLED, running, running_as

pytestmark = pytest.mark.slow

SECRET = "correct horse battery staple"
WRAPPER = Wrapper(SECRET.encode())
ENVIRONMENT = "SAFELIGHT_KEYRING_SECRET"


def secret_file(directory: Path, secret: str = SECRET, mode: int = 0o600) -> Path:
    path = directory / "secret"
    path.write_text(secret + "\n")
    path.chmod(mode)
    return path


def with_secret(config: Config, path: Path | None) -> Config:
    return msgspec.structs.replace(config, keyring_secret_file=path)


def keyring_of(config: Config) -> Keyring:
    return KeyFile(config.data_dir, WRAPPER).read()


def text_of(config: Config) -> str:
    return (config.data_dir / "keyring.json").read_text()


def test_init_wraps_at_once_and_wrap_and_unwrap_lose_nothing(tmp_path: Path) -> None:
    config = with_secret(ephemeral_config(tmp_path), secret_file(tmp_path))

    def keys(command: str) -> str:
        done = safelight(*command.split(), config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    keys("init")
    ring = keyring_of(config)
    assert contents(config.data_dir) == ["keyring.json"]
    hidden = [each for secret in (ring.node_secret, ring.current.secret) for each in spellings(secret)]
    for command, outcome, readable in [
        ("keys unwrap", "is unwrapped now", True),
        ("keys wrap", "is wrapped now", False),
        ("keys list", ring.current_id, False),
    ]:
        assert outcome in keys(command)
        assert any(each in text_of(config) for each in hidden) == readable
        assert keyring_of(config) == ring
        assert (config.data_dir / "keyring.json").stat().st_mode & 0o777 == 0o600
    assert contents(config.data_dir) == ["keyring.json", "keyring.lock"]
    assert "is wrapped already" in admin.wrap(config, wrapped=True)


def test_no_keyring_is_wrapped_with_a_short_secret_and_one_that_is_stays_usable(tmp_path: Path) -> None:
    short = "fifteen letters"
    config = with_secret(ephemeral_config(tmp_path, 1), secret_file(tmp_path, short))

    def says(command: str, code: int) -> str:
        done = safelight(*command.split(), config=config, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "take one of 16 at least" in says("init", 1)
    assert not (config.data_dir / "keyring.json").exists()
    ring = create_cluster(config.data_dir)
    assert "take one of 16 at least" in says("keys wrap", 1)
    assert KeyFile(config.data_dir).read() == ring
    (config.data_dir / "keyring.json").write_bytes(Wrapper(short.encode()).wrap(ring))  # as an earlier version did
    with running_as(config) as it:
        it.cluster.start()
        assert "safelight keys unwrap" in it.wait_for_line(1, "WARNING: the keyring's secret has fewer than 16 bytes")
        it.wait_until_leader(1)
        assert "All nodes encrypt with the key" in says("keys rotate", 0)
    assert "is unwrapped now" in says("keys unwrap", 0)
    secret_file(tmp_path, short + "!")
    assert "is wrapped now" in says("keys wrap", 0)


def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return None


def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return secret_file(tmp_path, "incorrect horse")


def readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return secret_file(tmp_path, mode=0o644)


def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return secret_file(tmp_path, "")


def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return secret_file(tmp_path, "x" * 5000)


def not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    return tmp_path / "elsewhere"


def said_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    monkeypatch.setenv(ENVIRONMENT, SECRET)
    return secret_file(tmp_path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (nothing, "is wrapped: name a file with the secret in keyring_secret_file"),
        (another, "does not open with this secret"),
        (readable_by_others, "chmod 600"),
        (empty, "16 to 4096 bytes"),
        (endless, "16 to 4096 bytes"),
        (not_there, "No such file"),
        (said_twice, "set twice"),
    ],
)
def test_without_the_right_secret_one_line_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path, pytest.MonkeyPatch], Path | None],
    reason: str,
) -> None:
    config = ephemeral_config(tmp_path, 1)
    create_cluster(config.data_dir, WRAPPER)
    before = text_of(config)
    config = with_secret(config, harm(tmp_path, monkeypatch))
    commands: list[Callable[[], str]] = [
        lambda: admin.list_keys(config),
        lambda: admin.wrap(config, wrapped=False),
    ]
    for command in commands:
        with pytest.raises(DataError, match=reason) as caught:
            command()
        assert "\n" not in str(caught.value)
        assert "horse" not in str(caught.value)
    assert text_of(config) == before


@pytest.mark.parametrize("command", ["keys rotate", "step-down", "server 1"])
def test_no_command_works_with_a_wrapped_keyring_without_its_secret(tmp_path: Path, command: str) -> None:
    config = ephemeral_config(tmp_path, 1)
    create_cluster(config.data_dir, WRAPPER)
    done = safelight(*command.split(), config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is wrapped: name a file with the secret in keyring_secret_file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cluster_with_a_wrapped_keyring_rotates_and_it_stays_wrapped_and_nobody_sees_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT, SECRET)  # which the nodes get, too, as from `safelight up`
    with running(tmp_path, 2, heartbeat=SETTLED) as cluster:
        config = cluster.config
        old = seal(config, photograph, tmp_path / "images").path
        done = safelight("keys", "rotate", config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert '"wrapped"' in text_of(config)
        assert len(keyring_of(config).keys) == 2
        for node in (1, 2):
            assert SECRET.encode() not in Path(f"/proc/{cluster.cluster.pid(node)}/cmdline").read_bytes()
        admin.wrap(config, wrapped=False)
        admin.wrap(config, wrapped=True)
        cluster.cluster.kill(2)
        cluster.cluster.start(2)
        wait_until_all_follow(config, 2)
        assert open_(config, old, tmp_path / "opened").path.read_bytes() == photograph.read_bytes()
        said = [line for node in (1, 2) for line in cluster.said(node)]
    assert not [line for line in said if "ineligible to lead" in line or SECRET in line]


def test_a_keyring_survives_whoever_is_killed_in_mid_change(tmp_path: Path) -> None:
    """Wrapping and unwrapping as fast as it goes, until SIGKILL."""
    ring = create_cluster(tmp_path)
    program = f"""if True:
        from pathlib import Path
        from safelight.encryption.keyring_protection import Wrapper
        from safelight.node.state.key_file import KeyFile
        file = KeyFile(Path({str(tmp_path)!r}), Wrapper({SECRET.encode()!r}))
        while True:
            for wrapped in (True, False):
                file.change(lambda found: found, wrapped=wrapped)
                print(wrapped, flush=True)"""
    file = KeyFile(tmp_path, WRAPPER)
    for changes in (3, 50, 151):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(changes):
                assert process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert file.read() == ring
    file.change(
        lambda found: found, wrapped=not file.wrapped
    )  # nobody holds the lock, and what was half-written is gone
    assert contents(tmp_path) == ["keyring.json", "keyring.lock"]
