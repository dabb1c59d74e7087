"""A leader whose own calls of the vault fail or hang lets another lead; where all fail alike, one leads on."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from safelight.config import Config
from tests.cli.commandline import safelight
from tests.mission.support import request, status_of, wait_until_all_follow
from tests.node.raw_http import enrolled, image
from tests.running import Running, eventually, running
from tests.tracing import injected

pytestmark = pytest.mark.slow

FAILS, HANGS = "link,linkat:error=EIO", "link,linkat:delay_enter=60s"
DISK_FAILS, DISK_HANGS = "fsync:error=EIO", "fsync,fdatasync:delay_enter=60s"
"""With what the data directory needs, too."""

FAILED, SILENT = "cannot use the vault", "the vault has answered nothing for 3 s"


BODIES_FAIL, BODIES_HANG = "sendfile,pread64:error=EIO", "sendfile,pread64:delay_enter=60s"
"""While records are read, and everything is written."""

LARGE = 900_000  # bytes of an image whose sealed file is poured into the connection


def upload(config: Config, node: int, token: str, name: str, size: int = 10_000) -> tuple[int, str]:
    """The status of an upload to this node, and the problem's detail."""
    headers = {"Authorization": token.partition(": ")[2]}
    try:
        answer = request(config, node, "PUT", f"/v1/images/{name}", image(size), headers, timeout=2)
    except OSError as error:  # among them, that it has not answered in time
        return 0, str(error)
    return answer.status, answer.body.decode(errors="replace")


@pytest.mark.parametrize(
    ("fault", "words"),
    [(DISK_FAILS, FAILED), (DISK_HANGS, SILENT)],
    ids=["fails", "hangs"],
)
def test_uploads_go_on_within_seconds_when_the_leaders_own_calls_fail_or_hang(
    tmp_path: Path, fault: str, words: str
) -> None:
    with running(tmp_path, 3) as it:
        wait_until_all_follow(it.config, 3)
        token = enrolled(it.config, "alice")
        with injected(it.cluster.pid(3), fault):
            upload(it.config, 3, token, "lost.png")
            eventually(lambda: status_of(it.config, 2)[2].leader == 2, "node 2 leads")
            assert upload(it.config, 2, token, "a.png")[0] == 201
            eventually(lambda: words in status_of(it.config, 2)[3].ineligible, "node 3 says why")
            shown = safelight("status", config=it.config, cwd=tmp_path).stdout
            assert any("ineligible: " in line and words in line for line in shown.splitlines()), shown
            assert upload(it.config, 2, token, "b.png")[0] == 201
            assert status_of(it.config, 2)[2].leader == 2
        it.wait_until_leader(3)  # without the fault it leads again


@pytest.mark.parametrize(("fault", "words"), [(BODIES_FAIL, FAILED), (BODIES_HANG, SILENT)], ids=["fails", "hangs"])
def test_a_leader_that_cannot_read_bodies_lets_another_lead(tmp_path: Path, fault: str, words: str) -> None:
    with running(tmp_path, 3) as it:
        wait_until_all_follow(it.config, 3)
        token = enrolled(it.config, "alice")
        assert upload(it.config, 3, token, "a.png", LARGE)[0] == 201
        with injected(it.cluster.pid(3), fault):
            upload(it.config, 3, token, "lost.png", LARGE)  # and its answer
            eventually(lambda: status_of(it.config, 2)[2].leader == 2, "node 2 leads")
            eventually(lambda: words in status_of(it.config, 2)[3].ineligible, "node 3 says why")
            assert upload(it.config, 2, token, "b.png", LARGE)[0] == 201
        it.wait_until_leader(3)


@pytest.mark.parametrize("fault", [FAILS, HANGS], ids=["fails", "hangs"])
def test_where_the_calls_of_all_nodes_fail_or_hang_one_leads_on_and_says_so(tmp_path: Path, fault: str) -> None:
    with running(tmp_path, 3) as it:
        wait_until_all_follow(it.config, 3)
        token = enrolled(it.config, "alice")
        with ExitStack() as faults:
            for node in (1, 2, 3):
                faults.enter_context(injected(it.cluster.pid(node), fault))

            def all_know(it: Running = it) -> bool:
                for node in (1, 2, 3):
                    if status_of(it.config, node)[node].leader == node:
                        upload(it.config, node, token, "lost.png")
                loads = [status_of(it.config, node)[node] for node in (1, 2, 3)]
                told = status_of(it.config, 3)
                return {load.leader for load in loads} == {3} and [bool(told[node].degraded) for node in told] == [
                    True
                ] * 3

            eventually(all_know, "node 3 leads in spite of the trouble of all")
            if fault is FAILS:
                status, detail = upload(it.config, 3, token, "b.png")
                assert (status, "the vault is unavailable" in detail) == (503, True)
            shown = safelight("status", config=it.config, cwd=tmp_path).stdout
            assert shown.count("degraded: ") == 3
            elections = len([line for node in (1, 2, 3) for line in it.said(node) if "I am the new leader" in line])
            time.sleep(1)
            assert status_of(it.config, 3)[3].leader == 3
            again = len([line for node in (1, 2, 3) for line in it.said(node) if "I am the new leader" in line])
            assert again == elections
        eventually(lambda: upload(it.config, 3, token, "b.png")[0] == 201, "the vault works again")
        eventually(lambda: not any(load.degraded for load in status_of(it.config, 3).values()), "nothing is wrong")
        assert it.leader() == 3
