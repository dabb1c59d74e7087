"""Nodes die, hang, leave and return in random order: nobody's image is lost, mixed up or left half-done.

What happens is drawn from a seed, which a failure shows, with every blow; `CHAOS_SEED=… pytest tests/chaos` draws
the same again. Processes have a timing of their own, so it is a likeness and not a replay.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from safelight.client.requests.retry_policy import ATTEMPTS
from tests.chaos.faults import ALL, Chaos
from tests.chaos.uploads import Stream, check
from tests.mission.support import status_of, wait_until_all_follow
from tests.running import Running, eventually, running

pytestmark = pytest.mark.slow

DURATION = 20.0
"""Seconds of chaos."""


def test_whatever_happens_to_nodes_an_acknowledged_image_is_there_and_the_highest_leads_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"CHAOS_SEED={seed}")
    images = tmp_path / "images"
    with running(tmp_path, heartbeat=0.2) as cluster:
        with (
            Stream(cluster.config, tmp_path / "here", images) as here,
            Stream(cluster.config, tmp_path / "there", images) as there,
        ):
            chaos = Chaos(cluster, random.Random(seed), ALL)
            end = time.monotonic() + DURATION
            while time.monotonic() < end:
                chaos.strike()
            chaos.make_good()
            wait_until_all_follow(cluster.config, max(cluster.config.addresses))
            eventually(lambda: leaders(cluster) == [3], "node 3 alone says that it leads")
            here.wait_for_an_upload(by=lambda node: node == 3)
            there.wait_for_an_upload(by=lambda node: node == 3)
        outcomes = here.outcomes + there.outcomes
        failed = check(cluster.config, outcomes, images, tmp_path / "opened")
    # A node was there all the time: only whoever was struck at every attempt may be told that it failed.
    assert [failure.error for failure in failed if f"broke off {ATTEMPTS} times" not in failure.error] == []
    print(f"{len(outcomes)} uploads, {len(failed)} failed, by nodes {sorted({outcome.node for outcome in outcomes})}")


def leaders(cluster: Running) -> list[int]:
    return [node for node in cluster.config.addresses if status_of(cluster.config, node)[node].role == "leader"]
