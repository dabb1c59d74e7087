"""`usage-N.json`: how often node N has used each cluster key; and the warnings when a key should be rotated.

Saved in a thread, a block ahead: see `key_usage`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safelight.decoding import Malformed, decode
from safelight.node.state.data_directory import DataError, replace
from safelight.node.state.key_file import Keys
from safelight.node.state.key_usage import KeyUsage, Uses
from safelight.runtime.tasks import retrieve


class UsageFile:
    """One node's count, on the disk. On the event loop only."""

    def __init__(self, directory: Path, node: int, nodes: int, keys: Keys, log: Callable[[str], None]) -> None:
        """`nodes`: how many share the keys. Raises DataError."""
        self._path = directory / f"usage-{node}.json"
        self._keys, self._log = keys, log
        self._usage = KeyUsage(self._read(), nodes, self._save)

    def record(self, key_id: str) -> None:
        """A record is encrypted under this cluster key."""
        self._usage.record(key_id)
        self._warn(key_id)

    def wrap(self, key_id: str) -> None:
        """A data key is wrapped under this cluster key."""
        self._usage.wrap(key_id)
        self._warn(key_id)

    def current(self) -> tuple[int, str]:
        """How often this node has used the current key, and what the operator should do about that."""
        key_id = self._keys.ring.current_id
        return self._usage.used(key_id), self._usage.advice(key_id)

    def close(self) -> None:
        """Save the exact count."""
        if self._usage:
            with suppress(OSError):
                replace(self._path, self._usage.written(0))

    def _warn(self, key_id: str) -> None:
        if advice := self._usage.due(key_id):
            self._log(f"WARNING: {advice}")

    def _read(self) -> dict[str, Uses]:
        try:
            return decode(self._path.read_bytes(), dict[str, Uses])
        except FileNotFoundError:
            return {}
        except (OSError, Malformed) as error:
            raise DataError(
                f"{self._path} is unreadable ({error}): delete it, and run `safelight keys rotate`"
            ) from None

    def _save(self, text: bytes) -> None:
        saving = asyncio.get_running_loop().run_in_executor(None, replace, self._path, text)
        saving.add_done_callback(retrieve)  # an error does no harm: the count is saved again long before it is needed
