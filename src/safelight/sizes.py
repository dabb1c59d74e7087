"""Sizes in bytes, as people write and read them."""

import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str | int) -> int:
    """`"10 GiB"`, `"512M"` or a number: bytes, in powers of 1024. Raises ValueError."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 512M or 10 GiB")
    try:
        return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))
    except OverflowError:
        raise ValueError(f"{text[:20]}… is more than any file has") from None


def human_size(size: int) -> str:
    """'512 B', '1.5 MiB', '64 MiB': binary units (IEC 80000-13), one decimal where it says something."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if round(value, 1) < 1024 or unit == "TiB":
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
