"""All nodes are restarted, one after the other, and nobody who uploads meanwhile is told of a failure."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.uploads import Stream, check
from tests.mission.support import MEBIBYTE, Witness, image_of, opens_to, seal, wait_until_all_follow
from tests.running import GENEROUS, Running, running

pytestmark = pytest.mark.slow

LARGE = 48 * MEBIBYTE


class Slow(Witness):
    """Lets an upload go on slowly, until it is released; its pieces are 256 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.released = threading.Event()

    def progress(self, done: int, total: int) -> None:
        super().progress(done, total)
        self.begun.set()
        self.released.wait(0.1)


def test_a_rolling_restart_fails_no_upload(tmp_path: Path, photograph: Path) -> None:
    images, slow = tmp_path / "images", Slow()
    large = image_of(LARGE, tmp_path / "large.png", photograph)
    with running(tmp_path, drain_timeout=GENEROUS) as cluster, ThreadPoolExecutor(1) as thread:
        with Stream(cluster.config, tmp_path / "originals", images) as stream:
            uploading = thread.submit(seal, cluster.config, large, tmp_path / "large", feedback=slow)
            try:
                assert slow.begun.wait(GENEROUS)
                for worker in (1, 2):
                    cluster.cluster.kill(worker, signal.SIGTERM)
                    come_back(cluster, worker)
                    stream.wait_for_an_upload(by=lambda node: node == 3)

                cluster.cluster.kill(3, signal.SIGTERM)
                stream.wait_for_an_upload(by=lambda node: node == 2)
            finally:
                slow.released.set()
            saved = uploading.result(2 * GENEROUS)
            come_back(cluster, 3)
            stream.wait_for_an_upload(by=lambda node: node == 3)
        failed = check(cluster.config, stream.outcomes, images, tmp_path / "opened")
        assert not failed
        assert opens_to(cluster.config, saved.path, large, tmp_path / "opened")


def come_back(cluster: Running, node: int) -> None:
    """Wait until it has left, start it again, and wait until it is one of them."""
    cluster.wait_until_ended(node)
    cluster.cluster.start(node)
    wait_until_all_follow(cluster.config, 3)
