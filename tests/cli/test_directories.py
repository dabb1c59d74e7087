"""What becomes of everything in a directory that is uploaded: done, skipped with a reason, or failed; never silence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safelight.cli.user.discovery import FoundFile, SkippedEntry, UnreadableEntry, files
from safelight.client.files.source_file import SkipReason
from safelight.local.cluster import environment
from tests.accounts import ordinary_account
from tests.cli.commandline import COMMAND, safelight
from tests.mission.support import contents, image_of
from tests.running import GENEROUS, Running


@pytest.fixture
def album(tmp_path: Path, photograph: Path) -> Path:
    """Three images, one of them in a folder."""
    album = tmp_path / "album"
    (album / "trip").mkdir(parents=True)
    for number, path in enumerate(("a.png", "b.png", "trip/c.png")):
        image_of(5000 + number, album / path, photograph)
    return album


def skipped(stderr: str) -> dict[str, str]:
    """What standard error says was skipped, and why."""
    lines = [line.removeprefix("skipped ") for line in stderr.splitlines() if line.startswith("skipped ")]
    return {path: why for path, _, why in (line.partition(": ") for line in lines)}


def test_what_is_left_out_is_named_with_the_reason_and_counted(
    shared_cluster: Running, tmp_path: Path, album: Path
) -> None:
    (album / "notes.txt").write_text("no image")
    (album / "trip" / "more.txt").write_text("no image")
    (album / "empty.png").touch()
    (album / ".hidden").mkdir()
    (album / ".hidden" / "d.png").touch()
    (album / "nowhere").symlink_to("gone.png")
    (album / "elsewhere").symlink_to(tmp_path)
    (album / "same.png").symlink_to("a.png")
    os.mkfifo(album / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(album / "socket.png"))
    reasons = {
        "album/notes.txt": "not an image",
        "album/trip/more.txt": "not an image",
        "album/empty.png": "empty",
        "album/.hidden": "hidden",
        "album/nowhere": "a broken link",
        "album/elsewhere": "a link to a directory",
        "album/pipe.png": "not a regular file",
        "album/socket.png": "not a regular file",
    }
    for quiet, before in (([], ""), (["--quiet"], "4 done before, ")):
        done = safelight("upload", "album", "--user", "left-out", *quiet, config=shared_cluster.config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert skipped(done.stderr) == reasons
        summary = (done.stderr if quiet else done.stdout).splitlines()[-1]
        assert summary.partition("8 skipped (")[0].endswith(f"{before or 'kept in the vault, '}")
        counted = summary.partition("8 skipped (")[2].removesuffix("), 0 failed").split(", ")
        assert counted[0][:2] == "2 "
        assert {*counted} == {
            "2 not images", "2 not regular files", "1 empty", "1 hidden", "1 a broken link", "1 a link to a directory",
        }  # fmt: skip
    assert done.stdout == ""


def test_the_tools_own_outputs_are_not_encrypted_again(shared_cluster: Running, tmp_path: Path, album: Path) -> None:
    config, user = shared_cluster.config, ("--user", "twice")
    for scheme, to in (("sealed", "elsewhere"), ("classic", "elsewhere"), ("sealed", "images")):
        done = safelight("upload", ".", *user, "--scheme", scheme, "--to", to, config=config, cwd=album)
        assert (done.returncode, done.stdout.count("✓")) == (0, 3), done.stdout + done.stderr
    made = len(contents(album / "elsewhere")) + len(contents(album / "images"))
    assert made == 9
    (album / "mine.bin").write_bytes(bytes(range(256)) * 20)
    for options, count in ((["--any"], 1), (["--any"], 0), ([], 0)):
        done = safelight("upload", ".", *user, *options, config=config, cwd=album)
        assert (done.returncode, done.stdout.count("✓")) == (0, count), done.stdout + done.stderr
        assert skipped(done.stderr)["./images"] == "the directory for the encrypted images"
        sealed = [path for path, why in skipped(done.stderr).items() if why == "encrypted already"]
        assert len(sealed) == (6 if options else 3)
    assert len(contents(album / "images")) == 4
    done = safelight("upload", "images", *user, config=config, cwd=album)  # named: its files are looked at
    assert "0 done, 4 skipped (4 encrypted already), 0 failed" in done.stdout
    [one] = contents(album / "images")[:1]
    assert safelight("upload", f"images/{one}", "--any", *user, config=config, cwd=album).returncode == 0


def test_linked_directories_are_entered_once_if_that_is_wanted(
    shared_cluster: Running, tmp_path: Path, album: Path, photograph: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    image_of(6000, other / "d.png", photograph)
    (other / "back").symlink_to(album)
    (other / "itself").symlink_to(".")
    for link, target in (("1-other", other), ("2-other", other), ("0-trip", album / "trip")):
        (album / link).symlink_to(target)
    user = ("--user", "follower")
    for _ in range(2):
        done = safelight("upload", "album", "--follow-links", *user, config=shared_cluster.config, cwd=tmp_path)
        assert done.returncode == 0
        assert {*skipped(done.stderr)} == {
            "album/0-trip", "album/2-other", "album/1-other/back", "album/1-other/itself"
        }  # fmt: skip
        assert {*skipped(done.stderr).values()} == {"a directory that another path leads to"}
    assert "4 done before" in done.stdout.splitlines()[-1]
    assert len(contents(tmp_path / "images")) == 4


def test_a_directory_that_is_named_twice_is_uploaded_once(tmp_path: Path, album: Path) -> None:
    found = files([str(album), str(album / "trip"), f"{album}/../album"], to=tmp_path / "images", follow_links=False)
    assert [item.path for item in found if isinstance(item, FoundFile)] == [
        f"{album}/a.png", f"{album}/b.png", f"{album}/trip/c.png",
    ]  # fmt: skip
    assert {item.path for item in found if isinstance(item, SkippedEntry)} == {f"{album}/trip", f"{album}/../album"}


# -- what cannot be examined -------------------------------------------------------------------------


MODES = {"000": "", "111": "", "444": "a.png", "755": "a.png"}
"""Directories of these modes, and what of them an ordinary account sees."""


def test_what_an_account_may_not_examine_is_no_absence() -> None:
    with ordinary_account():
        root = Path(tempfile.mkdtemp())
        try:
            for mode in MODES:
                (root / mode).mkdir()
                (root / mode / "a.png").write_bytes(b"x")
            (root / "loop").symlink_to("loop")
            (root / "closed").symlink_to("444/a.png")
            (root / "dangling").symlink_to("755/a.png/below")
            for mode in MODES:
                os.chmod(root / mode, int(mode, 8))
            found = files([str(root)], to=root / "images", follow_links=False)
        finally:
            for mode in MODES:
                os.chmod(root / mode, 0o755)
            shutil.rmtree(root)
    failed = {os.path.relpath(item.path, root): str(item.error) for item in found if isinstance(item, UnreadableEntry)}
    assert {*failed} == {"444/a.png", "000", "111", "loop", "closed"}
    assert all(error.startswith(f"cannot read '{root}/") for error in failed.values())
    assert [item.path for item in found if isinstance(item, FoundFile)] == [f"{root}/755/a.png"]
    assert [item for item in found if isinstance(item, SkippedEntry)] == [
        SkippedEntry(f"{root}/dangling", SkipReason.BROKEN)
    ]


@contextmanager
def failing(call: str, path: str, error: str) -> Iterator[tuple[str, ...]]:
    """The beginning of a command whose system call fails for one path. Skips the test where nothing may be traced."""
    command = ("strace", "-f", "-qq", "-o", "/dev/null", "-P", path, "-e", f"trace={call}")
    if (
        shutil.which("strace") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("strace(1) is not here, or may not trace")
    yield (*command, "-e", f"inject={call}:error={error}")


@pytest.mark.parametrize(
    ("call", "path", "error", "lost"),
    [
        ("newfstatat", "album/b.png", "EIO", {"album/b.png"}),
        ("newfstatat", "album/b.png", "ENOENT", set()),  # it vanished while we looked
        ("newfstatat", "album/trip", "ESTALE", {"album/trip"}),
        ("getdents64", "album/trip", "EIO", {"album/trip"}),
        ("openat", "album/trip", "ENOMEM", {"album/trip"}),
    ],
)
def test_what_the_disk_does_not_tell_is_a_failure(
    shared_cluster: Running, tmp_path: Path, album: Path, call: str, path: str, error: str, lost: set[str]
) -> None:
    with failing(call, path, error) as strace:
        done = subprocess.run(
            [*strace, *COMMAND, "upload", "album", "--user", f"{call}-{error}".lower(), "--quiet"],
            env=environment(shared_cluster.config),
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=4 * GENEROUS,
            check=False,
        )
    assert done.returncode == (1 if lost else 0), done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("strace: ")]
    assert [line.partition(":")[0] for line in told] == ["safelight"] * len(lost)
    assert all(f"cannot read '{each}': " in done.stderr for each in lost)
    assert len(done.stdout.splitlines()) == 2


def test_a_journal_that_cannot_be_read_is_no_empty_one(shared_cluster: Running, tmp_path: Path, album: Path) -> None:
    config, user = shared_cluster.config, ("--user", "forgetful")
    assert safelight("upload", "album", *user, config=config, cwd=tmp_path).returncode == 0
    [journal] = (config.client_dir / "uploads").glob("*/forgetful/*")
    noted = journal.read_bytes()
    journal.unlink()
    journal.mkdir()
    done = safelight("upload", "album", *user, config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("✓")) == (1, 0)
    assert done.stderr.count(f"cannot read the log of earlier uploads, {journal}: is a directory") == 3
    journal.rmdir()
    journal.write_bytes(noted)
    assert "3 done before" in safelight("upload", "album", *user, config=config, cwd=tmp_path).stdout


def test_an_output_that_cannot_be_examined_is_no_missing_one(
    shared_cluster: Running, tmp_path: Path, album: Path
) -> None:
    config, arguments = shared_cluster.config, ("upload", "album", "--no-keep", "--user", "looker")
    assert safelight(*arguments, config=config, cwd=tmp_path).returncode == 0
    sealed = {path: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    for path in sealed:
        path.unlink()
        path.mkdir()
    done = safelight(*arguments, config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("✓"), done.stderr.count("cannot read '")) == (1, 0, 3)
