"""Offers over a WebSocket that stays open: answered as a POST is, and missed by nobody when it breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest

from safelight.client.session import Session
from safelight.config import Config
from safelight.wire.messages import Offer
from tests.mission.support import Witness, enrolled, image_of, opens_to, request
from tests.mission.wire import ENOUGH, watched
from tests.running import Running, as_user, running

LEADER, WORKER = 3, 1
IMAGE = b"\x89PNG\r\n\x1a\n"
_T = TypeVar("_T")


def over_a_line(
    config: Config, node: int, token: str, talk: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[_T]]
) -> _T:
    async def go() -> _T:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(30)) as http,
            http.ws_connect(f"{config.addresses[node].url}/v1/offers") as line,
        ):
            return await talk(line)

    return asyncio.run(go())


def frame(number: int, name: str) -> bytes:
    offer = Offer("alice", f"{number:032x}", name, len(IMAGE), keep=False)
    return msgspec.json.encode({"number": number, "offer": offer})


def test_each_offer_is_answered_with_its_number(shared_cluster: Running) -> None:
    config, token = shared_cluster.config, enrolled(shared_cluster.config, "alice")

    async def three(line: aiohttp.ClientWebSocketResponse) -> dict[int, tuple[int, dict[str, str]]]:
        for number, name in ((7, "one.png"), (0, "two.png"), (12, "../three.png")):
            await line.send_bytes(frame(number, name))
        answers = [json.loads(await line.receive_bytes()) for _ in range(3)]
        return {each["number"]: (each["status"], each["body"]) for each in answers}

    at_the_leader, at_a_worker = over_a_line(config, LEADER, token, three), over_a_line(config, WORKER, token, three)
    assert {number: status for number, (status, _) in at_the_leader.items()} == {7: 201, 0: 201, 12: 400}
    assert {number: status for number, (status, _) in at_a_worker.items()} == {7: 421, 0: 421, 12: 400}
    assert at_a_worker[0][1]["detail"] == f"Node {WORKER} is not the leader"
    ticket = {"Authorization": f"Ticket {at_the_leader[7][1]['ticket']}"}
    assert request(config, LEADER, "PUT", "/v1/images/one.png", IMAGE, ticket).status == 201
    assert request(config, LEADER, "PUT", "/v1/images/one.png", IMAGE, ticket).problem == "bad-ticket"


@pytest.mark.parametrize("said", [b"", b"[]", b'{"number": -1, "offer": {}}', b'{"number": "1"}', b"\xff" * 20_000])
def test_who_says_anything_else_is_hung_up_on(shared_cluster: Running, said: bytes) -> None:
    async def nonsense(line: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMsgType:
        await line.send_bytes(said)
        return (await line.receive()).type

    token = enrolled(shared_cluster.config, "alice")
    ended = over_a_line(shared_cluster.config, LEADER, token, nonsense)
    assert ended in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


def test_a_stranger_gets_no_line(shared_cluster: Running) -> None:
    async def nothing(line: aiohttp.ClientWebSocketResponse) -> None: ...

    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        over_a_line(shared_cluster.config, WORKER, "slt_" + "A" * 43, nothing)
    assert refused.value.status == 401


def test_a_session_with_many_images_posts_few_offers_and_survives_the_end_of_its_lines(
    tmp_path: Path, photograph: Path
) -> None:
    image = image_of(100_000, tmp_path / "photo.png", photograph)
    with running(tmp_path / "cluster") as cluster, watched(cluster.config) as wire:

        async def many(session: Session) -> list[Path]:
            made = []

            async def upload() -> None:
                made.append((await session.seal(image, to=tmp_path / "images", feedback=Witness())).path)

            for _ in range(ENOUGH):
                before = wire.posts()
                await upload()
                if len(made) > 2 and wire.posts() == before:
                    break
            else:
                raise AssertionError("every offer was POSTed")
            cluster.cluster.kill(LEADER)
            for _ in range(3):
                await upload()
            return made

        made = as_user(wire.config, "alice", many)
        assert len({*made}) == len(made)
        assert all(opens_to(wire.config, path, image, tmp_path / "opened") for path in (made[0], made[-1]))
