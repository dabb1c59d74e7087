"""The commands of README.md and docs/production.md, pasted: every line of their ```sh blocks runs here as it stands.

The configuration files that docs/configuration.md and docs/production.md show are read, and its tables are checked
against `config.Config`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight import samples
from safelight.config import Config, load
from safelight.local.cluster import ephemeral_config
from tests.running import GENEROUS, Running, running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PRODUCTION = (ROOT / "docs" / "production.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
NEEDED = ["Makefile", "README.md", "pyproject.toml", *(path.name for path in ROOT.glob("requirements*.lock")), "src"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a clone in which `make install` was done."""
    for name in NEEDED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv" / "installed").touch()
    shutil.copy(samples.path("lighthouse.png"), tmp_path / "photo.png")
    return tmp_path


@pytest.fixture
def its_cluster(checkout: Path) -> Iterator[Running]:
    with running(checkout / "cluster") as it:
        yield it


def environment(home: Path, servers: tuple[str, ...], data: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "SAFELIGHT_SERVERS": ",".join(servers),
        "SAFELIGHT_DATA_DIR": str(data),
    }


def blocks(document: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def block_with(text: str, document: str = README) -> str:
    (block,) = (block for block in blocks(document) if text in block)
    return block


def paste(script: str, checkout: Path, env: dict[str, str]) -> str:
    """Run a block; what it wrote to standard output."""
    done = subprocess.run(
        ["bash", "-euc", script], cwd=checkout, env=env, stdout=subprocess.PIPE, text=True, timeout=2 * GENEROUS
    )
    assert done.returncode == 0, f"{script}{done.stdout}"
    return done.stdout


def test_make_run_takes_commands_from_a_pipe_and_says_whether_they_succeeded(checkout: Path) -> None:
    assert block_with("make run").strip() == "make run"
    config = ephemeral_config(checkout)
    for commands, status in (
        ("upload src/safelight/samples/lighthouse.png\nupload src/safelight/samples/lighthouse.png\nstatus\nquit\n", 0),
        ("upload missing.png\n", 2),
    ):
        done = subprocess.run(
            ["make", "run"],
            input=commands,
            cwd=checkout,
            env=environment(checkout, config.servers, config.data_dir),
            capture_output=True,
            text=True,
            timeout=2 * GENEROUS,
        )
        assert done.returncode == status, done.stdout + done.stderr
    images = list((checkout / "images").iterdir())
    assert len(images) == 2
    assert all(re.fullmatch(r"encrypted_lighthouse_\d+\.png", image.name) for image in images)


def test_the_commands_do_what_they_say(checkout: Path, its_cluster: Running) -> None:
    """`up` is the one that does not end: the fixture has done its work."""
    block = block_with("safelight up")
    script = re.sub(r"^safelight up .*\n", "", block, flags=re.MULTILINE)
    assert script != block
    config = its_cluster.config
    paste(script, checkout, environment(checkout, config.servers, config.data_dir))
    (opened,) = (checkout / "opened").iterdir()
    assert opened.read_bytes() == samples.path("lighthouse.jpg").read_bytes()
    assert (checkout / "demo" / "failover.png").exists()


def test_curl_needs_no_client_of_ours(checkout: Path, its_cluster: Running) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    config = its_cluster.config
    client = ["safelight", "upload", "photo.png", "--user", "alice"]
    env = environment(checkout, config.servers, config.data_dir)
    subprocess.run(client, cwd=checkout, env=env, check=True, timeout=GENEROUS)  # enrols alice
    (token,) = (checkout / ".config" / "safelight" / "tokens").glob("*/alice")
    script = block_with("curl").replace("127.0.0.1:8001", config.servers[0])
    env["TOKEN_FILE"] = str(token)
    paste(script, checkout, env)
    assert (checkout / "photo.sealed").read_bytes() != (checkout / "photo.png").read_bytes()
    assert (checkout / "again.png").read_bytes() == (checkout / "photo.png").read_bytes()


def test_starting_over_makes_another_cluster(checkout: Path) -> None:
    env = environment(checkout, (), checkout)
    del env["SAFELIGHT_SERVERS"], env["SAFELIGHT_DATA_DIR"]
    keyring = checkout / ".local" / "share" / "safelight" / "keyring.json"
    paste("safelight init", checkout, env)
    first = keyring.read_bytes()
    paste(block_with("rm -r"), checkout, env)
    assert not keyring.parent.exists()
    paste("safelight init", checkout, env)
    assert keyring.read_bytes() != first


def test_an_operators_commands_do_what_they_say(checkout: Path, its_cluster: Running) -> None:
    """docs/production.md, from top to bottom; `init` makes a cluster beside the one that runs."""
    config = its_cluster.config
    env = environment(checkout, config.servers, config.data_dir)
    paste(block_with("safelight init", PRODUCTION), checkout, {**env, "SAFELIGHT_DATA_DIR": str(checkout / "new")})
    assert (checkout / "new" / "keyring.json").stat().st_mode & 0o777 == 0o600

    env["FINGERPRINT"] = paste(block_with("safelight token", PRODUCTION), checkout, env).strip()
    env["NEW_FINGERPRINT"] = "0123456789abcdef" * 4
    assert "alice" in paste(block_with("safelight user add", PRODUCTION), checkout, env)
    paste("safelight upload photo.png --user alice", checkout, env)
    paste(block_with("safelight user revoke", PRODUCTION), checkout, env)
    assert "revoked" in paste("safelight user list", checkout, env)

    paste(block_with("safelight keys rotate", PRODUCTION), checkout, env)
    assert len(json.loads(paste("safelight keys list --json", checkout, env))["keys"]) == 2

    env |= {"VAULT": str(config.data_dir / "vault"), "BACKUP": str(checkout / "backup")}
    (checkout / "backup").mkdir()
    paste(block_with("$BACKUP", PRODUCTION), checkout, env)
    shutil.rmtree(checkout / "backup" / "users")
    assert subprocess.run(["safelight", "verify", "--vault", f"file://{checkout / 'backup'}"], env=env).returncode == 1

    paste(block_with("step-down", PRODUCTION), checkout, env)
    paste(block_with("keys wrap", PRODUCTION), checkout, env)
    assert subprocess.run(["safelight", "keys", "list"], cwd=checkout, env=env).returncode == 1
    paste("safelight keys unwrap --keyring-secret-file keyring.secret", checkout, env)


def test_no_block_is_left_out() -> None:
    assert len(blocks(README)) == 4, "a new block of commands in the README needs a test here"
    assert len(blocks(PRODUCTION)) == 8, "a new block of commands in docs/production.md needs a test here"
    assert not blocks(CONFIGURATION)


def test_the_configuration_files_shown_are_ones(tmp_path: Path) -> None:
    (local,) = blocks(CONFIGURATION, "toml")
    (remote,) = blocks(PRODUCTION, "toml")
    file = tmp_path / "config.toml"
    file.write_text(local)
    assert load(file, {}).heartbeat == 0.2
    file.write_text(remote)
    assert {address.scheme for address in load(file, {}).addresses.values()} == {"https"}


def test_every_setting_is_documented_with_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|–) \| \S.* \|$", CONFIGURATION, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(Config.__struct_fields__)
    home = next(parent for parent in Config().data_dir.parents if parent.parent.name in ("home", "Users", ""))
    monkeypatch.setenv("HOME", str(home))
    file = tmp_path / "config.toml"
    file.write_text("".join(f"{name} = {default}\n" for name, default in rows if default))
    documented = load(file, {})
    for name, default in rows:
        if not (default.startswith('"~') and sys.platform == "darwin"):
            assert getattr(documented, name) == getattr(Config(), name), name
