"""Rights as any account has them, for tests that run as root."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ordinary_account() -> Iterator[Path]:
    """An empty directory, and no more rights than any account has: root may write everywhere."""
    with tempfile.TemporaryDirectory() as directory:
        was = os.geteuid()
        if was == 0:
            os.chmod(directory, 0o755)
            os.seteuid(65534)
        else:
            os.chmod(directory, 0o555)
        try:
            yield Path(directory)
        finally:
            os.seteuid(was)
            os.chmod(directory, 0o755)
