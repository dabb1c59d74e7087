"""The failover, shown: encrypt, kill the leader, encrypt again, open both, compare, draw. All of it is thrown away
but the picture: the cluster has its own ports, keyring and user in a temporary directory."""

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


def walk_through(to: Path) -> Path:
    """Do it all; the path of the picture, in `to`. Raises SafelightError if anything is not as it should be."""
    transcript = ConsoleReporter(dialogue=True)
    with signals.unwinding(), tempfile.TemporaryDirectory(prefix="safelight-demo-") as scratch:
        config = ephemeral_config(Path(scratch))
        with LocalCluster(config, transcript.node) as cluster:
            return signals.run(_walk(config, cluster, transcript, Path(scratch), to))


async def _walk(config: Config, cluster: LocalCluster, transcript: ConsoleReporter, scratch: Path, to: Path) -> Path:
    def step(number: int, text: str) -> None:
        transcript.say("")
        transcript.say(f"{number}. {text}", "bold")

    sample = samples.path(SAMPLE)
    step(1, "Three nodes start and elect a leader.")
    cluster.start()
    first = await wait_for_leader(config, config.timeout)
    transcript.say(f"Node {first} leads.")

    async with AsyncClient.of(config, USER) as client:
        session = client.session
        step(2, f"{USER} encrypts a photograph.")
        before = await _seal(session, sample, scratch, transcript)

        step(3, f"The leader, node {first}, is killed (SIGKILL), and {USER} encrypts the photograph again at once.")
        killed = time.monotonic()
        cluster.kill(first)
        after = await _seal(session, sample, scratch, transcript)
        failover = 1000 * (time.monotonic() - killed)
        transcript.say(f"Node {after.node} has taken over: {failover:.0f} ms from the kill to the encrypted file.")
        if after.node == first:
            raise SafelightError(f"node {first} was killed and yet it encrypted; please report this")

        step(4, "Both are opened again and compared with the original.")
        original = sample.read_bytes()
        for sealed in (before, after):
            opened = await session.open(sealed.path, to=scratch / "decrypted", feedback=transcript)
            transcript.settle()
            if opened.path.read_bytes() != original:
                raise SafelightError(f"what node {sealed.node} encrypted opens differently; please report this")
            transcript.say(f"✓ What node {sealed.node} encrypted is the original again, byte for byte.", "green")
    if before.path.read_bytes() == after.path.read_bytes():
        raise SafelightError("the same photograph encrypted twice gave the same file; please report this")

    step(5, "What a viewer makes of the three: the photograph, the ciphertext, the photograph again.")
    title = f"Encrypted by node {after.node}, {failover:.0f} ms after node {first} was killed"
    picture = draw(original, after.path.read_bytes(), opened.path.read_bytes(), title)
    with reserve(to, (counted(PICTURE, n) for n in itertools.count(1))) as reservation:
        picture.save(reservation.file, "PNG")
        reservation.commit()
    transcript.say(f"Picture saved to: {reservation.path}")
    return reservation.path


async def _seal(session: Session, sample: Path, scratch: Path, transcript: ConsoleReporter) -> Saved:
    try:
        saved = await session.seal(sample, to=scratch / "images", feedback=transcript)
    finally:
        transcript.settle()
    transcript.say(f"Encrypted: {saved.path.name}, {saved.size} bytes")
    return saved
