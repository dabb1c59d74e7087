import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safelight.names import (
    InvalidName,
    check_image_name,
    check_user,
    counted,
    decrypted_name,
    encrypted_name,
    repaired,
    shown,
    stem,
)

NOW = 1730738456
# Whatever os.listdir may return: control characters, and surrogates for bytes that are not UTF-8.
local_names = st.text(st.characters(exclude_categories=()), min_size=1, max_size=300)
timestamps = st.integers(0, 2**40)


@pytest.mark.parametrize("user", ["a", "0", "alice", "a.b_c-d", "9lives", "x" * 64])
def test_a_plain_user_name_is_accepted(user: str) -> None:
    assert check_user(user) == user


@pytest.mark.parametrize(
    "user",
    [
        "",
        "Alice",
        "-a",
        ".a",
        "_a",
        "a b",
        "a/b",
        "../a",
        "é",
        "a\n",
        "a\0",
        "x" * 65,
        "alice\u202e",
        "\ud800",
    ],
)
def test_any_other_user_name_is_refused_in_one_printable_line(user: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_user(user)
    message = str(refused.value)
    assert message.isprintable()
    assert "a-z" in message


def test_a_user_name_in_capitals_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(InvalidName, match="did you mean 'alice'"):
        check_user("Alice")


def test_no_name_is_suggested_that_would_be_refused() -> None:
    with pytest.raises(InvalidName) as refused:
        check_user("Zoë")
    assert "did you mean" not in str(refused.value)


def test_a_very_long_user_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidName) as refused:
        check_user("x" * 300)
    assert len(str(refused.value)) < 260


def test_escapes_of_a_terminal_are_shown_and_not_sent() -> None:
    assert shown("\x1b[31mred") == r"'\x1b[31mred'"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "photo.png",
        "my photo.png",
        "…",
        "日本.png",
        "back\\slash",
        ".hidden",
        "...",
        "x" * 255,
        "é" * 127,
    ],
)
def test_an_image_name_that_could_name_a_file_is_accepted(name: str) -> None:
    assert check_image_name(name) == name


def test_the_two_ways_to_write_an_accent_stay_two_names() -> None:
    assert check_image_name("e\u0301.png") != check_image_name("\u00e9.png")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/", "a\0b", "a\nb", "\x7f", "\x85", "x" * 256, "é" * 128, "\ud83d", "a\udcffb"],
)
def test_an_image_name_that_could_not_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_image_name(name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("test.png", "encrypted_test_1730738456.png"),
        ("holiday.final.JPG", "encrypted_holiday.final_1730738456.JPG"),
        ("my photo (1).jpeg", "encrypted_my photo (1)_1730738456.jpeg"),
        ("日本の写真.png", "encrypted_日本の写真_1730738456.png"),
        ("scan", "encrypted_scan_1730738456.jpg"),
        ("scan.", "encrypted_scan._1730738456.jpg"),
        (".png", "encrypted_.png_1730738456.jpg"),
        (".hidden", "encrypted_.hidden_1730738456.jpg"),
        (".hidden.png", "encrypted_.hidden_1730738456.png"),
        ("portrait of Dr. Smith", "encrypted_portrait of Dr. Smith_1730738456.jpg"),
        ("two\nlines\x1b.png", "encrypted_two_lines__1730738456.png"),
        ("latin1-\udce9.png", "encrypted_latin1-__1730738456.png"),
    ],
)
def test_a_sealed_file_keeps_name_and_suffix_of_its_original(original: str, expected: str) -> None:
    assert encrypted_name(original, NOW, "jpg") == expected


def test_with_no_suffix_and_no_known_type_there_is_no_suffix() -> None:
    assert encrypted_name("README", NOW, "") == "encrypted_README_1730738456"


