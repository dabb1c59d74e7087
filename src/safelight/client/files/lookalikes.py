"""Which of a user's images could have one and the same file: of one size, time and name, whatever is in them.

Archives and reproducible builds give all their files one time, and icons have one size. Where two images are alike,
only the bytes of a file say whose it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from safelight.client.files.atomic_output import COARSEST
from safelight.names import stem


class Lookalikes:
    """Images by what their files show from outside; a number or two for each."""

    def __init__(self) -> None:
        self._images: dict[int, str] = {}
        """By the hash of what is seen: the only image's name, or "" for several."""

    def add(self, image: str, file: str, size: int, moments: Sequence[int | None]) -> None:
        """`image`: its name. `file`: that of its file, which may count on. `size`: bytes. `moments`: the times that
        the file may have, in nanoseconds; None: any.
        """
        for moment in moments:
            seen = hash((stem(file), size, None if moment is None else moment // COARSEST))
            self._images[seen] = image if self._images.get(seen, image) == image else ""

    def others(self, image: str, file: str, size: int, modified: int) -> bool:
        """Whether a file of this size and time could be another image's than this one's."""
        moment = modified // COARSEST  # a time that was rounded is in the same span or in the next one
        spans = (None, moment - 1, moment, moment + 1)
        found = (self._images.get(hash((stem(file), size, span)), image) for span in spans)
        return any(each != image for each in found)
