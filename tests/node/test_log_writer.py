"""Whoever reads a node's lines slowly, not at all or no longer changes nothing but what there is to read."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest

from safelight.config import Config
from safelight.local.cluster import environment, ephemeral_config
from safelight.node.state import log_writer
from safelight.node.state.log_writer import LogWriter
from tests.mission.support import status_of, wait_until_all_follow
from tests.node.raw_http import ask, enrolled, image, new_image
from tests.running import GENEROUS, eventually


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """The end that is read, and the end that is written."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:
        yield reader, writer


def test_all_lines_come_in_order(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    log = LogWriter(writer, "Node 1: ")
    log.write("first")
    assert reader.readline() == "Node 1: first\n"  # at once, although nothing follows
    for number in range(log_writer.CAPACITY // 2):
        log.write(f"line {number} ✓")
    for number in range(log_writer.CAPACITY // 2):
        assert reader.readline() == f"Node 1: line {number} ✓\n"


def test_lines_begin_with_their_time_where_that_is_wanted(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    log = LogWriter(writer, "Node 1: ", times=True)
    before = datetime.now(UTC)
    log.write("first")
    time, _, line = reader.readline().partition(" ")
    assert line == "Node 1: first\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert abs((datetime.fromisoformat(time) - before).total_seconds()) < GENEROUS


def test_lines_that_nobody_reads_hold_nobody_up_and_are_counted(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    log = LogWriter(writer)
    said = 3 * log_writer.CAPACITY
    for number in range(said):
        log.write(f"line {number}")
    log.close(0.0)  # does not wait for a reader, either
    number, gaps = 0, 0
    while number < said:
        line = reader.readline()
        if lost := re.match(r"(\d+) lines were lost here", line):
            number, gaps = number + int(lost[1]), gaps + 1
        else:
            assert line == f"line {number}\n"
            number += 1
    assert 1 <= gaps <= 5


def test_the_last_lines_are_still_written(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    log = LogWriter(writer)
    for number in range(100):
        log.write(f"line {number}")
    log.close(GENEROUS)
    writer.close()
    assert len(reader.read().splitlines()) == 100


def test_a_reader_that_has_gone_away_is_no_error(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    reader.close()
    log = LogWriter(writer)
    for number in range(2 * log_writer.CAPACITY):
        log.write(f"line {number}")
    log.close(GENEROUS)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_disk_is_no_error() -> None:
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:
        log = LogWriter(full)
        log.write("nobody will read this")
        log.close(GENEROUS)


def test_a_terminal_that_must_not_be_waited_for_gets_all_lines(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    os.set_blocking(writer.fileno(), False)
    log = LogWriter(writer)
    for number in range(log_writer.CAPACITY):
        log.write(f"line {number}")
    assert [reader.readline() for _ in range(log_writer.CAPACITY)] == [
        f"line {n}\n" for n in range(log_writer.CAPACITY)
    ]


def test_a_process_without_standard_output_says_nothing() -> None:
    log = LogWriter(None)
    log.write("nobody will read this")
    log.close(GENEROUS)


def test_errors_are_logged_through_it(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    logger = logging.Logger("of this test")
    logger.addHandler(LogWriter(writer).handler())
    logger.error("it failed: %s", "badly")
    assert reader.readline() == "it failed: badly\n"


# -- real nodes --


@contextmanager
def two_nodes(directory: Path) -> Iterator[tuple[Config, dict[int, subprocess.Popen[bytes]]]]:
    """Two nodes whose output is in pipes that nobody reads yet; node 2 leads."""
    config = ephemeral_config(directory, 2, heartbeat=0.5)
    nodes = {
        node: subprocess.Popen(
            [sys.executable, "-m", "safelight", "server", str(node)],
            env=environment(config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pipesize=4096,
        )
        for node in (1, 2)
    }
    try:
        wait_until_all_follow(config, 2)
        yield config, nodes
    finally:
        for process in nodes.values():
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_a_node_whose_output_nobody_takes_any_more_seals_and_takes_over(tmp_path: Path) -> None:
    with two_nodes(tmp_path) as (config, nodes):
        token = enrolled(config, "alice")
        for process in nodes.values():
            assert process.stdout is not None
            process.stdout.close()
        assert ask(config.addresses[2], new_image(), token, body=image(100)).status == 201
        before = status_of(config, 1)[1].counter
        nodes[2].kill()
        eventually(lambda: status_of(config, 1)[1].role == "leader", "node 1 leads")
        saved = (config.data_dir / "epoch-1.json").read_text()
        assert status_of(config, 1)[1].counter > before
        assert saved == f"[{status_of(config, 1)[1].counter},1]"
        assert ask(config.addresses[1], new_image(), token, body=image(100)).status == 201


def test_a_node_puts_the_time_before_its_lines_unless_a_parent_process_or_a_terminal_shows_them(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    timed = r"\d{4}-\d\d-\d\dT[0-9:.]{12}Z Node 1: listening on http://.*"
    parent, terminal = pty.openpty()
    for arguments, output, expected in (
        ([], subprocess.PIPE, timed),
        (["--until-eof"], subprocess.PIPE, r"Node 1: listening on http://.*"),
        ([], terminal, r"Node 1: listening on http://.*"),
    ):
        node = subprocess.Popen(
            [sys.executable, "-m", "safelight", "server", "1", *arguments],
            env=environment(config),
            stdin=subprocess.PIPE,
            stdout=output,
            text=True,
        )
        try:
            with node.stdout or open(parent, closefd=False, encoding="utf-8") as lines:
                assert re.fullmatch(expected, lines.readline().rstrip())
        finally:
            node.kill()
            node.communicate()
    os.close(parent)
    os.close(terminal)


def test_a_node_whose_output_nobody_reads_goes_on_and_stops_when_told(tmp_path: Path) -> None:
    with two_nodes(tmp_path) as (config, nodes):
        token = enrolled(config, "alice")
        for _ in range(150):  # more lines than the pipe takes
            assert ask(config.addresses[2], new_image(), token, body=b"x").status == 201
        assert status_of(config, 2)[2].role == "leader"
        nodes[2].send_signal(signal.SIGTERM)
        assert nodes[2].wait(GENEROUS) == 0
