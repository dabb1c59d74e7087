"""A node counts what it seals under each cluster key, never too little, and says in time when to rotate."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.local.cluster import ephemeral_config
from safelight.node.state.data_directory import create_cluster
from safelight.node.state.key_usage import BLOCK, LIMIT, KeyUsage, Uses
from tests.cli.commandline import safelight
from tests.mission.support import seal, status_of
from tests.running import eventually, running_as

KEY, OTHER = "0" * 16, "1" * 16


@given(
    uses=st.lists(st.tuples(st.booleans(), st.sampled_from([KEY, OTHER])), max_size=50),
    begin=st.integers(0, 3 * BLOCK),
    ahead=st.integers(0, BLOCK),
)
def test_what_is_written_is_never_less_than_what_was_done(uses: list[tuple[bool, str]], begin: int, ahead: int) -> None:
    written = [msgspec.json.encode({KEY: Uses(begin, ahead)})]
    usage = KeyUsage(msgspec.json.decode(written[0], type=dict[str, Uses]), 3, written.append)
    done = {KEY: [begin, ahead], OTHER: [0, 0]}
    for record, key in uses:
        (usage.record if record else usage.wrap)(key)
        done[key][not record] += 1
        kept = msgspec.json.decode(written[-1], type=dict[str, Uses])
        for each, (records, wraps) in done.items():
            found = kept.get(each, Uses())
            assert records <= found.records <= records + BLOCK
            assert wraps <= found.wraps <= wraps + BLOCK
    assert msgspec.json.decode(usage.written(0), type=dict[str, Uses]).get(KEY) == Uses(*done[KEY])
    assert usage.used(OTHER) == max(done[OTHER])


def test_it_is_written_once_in_a_block() -> None:
    written: list[bytes] = []
    usage = KeyUsage({}, 1, written.append)
    for _ in range(2 * BLOCK):
        usage.record(KEY)
        usage.wrap(KEY)
    assert len(written) <= 5


@pytest.mark.parametrize("nodes", [1, 3])
def test_it_advises_at_half_of_a_nodes_share_and_again_near_its_end_and_says_each_once(nodes: int) -> None:
    share = LIMIT // nodes
    for use in ("records", "wraps"):
        usage = KeyUsage({KEY: Uses(**{use: share // 2 - 1})}, nodes, lambda _: None)
        assert usage.advice(KEY) == usage.due(KEY) == ""
        for _ in range(2):
            usage.record(KEY)
            usage.wrap(KEY)
        assert "run `safelight keys rotate` soon" in usage.due(KEY)
        assert usage.due(KEY) == ""
        assert usage.advice(OTHER) == ""
        late = KeyUsage({KEY: Uses(**{use: share})}, nodes, lambda _: None)
        assert "run `safelight keys rotate` now" in late.due(KEY)


@pytest.mark.slow
def test_a_node_near_its_bound_says_so_in_its_log_and_in_status_until_the_key_is_rotated(
    tmp_path: Path, photograph: Path
) -> None:
    config = ephemeral_config(tmp_path, 1)
    key = create_cluster(config.data_dir).current_id
    file = config.data_dir / "usage-1.json"
    file.write_text(json.dumps({key: {"records": LIMIT // 2, "wraps": 3}}))
    with running_as(config) as it:
        it.cluster.start()
        it.wait_until_leader(1)
        seal(config, photograph, tmp_path / "out")
        it.wait_for_line(1, f"WARNING: the key {key} has sealed 2,147,483,64")
        assert sum("WARNING: the key" in line for line in it.said(1)) == 1
        shown = safelight("status", config=config, cwd=tmp_path).stdout
        assert f"advice: the key {key} has sealed 2,147,483,6" in shown
        assert "of 4,294,967,296 on all: run `safelight keys rotate` soon" in shown
        used = json.loads(safelight("status", "--json", config=config, cwd=tmp_path).stdout)["used"]
        assert LIMIT // 2 + 2 <= used <= LIMIT // 2 + 5  # the user, the image
        assert safelight("keys", "rotate", config=config, cwd=tmp_path).returncode == 0
        assert "advice" not in safelight("status", config=config, cwd=tmp_path).stdout
        seal(config, photograph, tmp_path / "out")
        assert status_of(config, 1)[1].used == 1
        pid = it.cluster.pid(1)
        eventually(lambda: len(json.loads(file.read_text())) == 2, "the use of the new key is written down")
        os.kill(pid, signal.SIGKILL)
        it.wait_until_ended(1)
        it.cluster.start(1)
        it.wait_until_leader(1)
        assert 1 <= status_of(config, 1)[1].used <= 1 + BLOCK
    written = json.loads(file.read_text())
    assert written[key]["records"] == used + BLOCK  # counted too often by the crash, and no more
