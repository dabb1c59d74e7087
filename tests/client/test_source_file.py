import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from safelight.client.files.source_file import CannotRead, ChangedWhileReading, open_image
from safelight.encryption.sealed import MAGIC
from tests.accounts import ordinary_account

GIB = 1 << 30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((200, 200), 64).save(path)
    return path


def refused(path: Path, *, any_type: bool = False, max_size: int = GIB) -> str:
    with pytest.raises(CannotRead) as error:
        open_image(path, any_type=any_type, max_size=max_size)
    message = str(error.value)
    assert message.isprintable()
    return message


def test_an_image_is_known_by_what_is_in_it(photo: Path) -> None:
    mislabelled = photo.rename(photo.with_suffix(".txt"))
    with open_image(mislabelled, any_type=False, max_size=GIB) as source:
        assert source.type is not None
        assert (source.type.name, source.extension) == ("PNG", "png")
        assert source.path == mislabelled
        assert source.size == mislabelled.stat().st_size
        assert source.modified_ns == mislabelled.stat().st_mtime_ns


@pytest.mark.parametrize("length", [1, 1000, 1 << 20])
def test_two_attempts_that_overlap_both_read_the_whole_image(photo: Path, length: int) -> None:
    with open_image(photo, any_type=False, max_size=GIB) as source:
        first = source.chunks(length)
        beginning = next(first)
        assert b"".join(source.chunks(length)) == photo.read_bytes()
        assert beginning + b"".join(first) == photo.read_bytes()


def change_by_truncating(path: Path) -> None:
    os.truncate(path, 2000)


def change_by_growing(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def change_in_place(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # however coarse the clock


@pytest.mark.parametrize("change", [change_by_truncating, change_by_growing, change_in_place])
def test_a_file_that_changes_while_it_is_read_is_noticed_before_its_end(
    photo: Path, change: Callable[[Path], None]
) -> None:
    with open_image(photo, any_type=False, max_size=GIB) as source:
        chunks = source.chunks(source.size - 1)
        assert len(next(chunks)) == source.size - 1
        change(photo)
        with pytest.raises(ChangedWhileReading, match="changed while it was read"):
            next(chunks)


def test_a_file_that_is_replaced_while_it_is_read_is_sent_as_it_was(photo: Path) -> None:
    content = photo.read_bytes()
    with open_image(photo, any_type=False, max_size=GIB) as source:
        other = photo.with_name("other")
        other.write_bytes(b"another")
        other.replace(photo)
        assert b"".join(source.chunks()) == content


def test_a_missing_file_is_refused_with_the_name_that_was_meant(photo: Path) -> None:
    assert refused(photo.with_name("phoot.png")).endswith("photo.png'?")
    assert refused(photo.with_name("unlike")).endswith("does not exist")
    assert "does not exist" in refused(photo.parent / "nowhere" / "photo.png")


def test_a_broken_link_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "photo.png").symlink_to("gone.png")
    with pytest.raises(CannotRead, match="is a broken link"):
        open_image(tmp_path / "photo.png", any_type=False, max_size=1000)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "my pics").mkdir()
    assert refused(tmp_path / "my pics").endswith(f"'{tmp_path}/my pics'/*")


def test_an_empty_file_is_refused_even_with_any(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "is empty" in refused(tmp_path / "empty.png", any_type=True)


def test_pipes_sockets_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            assert "is not a regular file" in refused(path, any_type=True)


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        secret = Path(directory) / "secret.png"
        secret.touch()
        secret.chmod(0)
        with ordinary_account():
            assert "permission denied" in refused(secret)


def test_what_is_no_image_is_refused_unless_any_type_will_do(tmp_path: Path) -> None:
    letter = tmp_path / "letter\nto a friend"
    letter.write_text("BMW driver seeks garage")
    assert "--any" in refused(letter)
    with open_image(letter, any_type=True, max_size=GIB) as source:
        assert (source.type, source.extension) == (None, "")
        assert b"".join(source.chunks()) == letter.read_bytes()


def test_what_is_encrypted_already_is_refused_unless_somebody_insists(tmp_path: Path) -> None:
    sealed = tmp_path / "encrypted_photo.png"
    sealed.write_bytes(MAGIC + bytes(100))
    assert "is sealed already" in refused(sealed)
    open_image(sealed, any_type=True, max_size=GIB).__exit__(None, None, None)


def test_a_path_is_quoted_as_it_was_typed() -> None:
    with pytest.raises(CannotRead, match=re.escape("'http://x/y.png' does not")):
        open_image("http://x/y.png", any_type=False, max_size=GIB)


def test_an_image_above_the_limit_is_refused_and_one_at_the_limit_is_not(photo: Path) -> None:
    size = photo.stat().st_size
    open_image(photo, any_type=False, max_size=size).__exit__(None, None, None)
    message = refused(photo, max_size=size - 1)
    assert f"{size} bytes, where {size - 1} bytes are allowed" in message
    assert "max_image_size" in message
    assert "KiB, where 1 KiB are allowed" in refused(photo, max_size=1024)


def test_no_descriptor_is_left_open(photo: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    refused(photo, max_size=1)
    with open_image(photo, any_type=False, max_size=GIB):
        pass
    assert len(os.listdir("/dev/fd")) == before
