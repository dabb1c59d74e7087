import errno
import fcntl
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.client.files.atomic_output import CannotWrite, DiskFull, OutputExists, reserve, sweep
from safelight.names import counted, encrypted_name
from tests.accounts import ordinary_account

NOW = 1730738456
NAME = f"encrypted_test_{NOW}.png"
GIB = 1 << 30


def seconds_from_now() -> Iterator[str]:
    return (encrypted_name("test.png", t, "png") for t in itertools.count(NOW))


def run_python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_an_output_appears_whole_when_it_is_committed(tmp_path: Path) -> None:
    images = tmp_path / "new" / "images"
    with reserve(images, seconds_from_now()) as reservation:
        assert reservation.name == NAME
        reservation.file.write(b"sealed ")
        reservation.file.write(b"bytes")
        assert not reservation.path.exists()
        reservation.commit()
        assert reservation.path.read_bytes() == b"sealed bytes"
    assert os.listdir(images) == [NAME]


def test_an_output_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    def lose_the_cluster() -> None:
        with reserve(tmp_path, seconds_from_now()) as reservation:
            reservation.file.write(b"half of it")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        lose_the_cluster()
    assert os.listdir(tmp_path) == []


def test_another_attempt_starts_from_nothing(tmp_path: Path) -> None:
    with reserve(tmp_path, seconds_from_now()) as reservation:
        reservation.file.write(b"a long first attempt")
        reservation.restart()
        reservation.file.write(b"second")
        reservation.commit()
    assert (tmp_path / NAME).read_bytes() == b"second"


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"yesterday's")
    (tmp_path / f"encrypted_test_{NOW + 1}.png").symlink_to("nowhere")
    with reserve(tmp_path, seconds_from_now()) as reservation:
        assert reservation.name == f"encrypted_test_{NOW + 2}.png"
        reservation.commit()
    assert (tmp_path / NAME).read_bytes() == b"yesterday's"
    assert len(os.listdir(tmp_path)) == 3


def test_a_file_that_is_finished_just_before_we_have_its_lock_is_counted_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def finish_then_lock(file: int, operation: int) -> None:
        (tmp_path / NAME).touch()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", finish_then_lock)
    with reserve(tmp_path, seconds_from_now()) as reservation:
        assert reservation.name == f"encrypted_test_{NOW + 1}.png"
    assert os.listdir(tmp_path) == [NAME]


def test_a_name_that_is_given_up_can_be_had_again(tmp_path: Path) -> None:
    for _ in range(2):
        with reserve(tmp_path, seconds_from_now()) as reservation:
            assert reservation.name == NAME


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_another_program_made_meanwhile_stays_as_it_is(
    tmp_path: Path, hard_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse_to_link)
    with reserve(tmp_path, seconds_from_now()) as reservation:
        (tmp_path / NAME).write_bytes(b"theirs")
        with pytest.raises(OutputExists, match="another program made"):
            reservation.commit()
    assert (tmp_path / NAME).read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == [NAME]


