"""Sealed files open for their user in their cluster; any other error names its exact reason."""

import hashlib
import os
import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.encryption import Scheme, open_, seal, sealed_size
from safelight.encryption.errors import CannotOpen, Damaged, NotSealed, OtherCluster, UnsupportedVersion, WrongUser
from safelight.encryption.keys import ClusterKey, Keyring
from safelight.encryption.sealed import MAX_HEADER_SIZE, FileOpener, FileSealer, read_header

from .oracles import Tink
from .pushing import cut, push, push_until_error

KEYRING = Keyring.new()
IMAGE = Random(1).randbytes(50)
USER_AT = 26
MIB = 1 << 20


def sealed(image: bytes = IMAGE, user: str = "alice", keyring: Keyring = KEYRING) -> bytes:
    return push(FileSealer(user, keyring), image)


def opening(file: bytes, user: str = "alice", keyring: Keyring = KEYRING) -> CannotOpen:
    """The error that opening the file gives, the same for any chunks; not a byte may come out before it."""
    outcomes = [
        push_until_error(FileOpener(user, keyring), *chunks)
        for chunks in ([file], [file[at : at + 1] for at in range(len(file))], cut(file, [USER_AT, 90]))
    ]
    assert [released for released, _ in outcomes] == [b"", b"", b""]
    errors = {(type(error), str(error)) for _, error in outcomes}
    assert len(errors) == 1
    assert outcomes[0][1] is not None
    return outcomes[0][1]


def with_true_check(header: bytes) -> bytes:
    return header + hashlib.sha256(header).digest()[:4]


@settings(max_examples=80, deadline=None)
@given(
    image=st.binary(max_size=300),
    user=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    data=st.data(),
)
def test_what_is_sealed_opens_whatever_the_chunks(image: bytes, user: str, data: st.DataObject) -> None:
    cuts = st.lists(st.integers(0, 700), max_size=8)
    file = push(seal(Scheme.SEALED, user, KEYRING), *cut(image, data.draw(cuts)))
    assert len(file) == sealed_size(Scheme.SEALED, len(image), user)
    assert push(open_(Scheme.SEALED, user, KEYRING), *cut(file, data.draw(cuts))) == image
    assert read_header(file).plain_size(len(file)) == len(image)


def test_a_large_image_opens_whatever_the_chunks() -> None:
    image = Random(2).randbytes(5 * MIB + 3)
    for size in (1000, 65536, MIB, 3 * MIB + 1, 6 * MIB):
        file = push(FileSealer("alice", KEYRING), *cut(image, range(0, len(image), size)))
        assert len(file) == sealed_size(Scheme.SEALED, len(image), "alice")
        assert push(FileOpener("alice", KEYRING), *cut(file, range(0, len(file), size))) == image