@pytest.mark.parametrize("original", ["é" * 125 + "x.png", "x" * 251 + ".png", "😀" * 63 + "png", "." + "x" * 254])
def test_the_longest_names_that_a_disk_takes_can_be_sealed_and_opened(original: str, tmp_path: Path) -> None:
    assert len(os.fsencode(original)) == 255
    for name in (original, sealed := encrypted_name(original, NOW, "png"), decrypted_name(sealed)):
        (tmp_path / name).touch()
    assert len(os.listdir(tmp_path)) == 3


@given(local_names, timestamps, st.sampled_from(["", "png", "heic"]))
@example("x." + "y" * 253, NOW, "png")
def test_every_local_name_gives_a_sealed_name_that_the_cluster_accepts(
    original: str, timestamp: int, extension: str
) -> None:
    name = encrypted_name(original, timestamp, extension)
    assert check_image_name(name) == name
    assert name.startswith("encrypted_")
    assert f"_{timestamp}" in name


@given(local_names, timestamps, timestamps)
@example("a_1.png", 5, 15)
@example("é" * 127, 9, 10)
def test_other_seconds_give_other_names(original: str, one: int, other: int) -> None:
    names = {encrypted_name(original, one, "png"), encrypted_name(original, other, "png")}
    assert len(names) == len({one, other})


@pytest.mark.parametrize(
    ("sealed", "expected"),
    [
        ("encrypted_test_1730738456.png", "decrypted_test_1730738456.png"),
        ("test.png", "decrypted_test.png"),
        ("encrypted_scan_1730738456", "decrypted_scan_1730738456"),
        ("encrypted_encrypted_a.png", "decrypted_encrypted_a.png"),
        ("x" * 255, "decrypted_" + "x" * 245),
        ("x" * 251 + ".png", "decrypted_" + "x" * 241 + ".png"),
    ],
)
def test_an_opened_image_is_named_after_its_sealed_file(sealed: str, expected: str) -> None:
    assert decrypted_name(sealed) == expected


@given(local_names, timestamps)
def test_opening_what_was_sealed_changes_one_word_of_the_name(original: str, timestamp: int) -> None:
    sealed = encrypted_name(original, timestamp, "png")
    assert decrypted_name(sealed) == "decrypted_" + sealed.removeprefix("encrypted_")


@given(local_names)
def test_every_local_name_gives_an_opened_name_that_a_disk_accepts(sealed: str) -> None:
    assert check_image_name(decrypted_name(sealed))


def test_outputs_that_exist_are_counted() -> None:
    names = [counted("decrypted_test_1730738456.png", n) for n in (1, 2, 10)]
    assert names == [
        "decrypted_test_1730738456.png",
        "decrypted_test_1730738456-2.png",
        "decrypted_test_1730738456-10.png",
    ]


@given(local_names, st.integers(2, 10**6), st.integers(2, 10**6))
def test_counted_names_fit_and_differ(sealed: str, one: int, other: int) -> None:
    name = decrypted_name(sealed)
    assert check_image_name(counted(name, one))
    assert len({counted(name, one), counted(name, other), name}) == 1 + len({one, other})


@given(local_names, st.integers(1, 10**6), st.integers(1, 10**6))
@example("x" * 300 + ".png", 2, 3)
@example("\U0001f600" * 63 + "." + "\U0001f600" * 32, 999_999, 2)
@example("a-2-.png", 1, 12)
@example("0.", 1, 2)
@example("a.-2", 1, 3)
@example("x" * 23 + ".png", 1, 10)
def test_names_that_count_on_from_one_another_have_one_stem(name: str, n: int, m: int) -> None:
    once = counted(repaired(name), n)
    assert stem(once) == stem(repaired(name)) == stem(counted(once, m))


def test_names_that_are_one_name_somewhere_have_one_stem() -> None:
    assert stem("CAF\u00c9.png") == stem("cafe\u0301-2.PNG")
    assert stem("a.png") != stem("b.png")
    assert stem("a.png") != stem("a.gif")
