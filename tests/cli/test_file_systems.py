"""Images that come back to file systems with rules of their own about names and times; and times that are rare."""

from __future__ import annotations

import json
import os
import subprocess
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from safelight.client.files.atomic_output import reserve
from safelight.client.session import Session
from tests.awkward import awkward
from tests.cli.commandline import safelight
from tests.mission.support import contents, image_of, seal
from tests.mounts import small_disk
from tests.running import Running, as_user

pytestmark = pytest.mark.slow

FAT = ("--fold", "--no-links", "--granularity", "2000000000", "--latest", "4354819199")
SECOND = 10**9


@contextmanager
def old_ext4(directory: Path) -> Iterator[Path]:
    """With inodes of 128 bytes: whole seconds, up to 2038. Skips the test where it may not be mounted."""
    directory.mkdir()
    image = directory.with_suffix(".image")
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    for command in (["mkfs.ext4", "-q", "-I", "128", str(image)], ["mount", "-o", "loop", str(image), str(directory)]):
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only the superuser can mount an ext4, and with mkfs.ext4 and loop devices")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def uploaded(cluster: Running, user: str, directory: Path, photograph: Path, files: dict[str, int]) -> list[bytes]:
    """Images of these names and times (in nanoseconds) in the vault; all of one size but the second. Their bytes."""
    directory.mkdir()
    made = []
    for number, (name, modified) in enumerate(files.items()):
        path = image_of(6000 if number == 1 else 5000, directory / name, photograph)
        with path.open("r+b") as file:
            file.seek(2000)
            file.write(b"%d" % number)
        os.utime(path, ns=(modified, modified))
        seal(cluster.config, path, directory.with_name("images"), user)
        made.append(path.read_bytes())
    return sorted(made)


def visible(directory: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in directory.iterdir() if path.name != "lost+found")


COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "Café.png"), unicodedata.normalize("NFD", "Café.png")
ONE_NAME = {
    "Name.png": 1_000_000_001 * SECOND,
    "name.png": 1_000_000_003 * SECOND,
    "NAME.png": 1_000_000_005 * SECOND,
    COMPOSED: 1_000_000_001 * SECOND + 1,
    DECOMPOSED: 1_000_000_001 * SECOND + 1,
}


@pytest.mark.parametrize("options", [("--fold",), FAT], ids=["folding", "as FAT"])
def test_names_that_are_one_name_there_all_arrive(
    shared_cluster: Running, tmp_path: Path, photograph: Path, options: tuple[str, ...]
) -> None:
    config, name = shared_cluster.config, f"fold{len(options)}"
    user = ("--user", name)
    images = uploaded(shared_cluster, name, tmp_path / "mine", photograph, ONE_NAME)
    with awkward(tmp_path / "there", *options) as there:
        for wanted, force in ((5, []), (0, []), (5, ["--force"])):
            done = safelight("get", "*", "--to", "there", *force, *user, config=config, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1].startswith(f"{wanted} done")
            assert visible(there) == images
        (there / "name.png").unlink()
        done = safelight("get", "*", "--to", "there", *user, config=config, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "1 done, 4 there already, 0 failed"
        assert visible(there) == images
    safelight("get", "*", "--to", "here", *user, config=config, cwd=tmp_path)
    assert {*contents(tmp_path / "here")} == {*ONE_NAME}


def test_what_is_encrypted_there_is_kept_once_and_found_again(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "folded-upload")
    (tmp_path / "mine").mkdir()
    for number in range(2):
        for name in ("Name.png", "name.png", "NAME.png"):
            (tmp_path / "mine" / f"{number}").mkdir(exist_ok=True)
            image_of(5000, tmp_path / "mine" / f"{number}" / name, photograph)

    def kept() -> list[str]:
        listed = safelight("ls", "--json", *user, config=config, cwd=tmp_path).stdout.splitlines()
        return [json.loads(line)["name"] for line in listed]

    with awkward(tmp_path / "there", *FAT) as there:
        for wanted in ("6 done and kept in the vault, 0 failed", "0 done, 6 done before, 0 failed"):
            done = safelight("upload", "mine", "--to", "there", *user, config=config, cwd=tmp_path)
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, wanted)
            assert (len(contents(there)), len(kept())) == (6, 6)
        assert safelight("get", "*", "--to", "there", *user, config=config, cwd=tmp_path).returncode == 0
        done = safelight("decrypt", *there.glob("encrypted_*"), "--to", "there", *user, config=config, cwd=tmp_path)
        assert done.returncode == 0
        assert len(contents(there)) == 18


def test_a_name_that_is_taken_in_the_last_moment_counts_on(tmp_path: Path) -> None:
    with awkward(tmp_path / "there", "--fold") as there:
        with reserve(there, ["Name.png"]) as one, reserve(there, ["name.png"]) as other:
            for reservation, content in ((one, b"one"), (other, b"other")):
                reservation.file.write(content)
                reservation.commit_counted()
        assert {path.name: path.read_bytes() for path in there.iterdir()} == {
            "Name.png": b"one",
            "name-2.png": b"other",
        }


