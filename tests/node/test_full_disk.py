"""A node whose disk is full says so, and goes on: with small images at once, with large ones when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.protocol import Problem
from tests.mounts import small_disk
from tests.node.rude import ask, enrolled, image, refused
from tests.running import running

MEBIBYTE = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "tiny", 8) as directory:
        yield directory


def test_a_full_disk_is_said_and_survived(tiny: Path) -> None:
    with running(tiny, 1) as it:
        address = it.config.addresses[1]
        token = enrolled(it.config, "alice")
        large, small = image(12 * MEBIBYTE), image(100_000)
        assert "disk is full" in refused(
            ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large), Problem.DISK_FULL
        )
        sealed = ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large[: 6 * MEBIBYTE])
        assert sealed.status == 201  # what the large one had taken is free again
        opened = ask(address, "PUT /v1/opened/a.png", token, body=sealed.body)
        assert opened.body == large[: 6 * MEBIBYTE]
        with pytest.raises(OSError, match="No space"):
            (tiny / "filler").write_bytes(bytes(16 * MEBIBYTE))
        refused(ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=large), Problem.DISK_FULL)
        refused(ask(address, "PUT /v1/users/bob", "Authorization: Bearer slt_bob"), Problem.DISK_FULL)
        assert ask(address, "PUT /v1/images/a.png", token, "Safelight-Keep: no", body=small).status == 201
        (tiny / "filler").unlink()
        assert ask(address, "PUT /v1/users/bob", "Authorization: Bearer slt_bob").status == 201
        assert all(line.startswith("Node 1: ") for line in it.said(1)), it.said(1)
