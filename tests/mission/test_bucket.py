"""Three nodes that share nothing but a bucket: images outlive their leader, and a store in trouble loses nobody's.

The S3 server is moto's, behind a proxy that breaks what a test says; boto3 is the oracle.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commandline import safelight
from tests.mission.support import MEBIBYTE, Answer, enrolled, image_of, request, seal
from tests.running import SETTLED, Running, eventually, running
from tests.vault.s3 import S3, SECRET_KEY, Fault, s3_server

pytestmark = pytest.mark.slow

ALICE = ("--user", "alice")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as it:
        yield it


@pytest.fixture
def cluster(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with running(tmp_path / "cluster", heartbeat=SETTLED, vault=f"s3://images/{secrets.token_hex(4)}") as it:
        yield it
    s3.heal()


def listed(cluster: Running, cwd: Path) -> list[str]:
    done = safelight("ls", *ALICE, "--json", config=cluster.config, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["name"] for line in done.stdout.splitlines()]


def put(cluster: Running, upload: str, body: bytes) -> Answer:
    """The image a.png to whoever leads."""
    headers = {"Authorization": f"Bearer {enrolled(cluster.config, 'alice')}", "Safelight-Upload": upload}
    return request(cluster.config, cluster.leader(), "PUT", "/v1/images/a.png", body, headers)


def objects(cluster: Running, s3: S3, kind: str) -> list[str]:
    """Keys of the cluster's objects of a kind, as the server itself lists them."""
    prefix = cluster.config.vault.removeprefix("s3://images/")
    return [key for key in s3.stored() if key.startswith(f"{prefix}/{kind}/")]


def test_what_one_leader_kept_the_next_one_has(cluster: Running, s3: S3, tmp_path: Path, photograph: Path) -> None:
    large = image_of(20 * MEBIBYTE, tmp_path / "large.png", photograph)
    name = seal(cluster.config, large, tmp_path / "images").path.name
    assert s3.unfinished() == []
    cluster.cluster.kill(3)
    cluster.wait_until_leader(2)
    assert listed(cluster, tmp_path) == [name]
    got = safelight("get", name, *ALICE, "--to", "got", config=cluster.config, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "got" / "large.png").read_bytes() == large.read_bytes()
    assert safelight("rm", name, *ALICE, "--yes", config=cluster.config, cwd=tmp_path).returncode == 0
    assert listed(cluster, tmp_path) == []
    assert objects(cluster, s3, "bodies") == []


def test_of_a_store_that_fails_the_client_is_told_and_when_it_works_again_nothing_is_lost(
    cluster: Running, s3: S3, tmp_path: Path, photograph: Path
) -> None:
    image, upload = photograph.read_bytes(), secrets.token_hex(16)
    enrolled(cluster.config, "alice")
    s3.fault(503, "PUT", "/bodies/")
    answer = put(cluster, upload, image)
    assert (answer.status, answer.problem) == (503, "vault-away")
    assert SECRET_KEY not in answer.body.decode()
    assert "images" not in answer.body.decode()  # where the vault is, is the operator's business
    s3.heal()
    assert put(cluster, upload, image).status == 201
    assert listed(cluster, tmp_path) == ["a.png"]
    said = [line for node in (1, 2, 3) for line in cluster.said(node)]
    assert any("s3://images" in line for line in said)
    assert not any(SECRET_KEY in line for line in said)


def test_an_upload_whose_record_was_made_in_spite_of_a_lost_answer_is_acknowledged_once(
    cluster: Running, s3: S3, tmp_path: Path, photograph: Path
) -> None:
    image, upload = photograph.read_bytes(), secrets.token_hex(16)
    enrolled(cluster.config, "alice")
    s3.fault(Fault.LOSE_ANSWER, "PUT", "/records/", times=1)
    assert put(cluster, upload, image).status == 201
    assert listed(cluster, tmp_path) == ["a.png"]
    again = put(cluster, upload, image)
    assert again.status == 201
    assert put(cluster, secrets.token_hex(16), image).problem == "image-taken"
    assert len(objects(cluster, s3, "records")) == 1


def test_a_slow_store_is_waited_for(cluster: Running, s3: S3, tmp_path: Path, photograph: Path) -> None:
    enrolled(cluster.config, "alice")
    s3.fault(1.0, "PUT", "/records/", times=1)
    s3.fault(1.0, "PUT", "/bodies/", times=1)
    seal(cluster.config, photograph, tmp_path / "images")
    eventually(lambda: len(listed(cluster, tmp_path)) == 1, "it is listed")
