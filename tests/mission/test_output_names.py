"""Every encrypted file has a name of its own, and appears under it whole or not at all."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from safelight.client.session import Session
from safelight.config import Config
from safelight.local.cluster import environment
from safelight.names import NAME_MAX
from tests.mission.support import MEBIBYTE, OUTPUT, Witness, contents, image_of, opens_to, seal
from tests.running import Running, as_user

PROCESSES, EACH = 4, 5


def test_two_uploads_of_one_file_in_one_second_have_two_names(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    begun = int(time.time())

    async def twice(session: Session) -> list[Path]:
        return [(await session.seal(photograph, to=tmp_path / "images", feedback=Witness())).path for _ in range(2)]

    first, second = as_user(shared_cluster.config, "alice", twice)
    ended = int(time.time())
    assert {first.name, second.name} == {*contents(tmp_path / "images")}
    found = [OUTPUT.fullmatch(path.name) for path in (first, second)]
    assert all(match and (match["name"], match["extension"]) == ("lighthouse", "png") for match in found)
    stamps = [int(match["timestamp"]) for match in found if match]
    assert begun <= stamps[0] < stamps[1] <= ended + 1
    for path in (first, second):
        assert opens_to(shared_cluster.config, path, photograph, tmp_path / "opened")


def test_twenty_uploads_at_once_from_four_processes_have_twenty_names(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, images = shared_cluster.config, tmp_path / "images"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        PROCESSES, mp_context=spawn, initializer=arrive, initargs=(spawn.Barrier(PROCESSES),)
    ) as pool:
        futures = [pool.submit(upload_at_once, config, photograph, images) for _ in range(PROCESSES)]
        paths = [path for future in futures for path in future.result()]
    assert len({*paths}) == PROCESSES * EACH
    assert sorted(path.name for path in paths) == contents(images)
    assert all(opens_to(config, path, photograph, tmp_path / "opened") for path in paths)


def arrive(barrier: Barrier) -> None:
    """Let every process wait for the others before its first upload."""
    barrier.wait(60)


def upload_at_once(config: Config, image: Path, to: Path) -> list[Path]:
    async def at_once(session: Session) -> list[Path]:
        saved = await asyncio.gather(*(session.seal(image, to=to, feedback=Witness()) for _ in range(EACH)))
        return [each.path for each in saved]

    return as_user(config, "alice", at_once)


def test_an_existing_file_is_never_overwritten(shared_cluster: Running, tmp_path: Path, photograph: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    now = int(time.time())
    taken = {f"encrypted_lighthouse_{now + later}.png" for later in range(60)}
    for name in taken:
        (images / name).write_text("precious")
    saved = seal(shared_cluster.config, photograph, images)
    assert saved.path.name not in taken
    assert {*contents(images)} == taken | {saved.path.name}
    assert all((images / name).read_text() == "precious" for name in taken)


@pytest.mark.parametrize(
    ("original", "name", "extension"),
    [
        ("my cat, asleep.png", "my cat, asleep", "png"),
        ("köttür 猫 🐈.png", "köttür 猫 🐈", "png"),
        ("holiday.2024.final.v2.png", "holiday.2024.final.v2", "png"),
        ("noextension", "noextension", "png"),
        (".hidden", ".hidden", "png"),
        ("-rf.png", "-rf", "png"),
        ("100%41 of 'it' #1?&a=b+c;d.png", "100%41 of 'it' #1?&a=b+c;d", "png"),
        ("back\\slash.png", "back\\slash", "png"),
        ("new\nline.png", "new_line", "png"),
        (os.fsdecode(b"caf\xe9.png"), "caf_", "png"),
    ],
    ids=lambda value: ascii(value),
)
def test_names_are_kept_and_work(
    shared_cluster: Running, tmp_path: Path, photograph: Path, original: str, name: str, extension: str
) -> None:
    image = image_of(2000, tmp_path / original, photograph)
    saved = seal(shared_cluster.config, image, tmp_path / "images")
    found = OUTPUT.fullmatch(saved.path.name)
    assert found is not None
    assert (found["name"], found["extension"]) == (name, extension)
    assert opens_to(shared_cluster.config, saved.path, image, tmp_path / "opened")


@pytest.mark.parametrize(
    "original", ["a" * 251 + ".png", "猫" * 83 + "aa.png", "b" * NAME_MAX], ids=["ascii", "wide", "no extension"]
)
def test_names_of_255_bytes_give_way_to_what_is_added(
    shared_cluster: Running, tmp_path: Path, photograph: Path, original: str
) -> None:
    assert len(original.encode()) == NAME_MAX
    image = image_of(2000, tmp_path / original, photograph)
    saved = seal(shared_cluster.config, image, tmp_path / "images")
    found = OUTPUT.fullmatch(saved.path.name)
    assert found is not None
    assert original.startswith(found["name"])
    assert NAME_MAX - 3 < len(saved.path.name.encode()) <= NAME_MAX
    assert opens_to(shared_cluster.config, saved.path, image, tmp_path / "opened")


def test_a_client_that_is_killed_half_way_leaves_nothing_that_lasts(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, images = shared_cluster.config, tmp_path / "images"
    image = image_of(16 * MEBIBYTE, tmp_path / "large.png", photograph)
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from safelight.config import load; from tests.mission.support import Witness, seal\n"
        "die = Witness().at_progress(0.8, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "config = load(None, {key: os.environ['SAFELIGHT_' + key.upper()] for key in ('servers', 'client_dir')})\n"
        "seal(config, Path(sys.argv[1]), Path(sys.argv[2]), feedback=die)\n"
    )
    client = subprocess.run(
        [sys.executable, "-c", script, image, images],
        env=environment(config),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert client.returncode == -signal.SIGKILL, client.stderr
    assert all(name.startswith(".") and name.endswith(".part") for name in contents(images))
    saved = seal(config, photograph, images)
    assert contents(images) == [saved.path.name]
