"""What a session reports: which servers declined, which processed the request, what it waits for, and its progress."""

from typing import Protocol


class Feedback(Protocol):
    """Called by a session while it works, in the order in which things happen."""

    def broadcasting(self) -> None:
        """The offer goes out to every server at once. Said once for each image."""

    def declined(self, server: int, detail: str) -> None:
        """Server (its place in the list) answered that it does not do this. Said once for each image."""

    def unreachable(self, server: int, detail: str) -> None:
        """Server did not answer at all, or with something that is not Safelight's."""

    def waiting(self, reason: str) -> None:
        """Nothing can be done until `reason` is over: show it, until the next call of anything else."""

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` bytes are through: all of the image there, and then as many back.

        Begins at 0 again when another attempt begins.
        """

    def processed(self, server: int, assigned_by: int | None = None) -> None:
        """This server has done the work: as the leader, or because the leader assigned it."""


class NullFeedback:
    """Feedback for nobody."""

    def broadcasting(self) -> None:
        pass

    def declined(self, server: int, detail: str) -> None:
        pass

    def unreachable(self, server: int, detail: str) -> None:
        pass

    def waiting(self, reason: str) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        pass

    def processed(self, server: int, assigned_by: int | None = None) -> None:
        pass
