"""A sealed file that is not as it was sealed never opens: one clear error, and no file of any name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from safelight.encryption.errors import CannotOpen, ClassicIsSealed
from safelight.wire.messages import Problem, Refusal, Scheme
from tests.mission.support import MEBIBYTE, Witness, contents, image_of, open_, seal, status_of
from tests.running import Running, as_user

SIZE = 3 * MEBIBYTE + 3  # four segments
SEGMENT = MEBIBYTE


@pytest.fixture(scope="module")
def sealed(shared_cluster: Running, tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> bytes:
    directory = tmp_path_factory.mktemp("sealed")
    image = image_of(SIZE, directory / "image.png", photograph)
    return seal(shared_cluster.config, image, directory).path.read_bytes()


def refused(cluster: Running, file: bytes, directory: Path, user: str = "alice") -> str:
    """What is said of a file that does not open; and nothing else happens."""
    path, opened = directory / "encrypted_image_1730738456.png", directory / "opened"
    path.write_bytes(file)
    done = status_of(cluster.config, 3)[3].images
    with pytest.raises((CannotOpen, Refusal)) as raised:  # what the header tells, the client sees by itself
        open_(cluster.config, path, opened, user)
    assert contents(opened) == []
    if isinstance(raised.value, Refusal):
        assert raised.value.problem in (Problem.CANNOT_OPEN, Problem.BAD_REQUEST)
    assert "\n" not in str(raised.value)
    assert status_of(cluster.config, 3)[3].images == done
    return str(raised.value)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda size: 0, "not a sealed file, or its beginning is damaged"),
        (lambda size: 30, "damaged"),
        (lambda size: 100, "damaged"),
        (lambda size: SEGMENT, "damaged or not this user's"),
        (lambda size: size // 2, "damaged or not this user's"),
        (lambda size: 3 * SEGMENT, "damaged or not this user's"),
        (lambda size: size - 1, "damaged or not this user's"),
    ],
    ids=["magic", "header", "slot", "first segment", "middle", "last boundary", "last byte"],
)
def test_a_file_with_a_flipped_bit_does_not_open(
    shared_cluster: Running, sealed: bytes, tmp_path: Path, place: Callable[[int], int], reason: str
) -> None:
    for bit in (0, 7):
        damaged = bytearray(sealed)
        damaged[place(len(sealed))] ^= 1 << bit
        assert reason in refused(shared_cluster, bytes(damaged), tmp_path)


def test_no_flipped_bit_of_the_header_goes_unnoticed(shared_cluster: Running, sealed: bytes, tmp_path: Path) -> None:
    for place in range(0, 160, 7):
        damaged = bytearray(sealed)
        damaged[place] ^= 0x10
        refused(shared_cluster, bytes(damaged), tmp_path)


@pytest.mark.parametrize("left", [1, 20, 100, SEGMENT, 2 * SEGMENT + 1, -SEGMENT, -17, -1])
def test_a_file_that_was_cut_does_not_open(shared_cluster: Running, sealed: bytes, tmp_path: Path, left: int) -> None:
    refused(shared_cluster, sealed[:left], tmp_path)


def test_a_file_with_something_added_or_moved_does_not_open(
    shared_cluster: Running, sealed: bytes, tmp_path: Path
) -> None:
    head = len(sealed) - (len(sealed) % SEGMENT)
    one, two = sealed[head - 2 * SEGMENT : head - SEGMENT], sealed[head - SEGMENT : head]
    for altered in (
        sealed + b"\0",
        sealed + sealed,
        b"\0" + sealed,
        sealed.replace(one, two),
        sealed.replace(one + two, two + one),
    ):
        assert altered != sealed
        refused(shared_cluster, altered, tmp_path)


def test_a_sealed_file_does_not_open_as_a_classic_one(shared_cluster: Running, sealed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "encrypted_image_1730738456.png"
    path.write_bytes(sealed)
    with pytest.raises(Refusal, match=str(ClassicIsSealed())):
        as_user(
            shared_cluster.config,
            "alice",
            lambda session: session.open(path, to=tmp_path / "opened", scheme=Scheme.CLASSIC, feedback=Witness()),
        )
    assert contents(tmp_path / "opened") == []
