"""The public library, against real nodes: what a program sees that imports `safelight`."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image as Picture

import safelight
from safelight import AsyncClient, Client
from safelight.client.async_client import Content
from safelight.client.requests import reads
from safelight.config import Config
from safelight.encryption.sealed import MAGIC
from safelight.local.cluster import environment
from safelight.runtime.atomic_file import PartFile
from tests.running import GENEROUS, Running, eventually

ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")
LIBRARY = (ROOT / "docs" / "library.md").read_text()
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README + LIBRARY, re.DOTALL)


def client_of(config: Config, user: str = "alice") -> Client:
    return Client(user, servers=config.servers, client_dir=config.client_dir)


@pytest.fixture
def client(shared_cluster: Running, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A user of the test's own."""
    user = re.sub(r"[^a-z0-9]", "-", request.node.name.lower())[:60].strip("-")
    with client_of(shared_cluster.config, user) as client:
        yield client


@pytest.mark.parametrize("form", ["path", "text", "bytes", "file", "memory"])
def test_every_kind_of_content_comes_back_as_it_was(client: Client, photograph: Path, form: str) -> None:
    content = photograph.read_bytes()
    with photograph.open("rb") as file:
        forms: dict[str, Content] = {
            "path": photograph,
            "text": str(photograph),
            "bytes": content,
            "file": file,
            "memory": io.BytesIO(content),
        }
        receipt = client.upload(forms[form])
    assert (receipt.size, receipt.path, receipt.node) == (len(content), None, 3)
    assert client.download(receipt.name) == content
    assert client.info(receipt.name).original == ("image.png" if form in ("bytes", "memory") else photograph.name)


def test_a_local_copy_is_the_sealed_file(client: Client, photograph: Path, tmp_path: Path) -> None:
    receipt = client.upload(photograph, to=tmp_path / "images")
    assert receipt.path is not None
    assert receipt.path.read_bytes().startswith(MAGIC)
    assert client.decrypt(receipt.path) == photograph.read_bytes()
    assert client.decrypt(receipt.path.read_bytes()) == photograph.read_bytes()
    opened = client.decrypt(receipt.path, tmp_path / "opened")
    assert opened.read_bytes() == photograph.read_bytes()