def refuse_to_link(*_: object, **__: object) -> None:
    """What Linux says on FAT and exFAT."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_outputs_also_appear_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_to_link)
    for _ in range(2):
        with reserve(tmp_path, (counted("decrypted.png", n) for n in itertools.count(1))) as reservation:
            reservation.file.write(b"opened")
            reservation.commit()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "decrypted.png": b"opened",
        "decrypted-2.png": b"opened",
    }


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_an_output_is_private_until_it_is_finished_and_then_as_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with reserve(tmp_path, seconds_from_now()) as reservation:
            [part] = tmp_path.iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
            reservation.commit()
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("mode", "mask", "expected"), [(0o600, 0o022, 0o600), (0o444, 0o022, 0o444), (0o666, 0o077, 0o600)]
)
def test_an_output_of_a_file_has_its_rights_as_far_as_the_umask_goes(
    tmp_path: Path, mode: int, mask: int, expected: int
) -> None:
    before = os.umask(mask)
    try:
        with reserve(tmp_path, seconds_from_now(), mode=mode | stat.S_ISUID | 0o111) as reservation:
            reservation.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == expected


@pytest.mark.parametrize("content", [b"", b"bytes of a killed process"])
def test_a_part_file_that_somebody_else_can_read_is_not_written_to(tmp_path: Path, content: bytes) -> None:
    with reserve(tmp_path, [NAME]):
        [part] = tmp_path.iterdir()
    part.write_bytes(content)
    part.chmod(0o666)
    with part.open("rb") as open_before, reserve(tmp_path, [NAME]) as reservation:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        reservation.file.write(b"secret")
        assert b"secret" not in open_before.read()
        reservation.commit()


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
@pytest.mark.parametrize("content", [b"", b"bytes"])
def test_another_accounts_part_file_costs_only_the_name_and_stays(tmp_path: Path, content: bytes) -> None:
    with reserve(tmp_path, [NAME]):
        [part] = tmp_path.iterdir()
    part.write_bytes(content)
    part.chmod(0o666)
    os.chown(part, 4242, 4242)
    with reserve(tmp_path, seconds_from_now()) as reservation:
        assert reservation.name != NAME
        reservation.file.write(b"secret")
        reservation.commit()
    sweep(tmp_path)
    assert part.read_bytes() == content


FIVE_AT_ONCE = """
import sys
from contextlib import ExitStack
from pathlib import Path
from itertools import count
from safelight.client.files.atomic_output import reserve
from safelight.names import encrypted_name

directory, now = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
with ExitStack() as all_five:
    reservations = [
        all_five.enter_context(reserve(directory, (encrypted_name("test.png", t, "png") for t in count(now))))
        for _ in range(5)
    ]
    for reservation in reservations:
        reservation.file.write(reservation.name.encode())
        reservation.commit()
        print(reservation.name)
"""


def together(script: str, *arguments: object) -> list[list[str]]:
    """What each of four processes printed that ran `script` from the same moment on."""
    processes = [run_python(script, *arguments) for _ in range(4)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    return outputs


def test_twenty_outputs_in_one_second_from_four_processes_get_twenty_names(tmp_path: Path) -> None:
    names = [name for five in together(FIVE_AT_ONCE, tmp_path, NOW) for name in five]
    assert len(set(names)) == 20
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in names}


EACH_NAME_ONCE = """
import os, sys
from pathlib import Path
from safelight.client.files.atomic_output import CannotWrite, reserve

print("ready", flush=True)
sys.stdin.readline()
for attempt in range(300):
    name = f"{attempt // 3}.png"
    try:
        with reserve(Path(sys.argv[1]), [name]) as reservation:
            reservation.file.write(f"{os.getpid()}".encode())
            if attempt % 3:
                reservation.commit()
                print(name, os.getpid())
    except CannotWrite:
        pass
"""


def test_of_processes_that_take_give_up_and_finish_the_same_names_each_name_has_one_winner(
    tmp_path: Path,
) -> None:
    won = [line.split() for lines in together(EACH_NAME_ONCE, tmp_path) for line in lines]
    assert len(won) == 100
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(won)


KILLED = """
import sys
from pathlib import Path
from safelight.client.files.atomic_output import reserve

with reserve(Path(sys.argv[1]), [sys.argv[2]]) as reservation:
    reservation.file.write(b"half of an image")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_name_is_held_while_its_process_lives_and_free_when_it_was_killed(tmp_path: Path) -> None:
    process = run_python(KILLED, tmp_path, NAME)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    with reserve(tmp_path, seconds_from_now()) as reservation:
        assert reservation.name == f"encrypted_test_{NOW + 1}.png"
    sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 1  # the living process's part file

    process.kill()
    process.communicate()
    assert len(os.listdir(tmp_path)) == 1
    with reserve(tmp_path, seconds_from_now()) as reservation:
        assert reservation.name == NAME
        reservation.file.write(b"whole")
        reservation.commit()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_sweep_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    process = run_python(KILLED, tmp_path, NAME)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.communicate()
    (tmp_path / ".notes.part").touch()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == [".notes.part"]
    sweep(tmp_path / "missing")