def test_an_image_whose_name_is_taken_while_it_comes_gets_another(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    uploaded(shared_cluster, "late", tmp_path / "mine", photograph, {"x.png": SECOND})
    out = tmp_path / "out"

    def taken(done: int, total: int) -> None:
        (out / "x.png").write_text("another program's")

    async def get(session: Session) -> Path:
        [image] = [image async for page in session.images.all() for image in page]
        return (await session.fetch(image, to=out, progress=taken)).path

    assert as_user(shared_cluster.config, "late", get) == out / "x-2.png"
    assert (out / "x.png").read_text() == "another program's"
    assert (out / "x-2.png").read_bytes() == (tmp_path / "mine" / "x.png").read_bytes()


TIMES = {
    "a.png": 1_234_567_891_123_456_789,
    "b.png": 1_234_567_891_999_999_999,
    "c.png": 1_000_000_000 * SECOND,
    "d.png": -1_500_000_000,
    "e.png": 2_400_000_001_000_000_001,  # after 2038
}


@pytest.mark.parametrize(
    "where",
    [nullcontext, old_ext4, lambda path: awkward(path, *FAT), lambda path: awkward(path, "--no-times")],
    ids=["here", "ext4 of old", "as FAT", "without times"],
)  # fmt: skip
def test_a_second_run_finds_all_files_whatever_times_they_could_get(
    shared_cluster: Running, tmp_path: Path, photograph: Path, where: object, request: pytest.FixtureRequest
) -> None:
    name = f"times{request.node.name.encode().hex()[-20:]}"
    config, user = shared_cluster.config, ("--user", name)
    images = uploaded(shared_cluster, name, tmp_path / "mine", photograph, TIMES)
    assert callable(where)
    with where(tmp_path / "there"):
        there = tmp_path / "there"
        for done_of_them, there_of_them in ((5, 0), (0, 5)):
            done = safelight("get", "*", "--to", "there", *user, config=config, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            present = f"{there_of_them} there already, " if there_of_them else ""
            assert done.stdout.splitlines()[-1] == f"{done_of_them} done, {present}0 failed"
            assert visible(there) == images
            if done_of_them:
                left_out = [line for line in done.stderr.splitlines() if "its time of modification is left out" in line]
                expected = {"here": 0, "ext4 of old": 1, "as FAT": 0, "without times": 5}
                assert len(left_out) == expected[request.node.callspec.id]
        if request.node.callspec.id == "here":
            assert {path.name: path.stat().st_mtime_ns for path in there.iterdir()} == TIMES


def test_nanoseconds_are_listed_as_they_are(shared_cluster: Running, tmp_path: Path, photograph: Path) -> None:
    uploaded(shared_cluster, "exact", tmp_path / "mine", photograph, TIMES)
    done = safelight("ls", "--json", "--user", "exact", config=shared_cluster.config, cwd=tmp_path)
    told = {json.loads(line)["original"]: line.partition('"modified":')[2] for line in done.stdout.splitlines()}
    assert told == {
        "a.png": "1234567891.123456789}",
        "b.png": "1234567891.999999999}",
        "c.png": "1000000000}",
        "d.png": "-1.5}",
        "e.png": "2400000001.000000001}",
    }


FAR = [10**12 * SECOND, -(10**12) * SECOND, 10**12 * SECOND - 1, 2**64 + 1]


def test_a_time_that_no_record_holds_is_left_out_with_a_note(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "far")
    with small_disk(tmp_path / "mine", 8) as mine:  # tmpfs holds 64 bits of seconds
        for number, moment in enumerate(FAR):
            os.utime(image_of(5000, mine / f"{number}.png", photograph), ns=(moment, moment))
            assert (mine / f"{number}.png").stat().st_mtime_ns == moment
        noted = [f"mine/{number}.png: its time of modification is out of range, and is left out" for number in (0, 1)]
        done = safelight("upload", "mine", "--quiet", *user, config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr.splitlines()) == (0, noted)
        assert "4 done before" in safelight("upload", "mine", *user, config=config, cwd=tmp_path).stdout
        done = safelight("upload", "mine/0.png", "--quiet", *user, config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr.splitlines()) == (0, noted[:1])
        listed = [json.loads(line) for line in
                  safelight("ls", "--json", *user, config=config, cwd=tmp_path).stdout.splitlines()]  # fmt: skip
        assert sorted(image["original"] for image in listed if "modified" in image) == ["2.png", "3.png"]
        for expected in ("5 done, 0 failed", "0 done, 5 there already, 0 failed"):
            done = safelight("get", "*", "--to", "mine/back", *user, config=config, cwd=tmp_path)
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, expected)
        assert (mine / "back" / "2.png").stat().st_mtime_ns == FAR[2]