def test_an_upload_without_a_local_copy_leaves_no_file(
    client: Client, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client.upload(photograph)
    client.upload(photograph.read_bytes(), name="photo.png")
    assert not [*tmp_path.iterdir()]


def test_a_download_goes_where_it_is_told(client: Client, photograph: Path, tmp_path: Path) -> None:
    receipt = client.upload(photograph)
    inside = client.download(receipt.name, tmp_path)
    assert inside == tmp_path / photograph.name
    assert inside.stat().st_mtime_ns == photograph.stat().st_mtime_ns
    named = client.download(photograph.name, tmp_path / "other.png")
    assert (named.name, named.read_bytes()) == ("other.png", photograph.read_bytes())
    named.write_bytes(b"mine")
    with pytest.raises(safelight.OutputExists):
        client.download(receipt.name, named)
    assert named.read_bytes() == b"mine"
    assert client.download(receipt.name, named, force=True).read_bytes() == photograph.read_bytes()


def test_an_image_is_a_seekable_file(client: Client, photograph: Path) -> None:
    content = photograph.read_bytes()
    receipt = client.upload(photograph)
    with client.open(receipt.name) as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.read(10) == content[:10]
        assert file.seek(-10, io.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        assert file.read(1) == b""
        file.seek(1000)
        assert file.read(300_000) == content[1000:301_000]
        file.seek(0)
        assert file.read() == content
        file.seek(len(content) + 5)
        assert file.read() == b""
        with pytest.raises(ValueError, match="before the first byte"):
            file.seek(-1)
        file.seek(0)
        assert Picture.open(file).size == Picture.open(photograph).size


def test_only_what_is_read_is_transferred(client: Client, shared_cluster: Running, photograph: Path) -> None:
    receipt = client.upload(photograph)
    served = []

    class Spy(AsyncClient):
        pass

    async def go() -> bytes:
        config = shared_cluster.config
        async with Spy(client.user, servers=config.servers, client_dir=config.client_dir) as spy:
            file = await spy.open(receipt.name)
            read = spy.session.images.read

            async def counted(*arguments: object) -> tuple[bytes, str]:
                data, etag = await read(*arguments)  # type: ignore[arg-type]
                served.append(len(data))
                return data, etag

            spy.session.images.read = counted  # type: ignore[method-assign, assignment]
            file.seek(500_000)
            return await file.read(100)

    assert asyncio.run(go()) == photograph.read_bytes()[500_000:500_100]
    assert served == [100]


def test_a_removed_image_ends_a_reader(client: Client, photograph: Path) -> None:
    receipt = client.upload(photograph)
    with client.open(receipt.name) as file:
        file.read(1)
        client.remove(receipt.name)
        file.seek(900_000)
        with pytest.raises(safelight.NoSuchImage):
            file.read(10)
    with pytest.raises(safelight.NoSuchImage):
        client.info(receipt.name)


def test_a_listing_is_an_iterator_newest_first(client: Client, photograph: Path) -> None:
    names = [client.upload(photograph, name=f"{number}.png").name for number in range(3)]
    assert {image.name for image in client.list()} == {*names}
    assert [image.original for image in client.list("1.png")] == ["1.png"]
    assert next(client.list()).created.tzinfo is not None
    assert [*client.list("nothing*")] == []


def test_a_downloads_progress_reaches_the_whole(client: Client, photograph: Path) -> None:
    seen: list[tuple[int, int]] = []
    receipt = client.upload(photograph)
    client.download(receipt.name, progress=lambda *progress: seen.append(progress))
    assert seen[-1] == (receipt.size, receipt.size)


def test_several_threads_share_a_client(client: Client, photograph: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        receipts = [*pool.map(lambda number: client.upload(photograph, name=f"{number}.png"), range(8))]
    assert len({receipt.name for receipt in receipts}) == 8


def test_a_client_works_inside_a_running_loop(client: Client, photograph: Path) -> None:
    """As in a notebook."""

    async def cell() -> bytes:
        return client.download(client.upload(photograph).name)

    assert asyncio.run(cell()) == photograph.read_bytes()


def test_a_callback_that_calls_its_client_is_refused(client: Client, photograph: Path) -> None:
    def progress(done: int, total: int) -> None:
        client.status()

    with pytest.raises(RuntimeError, match="callback"):
        client.upload(photograph, progress=progress)
    receipt = client.upload(photograph)
    with pytest.raises(RuntimeError, match="callback"):
        client.download(receipt.name, progress=progress)


def test_a_closed_client_opens_again_and_leaves_no_thread(client: Client, photograph: Path) -> None:
    before = threading.active_count()
    receipt = client.upload(photograph)
    client.close()
    assert threading.active_count() <= before
    client.close()
    assert client.info(receipt.name).size == receipt.size


def test_uploads_continue_through_a_failover(cluster: Running, photograph: Path) -> None:
    with client_of(cluster.config) as client:
        first = client.upload(photograph)
        cluster.cluster.kill(3)
        second = client.upload(photograph)
        assert (first.node, second.node) == (3, 2)
        with client.open(first.name) as file:
            assert file.read() == photograph.read_bytes()
        assert {image.name for image in client.list()} == {first.name, second.name}
        status = client.status()
        assert status.leader == 2
        assert [node.role for node in status.nodes] == ["worker", "leader", "unreachable"]
        assert status.nodes[1].epoch.endswith(".2")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.upload(b""), safelight.NotAnImage),
        (lambda client: client.upload(b"text"), safelight.NotAnImage),
        (lambda client: client.upload("missing.png"), safelight.CannotRead),
        (lambda client: client.upload(io.BytesIO(b"text")), safelight.NotAnImage),
        (lambda client: client.decrypt(b"x" * 1000), safelight.CannotOpen),
        (lambda client: client.download("missing.png"), safelight.NoSuchImage),
        (lambda client: client.open("a/b"), safelight.NoSuchImage),
        (lambda client: client.remove("*"), safelight.NoSuchImage),
    ],
)
def test_every_error_is_of_its_documented_class(client: Client, call: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        call(client)  # type: ignore[operator]
    assert isinstance(caught.value, safelight.SafelightError)
    assert "\n" not in str(caught.value)


def test_settings_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAFELIGHT_USER", "SAFELIGHT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for settings in ({"servers": ["nowhere"]}, {"timeout": -1}, {"config": tmp_path / "missing.toml"}):
        with pytest.raises(safelight.ConfigError):
            Client("alice", **settings)
    with pytest.raises(safelight.ConfigError, match="user"):
        Client()
    monkeypatch.setenv("SAFELIGHT_USER", "bob")
    monkeypatch.setenv("SAFELIGHT_SERVERS", "127.0.0.1:1,127.0.0.1:2")
    assert repr(Client()) == "<Client bob at 127.0.0.1:1,127.0.0.1:2>"
    assert repr(Client("carol", servers=["127.0.0.1:3"])) == "<Client carol at 127.0.0.1:3>"


def test_no_cluster_is_an_error_in_time(tmp_path: Path) -> None:
    with Client("alice", servers=["127.0.0.1:1"], timeout=0.5, client_dir=tmp_path) as client:
        with pytest.raises(safelight.ClusterUnavailable):
            client.info("a.png")
        assert client.status().leader is None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[-1].strip()[:30])
