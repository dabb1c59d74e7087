"""A user's directory of photographs goes into the vault while nodes are killed at random, and each is there once.

`python -m tests.chaos.keeping --images 200 --kills 100 [--seed N]` does it at length; test_keeping.py in short. What
happens is drawn from the seed, but processes have a timing of their own: it is a likeness and not a replay.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from safelight import samples
from safelight.cli.admin.cluster import keyring_file
from safelight.vault import maintenance
from safelight.vault.bootstrap import open_vault
from tests.chaos.faults import KILLS, Chaos
from tests.cli.commandline import safelight, started
from tests.mission.support import enrolled
from tests.running import GENEROUS, Running, running

USER = ("--user", "alice")


def photographs(directory: Path, count: int, dice: random.Random) -> dict[str, bytes]:
    """So many different photographs, by name: crops of ours, re-encoded, with EXIF and a colour profile in them."""
    directory.mkdir(parents=True)
    with Image.open(samples.path("lighthouse.png")) as picture:
        whole = picture.convert("RGB")
    for number in range(count):
        width, height = (dice.randrange(side // 4, side) for side in whole.size)
        left, top = dice.randrange(whole.width - width), dice.randrange(whole.height - height)
        path = directory / f"Urlaub in Köln ({number}).{dice.choice(['jpg', 'png'])}"
        exif = Image.Exif()
        exif[0x010E] = f"Dom, von Süden, Nr. {number}"  # ImageDescription
        exif.get_ifd(0x8825)[1] = "N"  # GPSLatitudeRef
        crop, profile = whole.crop((left, top, left + width, top + height)), dice.randbytes(500)
        crop.save(path, quality=dice.randrange(60, 96), exif=exif, icc_profile=profile)
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert len(set(found.values())) == count
    return found


class Reader:
    """Lists and gets images from any node, again and again; what comes whole has to be right."""

    def __init__(self, cluster: Running, originals: dict[str, bytes], dice: random.Random) -> None:
        self._config = cluster.config
        self._originals = originals
        self._dice = dice
        self._token = enrolled(cluster.config, "alice")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.right = self.broken = 0
        self.wrong: list[str] = []

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join(GENEROUS)

    def _read(self) -> None:
        while not self._done.is_set():
            try:
                kept = json.loads(self._get("/v1/images?limit=20"))["images"]
                image = self._dice.choice(kept) if kept else None
                if image is not None:
                    whole = self._get(f"/v1/images/{quote(image['name'], safe='')}")
                    if whole == self._originals[image["original"]]:
                        self.right += 1
                    else:
                        self.wrong.append(image["name"])
            except (OSError, http.client.HTTPException):
                self.broken += 1
                self._done.wait(0.05)

    def _get(self, path: str) -> bytes:
        """The body of a 200, which is as long as it was said to be. Raises OSError, HTTPException for all else."""
        address = self._config.addresses[self._dice.choice([*self._config.addresses])]
        connection = http.client.HTTPConnection(address.host, address.port, timeout=GENEROUS)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            if answer.status != 200:
                if answer.status != 503:
                    self.wrong.append(f"{path}: {answer.status}")
                raise OSError(answer.status)
            return answer.read()
        finally:
            connection.close()


def keep_in_spite_of_it_all(directory: Path, images: int, kills: int, seed: int) -> None:
    """Raises AssertionError for whatever a user, or an operator, would complain of."""
    dice = random.Random(seed)
    originals = photographs(directory / "photographs", images, dice)
    with running(directory / "cluster", heartbeat=0.2) as cluster:
        config = cluster.config
        reader, chaos = Reader(cluster, originals, random.Random(seed)), Chaos(cluster, dice, KILLS)
        began, runs = time.monotonic(), 0
        with reader.reading():
            while True:
                runs += 1
                with started("upload", "photographs", *USER, "--quiet", config=config, cwd=directory) as upload:
                    while upload.process.poll() is None:
                        chaos.strike()
                    if upload.end() == 0:
                        break
                assert runs < 20, f"the upload does not come to an end: {upload.lines}"
            while chaos.kills < kills:  # what is kept is read meanwhile
                chaos.strike()
            chaos.make_good()
            cluster.leader()
        took = time.monotonic() - began
        assert reader.wrong == []
        listed = [
            json.loads(line)
            for line in safelight("ls", *USER, "--json", config=config, cwd=directory).stdout.splitlines()
        ]
        assert sorted(image["original"] for image in listed) == sorted(originals)
        _check_all(cluster, directory, "got", originals)
        leftover = _verify(cluster, directory)
        asyncio.run(_sweep(cluster))
        assert _verify(cluster, directory) == 0
        _check_all(cluster, directory, "got again", originals)
        print(
            f"seed {seed}: {images} photographs, {chaos.kills} kills in {took:.0f} s, {runs} runs of upload; "
            f"{reader.right} read whole meanwhile, {reader.broken} reads broken; {leftover} bodies swept"
        )


def _check_all(cluster: Running, directory: Path, to: str, originals: dict[str, bytes]) -> None:
    done = safelight("get", "*", *USER, "--to", to, config=cluster.config, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (directory / to).iterdir()} == originals
    for name in originals:
        was, became = (directory / place / name for place in ("photographs", to))
        assert abs(was.stat().st_mtime - became.stat().st_mtime) < 1e-5, name


def _verify(cluster: Running, directory: Path) -> int:
    """Nothing is lost; how many bodies are left over."""
    done = safelight("verify", "--json", config=cluster.config, cwd=directory)
    found = json.loads(done.stdout)
    assert (done.returncode, found["damaged"], found["missing"], found["foreign"]) == (0, 0, 0, 0), found
    return int(found["leftover"])


async def _sweep(cluster: Running) -> None:
    keyring = keyring_file(cluster.config).read()
    vault = await open_vault(cluster.config.vault_url, cluster.config.data_dir, lambda: keyring)
    await maintenance.sweep(vault, grace=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep photographs while nodes are killed.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        keep_in_spite_of_it_all(Path(directory), options.images, options.kills, options.seed)


if __name__ == "__main__":
    main()
