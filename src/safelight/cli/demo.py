"""`demo`: encrypt, kill the leader, encrypt again, decrypt both, compare, draw.

The cluster has its own ports, keyring and user in a temporary directory. Only the picture stays.
"""

import itertools
import tempfile
import time
from pathlib import Path

from safelight import samples
from safelight.cli.output.console import ConsoleReporter
from safelight.client.async_client import AsyncClient
from safelight.client.files.atomic_output import reserve
from safelight.client.requests.status import wait_for_leader
from safelight.client.session import Saved, Session
from safelight.config import Config
from safelight.errors import SafelightError
from safelight.local.cluster import LocalCluster, ephemeral_config
from safelight.local.comparison_picture import draw
from safelight.names import counted
from safelight.runtime import signals

USER = "alice"
SAMPLE = "lighthouse.png"
PICTURE = "failover.png"


def walk_through(to: Path, output: str | None = None) -> None:
    """Show a failover and save the picture in `to`. Raises SafelightError if a step has a wrong result."""
    reporter = ConsoleReporter(dialogue=output is None)
    with (
        reporter.reporting(output),
        signals.unwinding(),
        tempfile.TemporaryDirectory(prefix="safelight-demo-") as scratch,
    ):
        config = ephemeral_config(Path(scratch))
        with LocalCluster(config, reporter.node) as cluster:
            signals.run(_walk(config, cluster, reporter, Path(scratch), to))


async def _walk(config: Config, cluster: LocalCluster, reporter: ConsoleReporter, scratch: Path, to: Path) -> None:
    def step(number: int, text: str) -> None:
        reporter.say("")
        reporter.say(f"{number}. {text}", "bold")

    sample = samples.path(SAMPLE)
    step(1, "Three nodes start and elect a leader.")
    cluster.start()
    first = await wait_for_leader(config, config.timeout)
    reporter.say(f"Node {first} leads.")

    async with AsyncClient.of(config, USER) as client:
        session = client.session
        step(2, f"{USER} encrypts a photograph.")
        before = await _seal(session, sample, scratch, reporter)

        step(3, f"The leader, node {first}, is killed (SIGKILL), and {USER} encrypts the photograph again at once.")
        killed = time.monotonic()
        cluster.kill(first)
        after = await _seal(session, sample, scratch, reporter)
        failover = 1000 * (time.monotonic() - killed)
        reporter.say(f"Node {after.node} has taken over: {failover:.0f} ms from the kill to the encrypted file.")
        if after.node == first:
            raise SafelightError(f"node {first} encrypted after it was killed; please report this")

        step(4, "Both files are decrypted and compared with the original.")
        original = sample.read_bytes()
        for sealed in (before, after):
            opened = await session.open(sealed.path, to=scratch / "decrypted", feedback=reporter)
            reporter.settle()
            if opened.path.read_bytes() != original:
                raise SafelightError(f"the file from node {sealed.node} decrypts to another image; please report this")
            reporter.say(f"✓ The file from node {sealed.node} decrypts to the original, byte for byte.", "green")
    if before.path.read_bytes() == after.path.read_bytes():
        raise SafelightError("two encryptions of one photograph are the same file; please report this")

    step(5, "A picture shows the photograph, its ciphertext and the decrypted photograph.")
    title = f"Encrypted by node {after.node}, {failover:.0f} ms after node {first} was killed"
    picture = draw(original, after.path.read_bytes(), opened.path.read_bytes(), title)
    with reserve(to, (counted(PICTURE, n) for n in itertools.count(1))) as reservation:
        picture.save(reservation.file, "PNG")
        reservation.commit()
    reporter.say(f"Picture saved to: {reservation.path}")
    reporter.result(
        status="done", path=reservation.path, killed=first, leader=after.node, failover_ms=round(failover, 1)
    )


async def _seal(session: Session, sample: Path, scratch: Path, reporter: ConsoleReporter) -> Saved:
    try:
        saved = await session.seal(sample, to=scratch / "images", feedback=reporter)
    finally:
        reporter.settle()
    reporter.say(f"Encrypted: {saved.path.name}, {saved.size} bytes")
    return saved