def test_the_documented_examples_run(shared_cluster: Running, photograph: Path, tmp_path: Path, example: str) -> None:
    (tmp_path / "photo.png").write_bytes(photograph.read_bytes())
    servers = str([*shared_cluster.config.servers])
    example = re.sub(r'\["127\.0\.0\.1:8001".*?\]', servers, example)
    program = "from safelight import Client\n" + (
        'receipt = Client("alice").upload("photo.png")\n' if "receipt.name" in example else ""
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program + example],
        cwd=tmp_path,
        env=environment(shared_cluster.config),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_documented_exceptions_are_the_hierarchy() -> None:
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", LIBRARY, re.MULTILINE)
    public = {name for name in safelight.__all__ if isinstance(getattr(safelight, name), type)}
    errors = {name for name in public if issubclass(getattr(safelight, name), Exception)}
    assert {name for name, _ in table} == errors
    for name, base in table:
        assert getattr(safelight, name).__bases__[0].__name__ == base, name


def test_public_names_are_what_the_modules_declare() -> None:
    for name in safelight.__all__:
        assert getattr(safelight, name) is not None
        assert getattr(safelight, name).__doc__ if name != "__version__" else True
    assert {*dir(safelight)} == {*safelight.__all__}
    with pytest.raises(AttributeError):
        _ = safelight.nothing


def test_blocking_and_asynchronous_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")} - {"of", "again", "close"}

    assert public(Client) == public(AsyncClient)


def test_values_show_in_a_notebook_as_tables(client: Client, photograph: Path) -> None:
    receipt = client.upload(photograph, name="<b>.png")
    image = client.info(receipt.name)
    assert repr(image).startswith(f"<Image {receipt.name} image/png 1.3 MiB ")
    assert "&lt;b&gt;.png" in image._repr_html_()
    assert "<b>" not in image._repr_html_()