def test_a_crash_between_link_and_unlink_harms_no_finished_file(tmp_path: Path) -> None:
    with reserve(tmp_path, [NAME]):
        [part] = tmp_path.iterdir()
    moved = tmp_path / "moved to an album.png"
    moved.write_bytes(b"finished")
    os.link(moved, part)
    with reserve(tmp_path, [NAME]) as reservation:
        reservation.file.write(b"new")
        reservation.commit()
    assert moved.read_bytes() == b"finished"
    assert (tmp_path / NAME).read_bytes() == b"new"


def test_a_part_file_that_was_removed_by_hand_is_not_mixed_up_with_its_successor(tmp_path: Path) -> None:
    with reserve(tmp_path, [NAME]) as first:
        first.file.write(b"first")
        [part] = tmp_path.iterdir()
        part.unlink()
        with reserve(tmp_path, [NAME]) as second:
            second.file.write(b"second")
            with pytest.raises(CannotWrite, match="was removed"):
                first.commit()
            second.commit()
    assert (tmp_path / NAME).read_bytes() == b"second"


@pytest.mark.parametrize("in_the_way", ["directory", "symlink", "fifo"])
def test_something_else_in_the_part_files_place_costs_only_the_name(tmp_path: Path, in_the_way: str) -> None:
    with reserve(tmp_path, [NAME]):
        [part] = tmp_path.iterdir()
    if in_the_way == "directory":
        part.mkdir()
    elif in_the_way == "symlink":
        part.symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(part)
    with reserve(tmp_path, seconds_from_now()) as reservation:
        reservation.file.write(b"sealed")
        reservation.commit()
    assert reservation.path.read_bytes() == b"sealed"
    assert not (tmp_path / "victim").exists()


FULL = """
import os, sys
from pathlib import Path
from safelight.client.files.atomic_output import DiskFull, reserve

images = Path(sys.argv[1]) / "images"
try:
    with reserve(images, ["encrypted_test_1.png"]) as reservation:
        for _ in range(64):
            reservation.file.write(bytes(1 << 16))
        reservation.commit()
except DiskFull as error:
    print(error)
print(os.listdir(images))
"""


def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    in_a_namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    small_disk = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    try:
        done = subprocess.run(
            [*in_a_namespace, "sh", "-c", small_disk, "sh", tmp_path, sys.executable, FULL],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) to mount a small disk with")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    message, left = done.stdout.splitlines()
    assert "the disk is full" in message
    assert left == "[]"


def test_a_full_disk_that_is_only_noticed_at_the_end_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:  # NFS with a quota
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with reserve(tmp_path, [NAME]) as reservation:
        reservation.file.write(b"sealed")
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFull, match="quota"):
            reservation.commit()
    assert os.listdir(tmp_path) == []


def test_a_file_larger_than_the_system_allows_is_refused_in_one_line(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from safelight.client.files.atomic_output import CannotWrite, reserve
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with reserve(Path(sys.argv[1]), ["a.png"]) as reservation:
        reservation.file.write(bytes(200_000))
except CannotWrite as error:
    print(error)
"""
    output, _ = run_python(script, tmp_path).communicate()
    assert "file too large" in output
    assert len(output.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_directory_that_is_a_file_is_refused_in_one_line(tmp_path: Path, inside: str) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(CannotWrite, match="not a directory; choose another"):
        reserve(tmp_path / "images" / inside, [NAME])


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_directory_that_may_not_be_written_is_refused_in_one_line(inside: str) -> None:
    with (
        ordinary_account() as directory,
        pytest.raises(CannotWrite, match="permission denied; choose another"),
    ):
        reserve(directory / inside, seconds_from_now())


def test_a_name_that_the_file_system_refuses_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="name too long"):
        reserve(tmp_path, ["x" * 256])
    assert os.listdir(tmp_path) == []


def test_when_every_candidate_is_taken_it_is_said(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    with pytest.raises(CannotWrite, match="taken"):
        reserve(tmp_path, [NAME])


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for commit in (True, False):
        with reserve(tmp_path, seconds_from_now()) as reservation:
            if commit:
                reservation.commit()
    with pytest.raises(CannotWrite):
        reserve(tmp_path, [NAME])
    assert len(os.listdir("/dev/fd")) == before
