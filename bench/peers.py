"""Outside programs that we are measured against: nginx, curl, wrk, openssl, age, and a sink of bare aiohttp.

Who is not installed is left out, with a word on where to get it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {"nginx": "nginx", "curl": "curl", "wrk": "wrk", "openssl": "openssl", "age": "age"}
"""Debian's package for each program."""

_NGINX = """
{user} worker_processes 2; pid {here}/nginx.pid; error_log {here}/nginx.err; daemon off;
events {{}}
http {{
    access_log off; sendfile on; client_max_body_size 0; client_body_temp_path {here}/nginx.tmp;
    server {{ listen 127.0.0.1:{port}; root {here}/www;
              location / {{ dav_methods PUT DELETE; create_full_put_path on; }} }}
}}
"""

_WRK = """
local body = io.open("{body}", "rb"):read("*a")
local thread, sent = 0, 0
function setup(each) each:set("id", thread); thread = thread + 1 end
function request()
    sent = sent + 1
    return wrk.format("PUT", "{path}{run}-" .. id .. "-" .. sent .. ".png", {{{headers}}}, body)
end
"""


class Absent(Exception):
    """A program is not installed."""


def need(*programs: str) -> None:
    """Raises Absent."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        packages = " ".join(PACKAGES[program] for program in missing)
        raise Absent(f"{', '.join(missing)} not installed: apt-get install {packages}")


def run(*command: str | Path) -> str:
    """What it prints. Raises CalledProcessError."""
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def timed(*command: str | Path) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    run(*command)
    return time.perf_counter() - began


def gcm() -> float:
    """MB/s of the processor's AES-128-GCM: one thread, blocks of 1 MiB."""
    need("openssl")
    said = run("openssl", "speed", "-seconds", "1", "-bytes", str(1 << 20), "-evp", "aes-128-gcm")
    return float(re.findall(r"([0-9.]+)k\s*$", said, re.MULTILINE)[-1]) / 1000


@contextmanager
def nginx(here: Path) -> Iterator[str]:
    """A web server that takes PUT, with its files below `here`. Its URL. Raises Absent."""
    need("nginx", "curl")
    (here / "www").mkdir(parents=True)
    port = _free_port()
    configuration = here / "nginx.conf"
    configuration.write_text(_NGINX.format(here=here, port=port, user="user root;" if os.getuid() == 0 else ""))
    server = subprocess.Popen(["nginx", "-c", configuration, "-p", here, "-e", here / "nginx.err"])
    try:
        _wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def sink() -> Iterator[str]:
    """A server of bare aiohttp that reads bodies and forgets them. Its URL."""
    port = _free_port()
    process = multiprocessing.get_context("spawn").Process(target=_swallow, args=(port,))
    process.start()
    try:
        _wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _swallow(port: int) -> None:
    import asyncio

    import uvloop

    from safelight.runtime.http import web

    async def put(request: web.Request) -> web.Response:
        async for _ in request.content.iter_chunks():
            pass
        return web.Response(status=201)

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 40)
        app.router.add_put("/{name:.*}", put)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    uvloop.run(serve())


def wrk(url: str, body: Path, headers: dict[str, str], here: Path, *, seconds: int, connections: int = 8) -> float:
    """PUTs a second of one body under ever new names. Raises Absent; RuntimeError if any is refused."""
    need("wrk")
    origin, _, path = url.partition("//")[2].partition("/")
    script = here / "wrk.lua"
    said = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(_WRK.format(body=body, path=f"/{path}", run=time.time_ns(), headers=said))
    script.chmod(0o600)
    out = run("wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", script, f"http://{origin}/")
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(out)
    match = re.search(r"Requests/sec:\s*([0-9.]+)", out)
    assert match, out
    return float(match[1])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait_until_open(port: int) -> None:
    give_up = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