def test_a_progress_callback_that_raises_ends_the_call_with_its_error(client: Client, photograph: Path) -> None:
    receipt = client.upload(photograph)
    for error in (OSError("a closed pipe"), TimeoutError("late"), SystemExit(3), KeyboardInterrupt(), ValueError("v")):

        def progress(done: int, total: int, error: BaseException = error) -> None:
            raise error

        calls: list[Callable[[], object]] = [
            lambda: client.upload(photograph, progress=progress),
            lambda: client.download(receipt.name, progress=progress),
        ]
        for call in calls:
            with pytest.raises(type(error)):
                call()
    assert client.info(receipt.name).size == receipt.size


def test_progress_ends_at_its_total(client: Client, photograph: Path, tmp_path: Path) -> None:
    small = b"GIF89a" + bytes(1000)
    for image, to in ((photograph, None), (photograph, tmp_path), (small, None), (small, tmp_path)):
        seen: list[tuple[int, int]] = []

        def progress(done: int, total: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((done, total))

        receipt = client.upload(image, to=to, progress=progress)
        assert seen[-1][0] == seen[-1][1] >= receipt.size
        assert all(done <= total for done, total in seen)


def test_a_stream_is_whole_or_refused(client: Client, photograph: Path, tmp_path: Path) -> None:
    content = photograph.read_bytes()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as file:
        os.write(writer, content[:1000])
        with pytest.raises(safelight.CannotRead, match="non-blocking"):
            client.upload(file)
    os.close(writer)
    (tmp_path / "text").write_text("text")
    with (tmp_path / "text").open() as text, pytest.raises(safelight.CannotRead, match="binary"):
        client.upload(text)  # type: ignore[arg-type]
    closed = photograph.open("rb")
    closed.close()
    with pytest.raises(safelight.CannotRead, match="closed"):
        client.upload(closed)

    class Slow(io.RawIOBase):
        """Gives 50 bytes at a time: less than a type needs to be recognised."""

        def __init__(self) -> None:
            self._rest = io.BytesIO(content[:2000])

        def read(self, size: int = -1) -> bytes:
            return self._rest.read(50)

    assert client.download(client.upload(Slow()).name) == content[:2000]  # type: ignore[arg-type]
    for other in (bytearray(content), memoryview(content)):
        assert client.download(client.upload(other).name) == content
    with pytest.raises(TypeError, match="NoneType"):
        client.upload(None)  # type: ignore[arg-type]


def test_an_endless_stream_of_something_else_is_refused_at_its_first_bytes(client: Client) -> None:
    class Zeros(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            assert self.given < 1 << 24
            return bytes(size)

    with pytest.raises(safelight.NotAnImage):
        client.upload(Zeros())  # type: ignore[arg-type]
    with pytest.raises(safelight.CannotOpen):
        client.decrypt(Zeros())  # type: ignore[call-overload]


def test_a_file_to_write_is_exactly_that_file(client: Client, photograph: Path, tmp_path: Path) -> None:
    receipt = client.upload(photograph, to=tmp_path / "sealed")
    assert receipt.path is not None
    target = tmp_path / "same.png"

    def download(_: int) -> object:
        try:
            return client.download(receipt.name, target)
        except safelight.CannotWrite as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        done = [*pool.map(download, range(4))]
    assert done.count(target) == 1
    assert [path.name for path in tmp_path.glob("*.png")] == ["same.png"]
    assert client.decrypt(receipt.path, tmp_path / "opened.png").read_bytes() == photograph.read_bytes()
    with pytest.raises(safelight.OutputExists):
        client.decrypt(receipt.path, tmp_path / "opened.png")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    for special in ("link", "fifo"):
        with pytest.raises(safelight.CannotWrite):
            client.download(receipt.name, tmp_path / special, force=True)
    with pytest.raises(safelight.CannotWrite):
        client.download(receipt.name, tmp_path / ("x" * 300))
    assert {path.name for path in tmp_path.iterdir()} == {"same.png", "opened.png", "link", "fifo", "sealed"}


def test_closing_from_elsewhere_ends_calls_and_later_ones_work(client: Client, photograph: Path) -> None:
    receipt = client.upload(photograph)
    file = client.open(receipt.name)
    outcomes: list[object] = []

    def ask() -> None:
        for _ in range(30):
            try:
                outcomes.append(client.info(receipt.name).size)
            except RuntimeError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        client.close()
    for thread in threads:
        thread.join(GENEROUS)
    assert {*outcomes} <= {receipt.size, "the client was closed during this call"}
    assert receipt.size in outcomes
    assert file.read(10) == photograph.read_bytes()[:10]
    with pytest.raises(RuntimeError, match="callback"):
        client.download(receipt.name, progress=lambda done, total: client.close())


def test_a_process_that_forks_goes_on_in_both(shared_cluster: Running, tmp_path: Path) -> None:
    program = """if True:
        import os, sys
        from safelight import Client
        client = Client("alice")
        assert client.status().leader
        child = os.fork()
        if not child:
            assert client.status().leader
            sys.exit()
        assert client.status().leader
        sys.exit(os.waitpid(child, 0)[1])"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=environment(shared_cluster.config),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * GENEROUS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_forgotten_clients_leave_no_threads(shared_cluster: Running) -> None:
    for _ in range(5):
        client_of(shared_cluster.config).status()
    gc.collect()
    eventually(
        lambda: not [each for each in threading.enumerate() if each.name == "safelight client"],
        "the threads of forgotten clients end",
    )


def test_an_asynchronous_client_says_when_it_is_not_open(shared_cluster: Running) -> None:
    config = shared_cluster.config
    client = AsyncClient("alice", servers=",".join(config.servers), client_dir=config.client_dir)

    async def once() -> int | None:
        async with client:
            [*_] = [image async for image in client.list()]
            return (await client.status()).leader

    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(client.info("a.png"))
    assert [asyncio.run(once()), asyncio.run(once())] == [3, 3]
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(client.info("a.png"))


def test_no_traceback_that_shows_variables_has_the_token_in_it(client: Client, shared_cluster: Running) -> None:
    def fail(done: int, total: int) -> None:
        raise ValueError

    receipt = client.upload(b"GIF89a" + bytes(1000))
    text = ""
    for call in (lambda: client.download(receipt.name, progress=fail), lambda: [*client.list("*" * 100_000)]):
        try:
            call()
        except (ValueError, safelight.SafelightError) as error:
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            text += "".join(shown.format())
    secrets = [path.read_text().strip() for path in shared_cluster.config.client_dir.glob("tokens/*/*")]
    assert "bearer" in text
    assert secrets
    assert not [secret for secret in secrets if secret in text]


def _pickled(error: _T) -> _T:
    again: _T = pickle.loads(pickle.dumps(error))  # noqa: S301 — of our own
    return again


def test_errors_can_be_pickled(client: Client) -> None:
    for call in (lambda: client.upload(b"text"), lambda: client.info("a/b"), lambda: client.decrypt(b"x" * 999)):
        with pytest.raises(safelight.SafelightError) as caught:
            call()
        again = _pickled(caught.value)
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))
    refusal = _pickled(safelight.Refusal(safelight.Problem.BUSY, "busy", node=2))
    assert (refusal.problem, refusal.node, str(refusal)) == (safelight.Problem.BUSY, 2, "busy")


def test_a_download_that_was_suspended_in_a_write_is_whole(
    client: Client, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that seems to hang while the client's own disk does: what was written must not be asked for again."""
    content = photograph.read_bytes()
    receipt = client.upload(photograph)
    monkeypatch.setattr(reads, "STALL_TIMEOUT", 0.2)
    writes = []
    append = PartFile.write

    def slow(self: PartFile, data: bytes) -> object:
        writes.append(len(data))
        if len(writes) == 2:
            time.sleep(1)
        return append(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(PartFile, "write", slow)
    assert client.download(receipt.name, tmp_path / "out.png").read_bytes() == content
    assert len(writes) > 2
