"""Classic files: what `openssl` opens and makes, and what they do not protect."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.encryption import Scheme, open_, seal, sealed_size
from safelight.encryption.classic import ClassicOpener, ClassicSealer, plain_size
from safelight.encryption.errors import ClassicIsSealed, ClassicTooShort
from safelight.encryption.keys import Keyring, classic_key

from .oracles import openssl_ctr
from .pushing import cut, push, push_until_error

KEYRING = Keyring.new()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_003])
def test_openssl_opens_a_classic_file(size: int) -> None:
    image = os.urandom(size)
    file = push(ClassicSealer("alice"), image)
    assert openssl_ctr(classic_key("alice"), file[:16], file[16:]) == image


@pytest.mark.parametrize("counter", [bytes(range(16)), b"\xff" * 16, b"\x00" * 8 + b"\xff" * 8])
def test_we_open_what_openssl_made(counter: bytes) -> None:
    image = os.urandom(1000)
    assert push(ClassicOpener("alice"), counter + openssl_ctr(classic_key("alice"), counter, image)) == image


def test_the_commands_in_the_documentation_open_a_classic_file(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text("utf-8")
    script = text.split("<!-- classic-openssl -->")[1].split("```sh\n")[1].split("```")[0]
    image = os.urandom(1000)
    (tmp_path / "encrypted.png").write_bytes(push(ClassicSealer("alice"), image))
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    assert (tmp_path / "opened.png").read_bytes() == image


@given(image=st.binary(max_size=200), data=st.data())
def test_a_classic_file_opens_whatever_the_chunks(image: bytes, data: st.DataObject) -> None:
    cuts = st.lists(st.integers(0, 250), max_size=8)
    file = push(seal(Scheme.CLASSIC, "alice", KEYRING), *cut(image, data.draw(cuts)))
    assert len(file) == sealed_size(Scheme.CLASSIC, len(image), "alice")
    assert push(open_(Scheme.CLASSIC, "alice", KEYRING), *cut(file, data.draw(cuts))) == image
    assert plain_size(len(file)) == len(image)


def test_the_same_image_never_gives_the_same_classic_file() -> None:
    files = {push(ClassicSealer("alice"), bytes(16)) for _ in range(20)}
    assert len({file[16:] for file in files}) == 20


def test_another_user_gets_noise_and_no_error() -> None:
    assert push(ClassicOpener("bob"), push(ClassicSealer("alice"), bytes(100))) != bytes(100)


@pytest.mark.parametrize("size", [8, 15, 16, 80, 200])
def test_a_sealed_file_is_not_opened_as_a_classic_one(size: int) -> None:
    file = push(seal(Scheme.SEALED, "alice", KEYRING), b"an image")[:size]
    for chunks in ([file], [file[at : at + 1] for at in range(len(file))]):
        released, error = push_until_error(ClassicOpener("alice"), *chunks)
        assert (released, type(error)) == (b"", ClassicIsSealed)


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_file_without_room_for_the_counter_block_is_too_short(size: int) -> None:
    released, error = push_until_error(ClassicOpener("alice"), bytes(size))
    assert (released, type(error)) == (b"", ClassicTooShort)
    with pytest.raises(ClassicTooShort):
        plain_size(size)
