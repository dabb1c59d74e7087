"""Fixtures that start real clusters (see `running`), and the option `--rewrite`."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from safelight import samples
from tests.running import SETTLED, Running, running

hypothesis.settings.register_profile("safelight", deadline=None)  # no test depends on the machine's speed
hypothesis.settings.load_profile("safelight")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write transcripts, pictures and tables in documents again instead of comparing them",
    )


@pytest.fixture
def rewrites(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite", default=False))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    """Three nodes with a leader, for one test."""
    with running(tmp_path / "cluster") as it:
        yield it


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three nodes with a leader, for all tests of a module that leave them as they were."""
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=SETTLED) as it:
        yield it


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Node 3 is dead, node 2 leads."""
    with running(tmp_path_factory.mktemp("cluster"), heartbeat=SETTLED) as cluster:
        cluster.cluster.kill(3)
        cluster.wait_until_leader(2)
        yield cluster


@pytest.fixture(scope="session")
def photograph() -> Path:
    return samples.path("lighthouse.png")
