"""An S3 server for a test (moto), behind a proxy that breaks connections as the test demands."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

ACCESS_KEY = "a-key-of-the-tests"
SECRET_KEY = "a-secret-of-the-tests"


class Fault(Enum):
    LOSE_REQUEST = auto()
    """The connection breaks, and the server has heard nothing."""
    LOSE_ANSWER = auto()
    """The connection breaks after the server did what it was asked for."""
    FORGET_CONDITION = auto()
    """The server does not know If-None-Match, and does what it is asked for without it."""


@dataclass
class _Rule:
    fault: Fault | int | float
    method: str
    text: str
    times: int


class S3:
    """A server with the bucket `images`. `environment` leads to it through the proxy, `oracle` past it."""

    def __init__(self, server: tuple[str, int], proxy: tuple[str, int]) -> None:
        self.server = server
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": f"http://{proxy[0]}:{proxy[1]}",
        }
        self.oracle: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{server[0]}:{server[1]}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(proxies={}),
        )
        self.oracle.create_bucket(Bucket="images")
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def fault(self, fault: Fault | int | float, method: str, text: str = "", *, times: int = 1_000_000) -> None:
        """Do this to the next `times` requests of a method with `text` in their target: an int is a status that the
        server answers without having done anything, a float a delay in seconds.
        """
        with self._lock:
            self._rules.append(_Rule(fault, method, text, times))

    def heal(self) -> None:
        with self._lock:
            self._rules.clear()

    def struck(self, method: str, target: str) -> Fault | int | float | None:
        with self._lock:
            for rule in self._rules:
                if rule.method == method and rule.text in target and rule.times > 0:
                    rule.times -= 1
                    return rule.fault
        return None

    def stored(self) -> list[str]:
        found = self.oracle.list_objects_v2(Bucket="images").get("Contents", [])
        return [item["Key"] for item in found]

    def unfinished(self) -> list[str]:
        """Keys of uploads in parts that are neither complete nor aborted."""
        found = self.oracle.list_multipart_uploads(Bucket="images").get("Uploads", [])
        return [item["Key"] for item in found]


@contextmanager
def s3_server() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    proxy.daemon_threads = True
    try:
        host, port = moto.get_host_and_port()
        it = _Proxy.s3 = S3((host, port), ("127.0.0.1", proxy.server_address[1]))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield it
        proxy.shutdown()
    finally:
        proxy.server_close()
        moto.stop()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = dict(self.headers)
        match self.s3.struck(self.command, self.path):
            case Fault.LOSE_REQUEST:
                self.close_connection = True
                return
            case Fault.FORGET_CONDITION:
                headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            case Fault.LOSE_ANSWER:
                self._ask(headers, body)
                self.close_connection = True
                return
            case float(delay):
                time.sleep(delay)
            case int(status):
                self._answer(status, {}, b"")
                return
        self._answer(*self._ask(headers, body))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

    def _ask(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.s3.server)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True  # whoever asked has gone