def test_memory_does_not_grow_with_the_image() -> None:
    chunk = bytes(65536)
    sealer, opener = FileSealer("alice", KEYRING), FileOpener("alice", KEYRING)
    tracemalloc.start()
    for _ in range(32 * MIB // len(chunk)):
        for piece in sealer.update(chunk):
            opener.update(piece)
    opener.update(sealer.finish())
    opener.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * MIB


def test_tink_opens_a_files_payload_with_its_data_key() -> None:
    file_id, data_key = os.urandom(16), os.urandom(16)
    chosen = iter([file_id, data_key])
    file = push(FileSealer("alice", KEYRING, random=lambda size: next(chosen, None) or os.urandom(size)), IMAGE)
    header = read_header(file)
    assert header.file_id == file_id.hex()
    fixed = file[: USER_AT + len("alice")]
    assert Tink(data_key, MIB).decrypt(file[header.length :], fixed) == IMAGE


def test_an_old_cluster_key_still_opens_after_another_became_current() -> None:
    key = ClusterKey(os.urandom(32))
    rotated = replace(KEYRING, keys=(*KEYRING.keys, key), current_id=key.id)
    assert push(FileOpener("alice", rotated), sealed()) == IMAGE
    assert read_header(sealed(keyring=rotated)).key_id == key.id


def test_a_sealed_file_says_whose_it_is_without_a_key() -> None:
    file = sealed(user="zoë")
    header = read_header(file[:MAX_HEADER_SIZE])
    assert (header.version, header.user, header.key_id) == (1, "zoë", KEYRING.current.id)
    assert header.encode() == file[: header.length]
    assert header.plain_size(len(file)) == len(IMAGE)
    assert read_header(sealed(user="zoë")).file_id != header.file_id


def test_the_longest_name_makes_the_longest_header() -> None:
    file = sealed(user="u" * 255)
    assert read_header(file[:MAX_HEADER_SIZE]).length == MAX_HEADER_SIZE
    with pytest.raises(ValueError, match="1 to 255"):
        FileSealer("u" * 256, KEYRING)


def test_the_image_size_is_known_once_the_header_is_in() -> None:
    file = sealed()
    opener = FileOpener("alice", KEYRING)
    opener.update(file[:50])
    assert opener.header is None
    opener.update(file[50:MAX_HEADER_SIZE])
    header = opener.header
    assert header is not None
    assert header.plain_size(len(file)) == len(IMAGE)
    with pytest.raises(Damaged):
        header.plain_size(header.length)


def test_the_error_for_another_user_names_the_owner() -> None:
    error = opening(sealed(user="bob"))
    assert isinstance(error, WrongUser)
    assert "'bob'" in str(error)
    assert "'alice'" in str(error)


def test_a_name_from_a_file_reaches_no_terminal_with_control_characters() -> None:
    assert str(opening(sealed(user="\x1b[2J\u202ebob"))).isprintable()


def test_the_error_in_another_cluster_names_the_missing_key() -> None:
    error = opening(sealed(keyring=Keyring.new()), keyring=KEYRING)
    assert isinstance(error, OtherCluster)
    other = sealed(keyring=Keyring.new())
    assert read_header(other).key_id in str(opening(other))


@pytest.mark.parametrize("file", [b"", b"\x89", b"\x89SLT", b"\x89PNG\r\n\x1a\n" + bytes(200), bytes(200), IMAGE])
def test_what_is_not_sealed_is_called_so(file: bytes) -> None:
    assert isinstance(opening(file), NotSealed)
    with pytest.raises(NotSealed):
        read_header(file)


def test_a_transfer_as_text_is_noticed() -> None:
    file = sealed()
    assert isinstance(opening(file.replace(b"\r\n", b"\n")), NotSealed)
    assert isinstance(opening(file.replace(b"\n", b"\r\n")), NotSealed)


def test_a_later_version_is_called_so() -> None:
    file = bytearray(sealed())
    file[8] = 2
    error = opening(bytes(file))
    assert isinstance(error, UnsupportedVersion)
    assert "version 2" in str(error)


def test_every_flipped_bit_of_a_file_is_noticed_and_named() -> None:
    file = sealed()
    for bit in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        expected = NotSealed if bit < 64 else UnsupportedVersion if bit < 72 else Damaged
        released, error = push_until_error(FileOpener("alice", KEYRING), bytes(flipped))
        assert (released, type(error)) == (b"", expected)


def test_every_flipped_bit_of_a_header_is_noticed_even_with_a_true_check() -> None:
    """As an attacker would do it: the header check is no obstacle, the keys are."""
    file = sealed()
    length = read_header(file).length
    for bit in range(72, 8 * (length - 4)):
        flipped = bytearray(file[: length - 4])
        flipped[bit // 8] ^= 1 << bit % 8
        released, error = push_until_error(
            FileOpener("alice", KEYRING), with_true_check(bytes(flipped)) + file[length:]
        )
        assert released == b""
        assert isinstance(error, (Damaged, WrongUser, OtherCluster))


def test_every_cut_is_noticed() -> None:
    file = sealed()
    for end in range(len(file)):
        released, error = push_until_error(FileOpener("alice", KEYRING), file[:end])
        assert (released, type(error)) == (b"", NotSealed if end < 8 else Damaged)


def test_appended_bytes_are_noticed() -> None:
    for more in (b"\x00", bytes(1000), sealed()):
        assert isinstance(opening(sealed() + more), Damaged)


def test_headers_of_two_files_cannot_be_swapped() -> None:
    one, other = sealed(), sealed()
    length = read_header(one).length
    assert isinstance(opening(other[:length] + one[length:]), Damaged)


def test_a_slot_of_another_file_does_not_fit() -> None:
    one, other = sealed(), sealed()
    slot, end = USER_AT + len("alice"), read_header(one).length - 4
    assert isinstance(opening(with_true_check(one[:slot] + other[slot:end]) + one[end + 4 :]), Damaged)


def test_a_file_cannot_be_reassigned_to_another_user() -> None:
    file = sealed(user="bobby")
    length = read_header(file).length
    forged = with_true_check(file[: length - 4].replace(b"bobby", b"alice")) + file[length:]
    assert isinstance(opening(forged), Damaged)


def test_a_header_that_breaks_the_rules_is_damaged_even_with_a_true_check() -> None:
    file = sealed()
    length = read_header(file).length
    body, rest = file[: length - 4], file[length:]
    slot = USER_AT + 5
    broken = [
        body[:slot] + b"\x02" + body[slot + 1 :],
        body[:slot] + b"\x00" + body[slot + 1 :],
        body[: USER_AT - 1] + b"\x00" + body[slot:],
        body[:USER_AT] + b"\xff\xfe\xfd\xfc\xfb" + body[slot:],
    ]
    for header in broken:
        assert isinstance(opening(with_true_check(header) + rest), Damaged)


@given(st.binary(max_size=400))
def test_no_bytes_whatever_open_or_crash(file: bytes) -> None:
    assert isinstance(opening(file), (NotSealed, UnsupportedVersion, Damaged))


@given(st.binary(max_size=400))
def test_no_bytes_after_the_magic_open_or_crash(rest: bytes) -> None:
    assert isinstance(opening(b"\x89SLT\r\n\x1a\n\x01" + rest), Damaged)


def test_an_error_in_a_later_segment_comes_after_a_true_beginning_and_ends_it() -> None:
    image = Random(3).randbytes(3 * MIB)
    file = bytearray(push(FileSealer("alice", KEYRING), image))
    file[2 * MIB] ^= 1
    opener = FileOpener("alice", KEYRING)
    released, error = push_until_error(opener, *cut(bytes(file), range(0, len(file), 65536)))
    assert isinstance(error, Damaged)
    assert image.startswith(released)
    with pytest.raises(ValueError, match="failed"):
        opener.finish()


def test_no_error_shows_a_secret() -> None:
    for file in (sealed(user="bob"), sealed(keyring=Keyring.new()), sealed()[:-1], IMAGE):
        shown = repr(opening(file)) + str(opening(file))
        for secret in (KEYRING.node_secret, KEYRING.current.secret, KEYRING.current.user_key("alice")):
            assert secret.hex() not in shown
            assert repr(secret) not in shown
