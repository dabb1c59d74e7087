"""Images whose files look alike from outside: same name, size and time.

Archives and reproducible builds give all their files one time, and icons have one size. Where two images look alike,
only the bytes of a file tell which image it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

from safelight.client.files.atomic_output import COARSEST
from safelight.names import stem


class Lookalikes:
    """All images, by a hash of name, size and time: one or two integers for each."""

    def __init__(self) -> None:
        self._images: dict[int, str] = {}
        """By hash: the name of the only image, or "" for several."""

    def add(self, image: str, file: str, size: int, moments: Sequence[int | None]) -> None:
        """`image`: its name. `file`: its file's name, without a count. `size`: bytes. `moments`: possible times of
        modification of the file, in nanoseconds; None: any.
        """
        for moment in moments:
            seen = hash((stem(file), size, None if moment is None else moment // COARSEST))
            self._images[seen] = image if self._images.get(seen, image) == image else ""

    def others(self, image: str, file: str, size: int, modified: int) -> bool:
        """Whether a file of this size and time could belong to another image."""
        moment = modified // COARSEST  # a time that was rounded is in the same span or in the next one
        spans = (None, moment - 1, moment, moment + 1)
        found = (self._images.get(hash((stem(file), size, span)), image) for span in spans)
        return any(each != image for each in found)
