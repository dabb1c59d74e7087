"""Memory does not grow with the image, in the node or in the client. (Linux tells how much there ever was.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from safelight.local.cluster import environment
from tests.mission.support import MEBIBYTE, image_of
from tests.running import running

pytestmark = pytest.mark.slow

IMAGE = 192 * MEBIBYTE
ALLOWANCE = 64 * MEBIBYTE

CLIENT = """
import sys
from pathlib import Path
from safelight.config import load
from tests.mission.support import open_, seal
from tests.mission.test_memory import peak
import os
config = load(None, {key: os.environ["SAFELIGHT_" + key.upper()] for key in ("servers", "client_dir")})
small, large, to = map(Path, sys.argv[1:])
seal(config, small, to)
idle = peak("self")
saved = seal(config, large, to)
open_(config, saved.path, to)
print(idle, peak("self"))
"""


def peak(process: int | str) -> int:
    """The most memory that a process ever had, in bytes: VmHWM of proc(5)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(process)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory there ever was")
def test_a_large_image_takes_no_more_memory_than_a_small_one(tmp_path: Path, photograph: Path) -> None:
    large = image_of(1 * MEBIBYTE, tmp_path / "large.png", photograph)
    with large.open("r+b") as file:
        file.truncate(IMAGE)  # the rest is a hole: zeros that take no space
    with running(tmp_path, nodes=1) as cluster:
        pid = cluster.cluster.pid(1)
        idle = peak(pid)
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, photograph, large, tmp_path / "images"],
            env=environment(cluster.config),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert client.returncode == 0, client.stderr
        client_idle, client_peak = map(int, client.stdout.split())
        node_peak = peak(pid)
    opened = tmp_path / "images"
    sizes = sorted(path.stat().st_size for path in opened.iterdir())
    for path in opened.iterdir():
        path.unlink()
    assert sizes[-2] == IMAGE < sizes[-1]
    assert node_peak - idle < ALLOWANCE
    assert client_peak - client_idle < ALLOWANCE
