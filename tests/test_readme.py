"""The README's commands, pasted: every line of its ```sh blocks is run here as it stands."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight import samples
from safelight.cluster import throwaway
from tests.running import GENEROUS, Running, running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
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


def block_with(text: str) -> str:
    (block,) = (block for block in BLOCKS if text in block)
    return block


def test_make_run_takes_commands_from_a_pipe_and_says_whether_they_succeeded(checkout: Path) -> None:
    assert block_with("make run").strip() == "make run"
    config = throwaway(checkout)
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
    subprocess.run(
        ["bash", "-euc", script],
        cwd=checkout,
        env=environment(checkout, config.servers, config.data_dir),
        check=True,
        timeout=2 * GENEROUS,
    )
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
    subprocess.run(["bash", "-euc", script], cwd=checkout, env=env, check=True, timeout=GENEROUS)
    assert (checkout / "photo.sealed").read_bytes() != (checkout / "photo.png").read_bytes()
    assert (checkout / "again.png").read_bytes() == (checkout / "photo.png").read_bytes()


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 3, "a new block of commands in the README needs a test here"


def test_the_configuration_files_shown_are_ones(tmp_path: Path) -> None:
    from safelight.config import load

    local, remote = re.findall(r"^ *```toml\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE)
    file = tmp_path / "config.toml"
    file.write_text(local)
    assert load(file, {}).heartbeat == 0.2
    file.write_text(remote)
    assert {address.scheme for address in load(file, {}).addresses.values()} == {"https"}
