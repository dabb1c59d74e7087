"""Faults in what the operating system answers to one process: strace(1) attaches to it and injects them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def injected(pid: int, fault: str) -> Iterator[None]:
    """`fault` is what strace's `-e inject=` takes, such as "fsync:error=EIO". Skips the test where none may trace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = fault.partition(":")[0]
    command = [strace, "-f", "-e", f"trace={calls}", "-e", f"inject={fault}", "-o", "/dev/null", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"this process may not be traced: {line}")
            yield
        finally:
            process.kill()
