"""Let the C library keep the memory of a few segments that were given back, for the next ones.

By default glibc gives each mebibyte back to the system at once (mallopt(3)), and the system clears every page again
for the next segment: a quarter of the time that a large image takes.
"""

import ctypes

SEGMENTS = 8 << 20
"""Bytes that are kept at the end of the heap."""

LARGEST = 4 << 20
"""Bytes; what is larger is mapped, and given back at once."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_segments() -> None:
    """For this process. Elsewhere than with glibc it changes nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, SEGMENTS)
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
