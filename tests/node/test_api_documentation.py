"""docs/api.md says what the code does: no more, no less. And its commands work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from safelight import names
from safelight.config import Config
from safelight.node.connections import eviction, http_connection
from safelight.node.http import admission
from safelight.node.http.app import Routes
from safelight.node.work import fair_share
from safelight.wire import messages, tickets
from tests.running import GENEROUS, Running

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
TEXT = PAGE.read_text(encoding="utf-8")


def tables(heading: str) -> list[list[str]]:
    """The cells of the rows of all tables between a heading and the next, without their heads."""
    _, _, rest = TEXT.partition(f"\n{heading}\n")
    section = re.split(r"^#{1,4} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows if not row[0].startswith("---")][1:]


def test_every_route_is_documented_and_nothing_else() -> None:
    nothing = Mock()
    routes = Routes(
        Config(),
        1,
        "",
        authentication=nothing,
        admission=nothing,
        writes=AsyncMock(),
        reads=AsyncMock(),
        users=nothing,
        links=Mock(accept=AsyncMock()),
        election=nothing,
        keys=nothing,
        key_sync=nothing,
        step_down=print,
        log=print,
    )
    built = routes.application().router.routes()
    served = {
        f"{route.method} {route.resource.canonical}" for route in built if route.resource and route.method != "HEAD"
    }
    assert set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE)) == served


@pytest.mark.parametrize(
    "message",
    [
        messages.Offer,
        messages.Grant,
        messages.CommandResult,
        messages.ClusterInfo,
        messages.Status,
        messages.Load,
        messages.ProblemDocument,
        messages.Listing,
        messages.Kept,
        messages.NumberedOffer,
        messages.NumberedAnswer,
    ],
)
def test_every_field_of_every_message_is_documented_and_nothing_else(message: type[msgspec.Struct]) -> None:
    documented = [row[0] for row in tables(f"#### {message.__name__}") if len(row) == 3]
    assert documented == list(message.__struct_encode_fields__)


def test_every_problem_is_documented_and_nothing_else() -> None:
    documented = [tuple(row[:3]) for row in tables("#### ProblemDocument") if len(row) == 4][1:]
    assert documented == [(each.slug, str(int(each.status)), each.title) for each in messages.Problem]


def test_every_limit_is_as_documented() -> None:
    limits = {row[0]: row[1] for row in tables("## Limits")}
    settings = Config()
    assert limits["an image"] == f"{settings.max_image_size >> 30} GiB, or the operator's `max_image_size"
    assert limits["a message"] == f"{messages.MAX_JSON:,} bytes"
    assert limits["the request line, and each header"] == f"{http_connection.MAX_HEADER:,} bytes"
    assert limits["headers"] == f"{http_connection.MAX_HEADERS}"
    assert limits["the request line and all headers together"] == f"{http_connection.MAX_HEAD:,} bytes"
    assert limits["a stalled body"] == f"{settings.body_timeout:g} s, or the operator's `body_timeout"
    assert limits["the head of a request, and an idle connection"] == f"{http_connection.KEEPALIVE:g} s"
    assert limits["the head of a connection's first request"].startswith(f"{eviction.FIRST_HEAD:g} s")
    assert limits["connections of a node"].startswith(f"{eviction.MOST:,},")
    rate = limits["a body, or the reader of a response, while another user waits for a slot"]
    assert rate == f"{settings.min_rate:,} bytes a second, or the operator's `min_rate`, over {fair_share.WINDOW:g} s"
    assert limits["images in a listing"] == f"{messages.MAX_LISTED:,}"
    assert limits["a pattern"] == f"{names.NAME_MAX} characters"
    assert limits["a ticket"] == f"{tickets.LIFETIME:g} s"
    assert f"waits up to {admission.HOLD} seconds" in TEXT


def test_the_commands_work_when_pasted(shared_cluster: Running, photograph: Path, tmp_path: Path) -> None:
    shutil.copy(photograph, tmp_path / "photo.png")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
    for node, address in shared_cluster.config.addresses.items():
        script = script.replace(f"127.0.0.1:{8000 + node}", address.netloc)
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "sealed.png").read_bytes().startswith(b"\x89SLT")
    assert '"open_enrolment":true' in done.stdout
