import pytest

from safelight.sizes import human_size, parse_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (64 << 20, "64 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (5 << 30, "5 GiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes_are_written_for_people(size: int, expected: str) -> None:
    assert human_size(size) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("10 GiB", 10 << 30), ("1.5 KB", 1536), ("7", 7), (" 2 tib ", 2 << 40), (99, 99)],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1", "1 PB", "1e9", "10 G i B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
