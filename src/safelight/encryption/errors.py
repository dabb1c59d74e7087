"""Everything that can be wrong with a keyring, a sealed file or a classic file, one class for each answer."""

from safelight.errors import SafelightError


class KeyringError(SafelightError):
    """The keyring cannot be used. The message never holds key material."""


class CannotOpen(SafelightError):
    """A file does not open. Each subclass is one reason, and its message says what to do."""


class NotSealed(CannotOpen):
    """The file does not begin as a sealed file does."""

    def __init__(self) -> None:
        super().__init__(
            "This is not a sealed file, or its beginning is damaged; if it is a classic file, say --scheme classic."
        )


class UnsupportedVersion(CannotOpen):
    """The file is sealed in a version of the format that this Safelight does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"This file is sealed in format version {version}, or its beginning is damaged; "
            "this Safelight knows version 1: open it with a newer one."
        )


class WrongUser(CannotOpen):
    """The file is intact, and sealed for someone else."""

    def __init__(self, sealed_for: str, user: str) -> None:
        # repr() because the name comes out of a file: it must not reach a terminal with control characters.
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
    """Some byte of the file is not what was sealed, or is missing, or was added."""

    def __init__(self) -> None:
        super().__init__("The file is damaged or not this user's: fetch it again, or open another copy.")


class ClassicIsSealed(CannotOpen):
    """A sealed file was given as a classic one."""

    def __init__(self) -> None:
        super().__init__("This is a sealed file, not a classic one: leave out --scheme classic.")


class ClassicTooShort(CannotOpen):
    """Fewer than the 16 bytes that every classic file begins with."""

    def __init__(self) -> None:
        super().__init__("This is not a classic file: it is shorter than 16 bytes. Fetch it again.")


class TooLarge(SafelightError):
    """More plaintext than the format can count segments for (about 4 PiB)."""

    def __init__(self) -> None:
        super().__init__("The image is larger than a sealed file can be (4 PiB): split it.")
