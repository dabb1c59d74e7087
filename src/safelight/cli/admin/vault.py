"""The operator's commands about the vault. They run on a machine with the keyring.

They need no node, and the nodes can run: the vault arbitrates.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safelight.cli.admin.cluster import keyring_file
from safelight.cli.output.console import console
from safelight.cli.output.documents import show_document, show_lines
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.sizes import human_size
from safelight.vault import maintenance
from safelight.vault.bootstrap import open_vault
from safelight.vault.records import RECORDS, USERS
from safelight.vault.vault import Vault
from safelight.vault.verify import Checked
from safelight.vault.verify import verify as look_at_everything


class Findings(msgspec.Struct):
    """The document that `verify --json` prints."""

    objects: int = 0
    bytes: int = 0
    damaged: int = 0
    missing: int = 0
    foreign: int = 0
    leftover: int = 0
    troubles: list[Checked] = []

    @property
    def lost(self) -> bool:
        return bool(self.damaged or self.missing or self.foreign)

    def __str__(self) -> str:
        counts = {kind: getattr(self, kind) for kind in ("damaged", "missing", "foreign", "leftover")}
        what = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "every tag verifies"
        return f"{self.objects} objects, {human_size(self.bytes)}: {what}"


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Vault]:
    """The cluster's vault; none is created here. Raises DataError, KeyringError, CannotUseVault and StoreError."""
    keyring = keyring_file(config).read()
    vault = await open_vault(config.vault_url, config.data_dir, lambda: keyring, create=False)
    try:
        yield vault
    finally:
        await vault.store.close()


async def verify(config: Config, *, output: str | None = None) -> bool:
    """Check every object in the vault and report what is wrong. Returns whether nothing is lost. Raises SafelightError.

    `output`: "json" prints the findings as one document, "jsonl" each object with a fault at once.
    """
    found, lines = Findings(), console(stderr=output is not None)
    async with opened(config) as vault:
        with _progress(lines) as progress:
            task = progress.add_task("verifying", total=await _objects(vault))
            async for checked in look_at_everything(vault):
                found.objects += 1
                found.bytes += checked.size
                progress.advance(task)
                if checked.fault:
                    setattr(found, checked.fault, getattr(found, checked.fault) + 1)
                    if output == "json":
                        found.troubles.append(checked)
                    elif output == "jsonl":
                        show_lines([checked])
                    else:
                        lines.print(_line(checked))
    if output == "json":
        show_document(found)
    else:
        lines.print(str(found))
    return not found.lost


async def rewrap(config: Config, *, output: str | None = None) -> None:
    """Encrypt every image's data key under the current cluster key. Reports which old keys the vault no longer needs.

    Raises SafelightError, also if a record or an image cannot be decrypted.
    """
    counts, lines = Counter[str](), console(stderr=output is not None)
    async with opened(config) as vault:
        keyring = vault.keyring()
        with _progress(lines) as progress:
            task = progress.add_task("rewrapping", total=await _chains(vault) if lines.is_terminal else None)
            async for counts in maintenance.rewrap(vault):
                progress.update(task, completed=counts.total())
    current, unreadable = keyring.current_id, counts.pop(maintenance.UNREADABLE, 0)
    for key, count in sorted(counts.items()):
        lines.print(f"key {key}: {count} {'already' if key == current else 'rewrapped'}")
    if unreadable:
        raise SafelightError(
            f"{unreadable} records or images cannot be decrypted and are unchanged: see `safelight verify`; "
            "keep the old keys"
        )
    old = [key.id for key in keyring.keys if key.id != current]
    lines.print(f"All {counts.total()} records are under the current key {current}.")
    for key in old:
        lines.print(f"Nothing in the vault needs key {key} any more; sealed files elsewhere may need it.")
    if output is not None:
        rewrapped = sum(count for key, count in counts.items() if key != current)
        show_document({"key": current, "records": counts.total(), "rewrapped": rewrapped, "unneeded": old})


async def _chains(vault: Vault) -> int:
    """How many there are, of images and of users: about what `maintenance.rewrap` will count."""
    count = 0
    for prefix in (RECORDS, USERS):
        async for entry in vault.store.list(prefix):
            count += entry.key.endswith(".1")
    return count


async def _objects(vault: Vault) -> int:
    count = 0
    async for _ in vault.store.list(""):
        count += 1
    return count


def _line(checked: Checked) -> str:
    whose = f"{checked.user}'s {shown(checked.name)}, " if checked.name else ""
    return f"{checked.fault.upper():8} {whose}{checked.key}: {checked.why}"


def _progress(lines: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=lines, transient=True, disable=not lines.is_terminal,
    )  # fmt: skip
