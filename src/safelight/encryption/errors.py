"""Errors of keyrings, sealed files and classic files: one class for each reason. A message states the remedy, too."""

from safelight.errors import SafelightError


class KeyringError(SafelightError):
    """The keyring cannot be used. The message never holds key material."""


class CannotOpen(SafelightError):
    """A file does not open. Each subclass is one reason; its message states what to do."""


class NotSealed(CannotOpen):
    """The file does not begin as a sealed file does."""

    def __init__(self) -> None:
        super().__init__(
            "This is not a sealed file, or its beginning is damaged; if it is a classic file, use --scheme classic."
        )


class UnsupportedVersion(CannotOpen):
    """The file is sealed in a version of the format that this version of Safelight does not support."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"This file is sealed in format version {version}, or its beginning is damaged; "
            "this Safelight knows version 1: open it with a newer one."
        )


class WrongUser(CannotOpen):
    """The file is intact, and sealed for another user."""

    def __init__(self, sealed_for: str, user: str) -> None:
        # repr(), because the name comes from a file: control characters must not reach a terminal.
        super().__init__(f"This file is sealed for {sealed_for!r}, not {user!r}: open it as {sealed_for!r}.")


class OtherCluster(CannotOpen):
    """The file is intact, and sealed with a cluster key that is not in the keyring."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(
            f"This file is sealed with the key {key_id}, which this cluster does not have: "
            "open it with the cluster that sealed it, or restore that cluster's keyring."
        )


class Damaged(CannotOpen):
    """A byte of the file was changed, removed or added after it was sealed."""

    def __init__(self) -> None:
        super().__init__("The file is damaged or not this user's: fetch it again, or open another copy.")


class ClassicIsSealed(CannotOpen):
    """A sealed file was given as a classic one."""

    def __init__(self) -> None:
        super().__init__("This is a sealed file, not a classic one: leave out --scheme classic.")


class ClassicTooShort(CannotOpen):
    """The file is shorter than the 16 bytes with which every classic file begins."""

    def __init__(self) -> None:
        super().__init__("This is not a classic file: it is shorter than 16 bytes. Fetch it again.")


class TooLarge(SafelightError):
    """The plaintext needs more segments than the format can number (about 4 PiB)."""

    def __init__(self) -> None:
        super().__init__("The image is larger than a sealed file can be (4 PiB): split it.")
