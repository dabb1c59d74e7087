"""A file system that is awkward in the ways that real ones are, for tests: FAT, HFS+, APFS, ext4 with casefold.

In memory, mounted through /dev/fuse by a process of its own (Linux, and the superuser): `awkward(directory, …)`. Its
messages are those of <linux/fuse.h>, version 7.31.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1 << 20
_ATTRIBUTES = struct.Struct("<QQQqqqIIIIIIIIII")
_ENTRY, _SET = struct.Struct("<QQQQII"), struct.Struct("<IIQQQqqqIIIIIIII")


@contextmanager
def awkward(directory: Path, *options: str) -> Iterator[Path]:
    """Mounted at `directory`, which is made. Skips the test where that may not be done.

    `--fold`: names that differ in case or in Unicode's normal form are one. `--granularity NS`: times are rounded down.
    `--latest SECONDS`: later times become this one. `--no-times`: no time can be set. `--no-links`: no hard links.
    """
    import pytest

    directory.mkdir()
    command = [sys.executable, __file__, str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        if server.stdout.readline() != "mounted\n":
            pytest.skip("only the superuser can mount a file system, and with /dev/fuse")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=True)
            server.wait(30)


class Node:
    """A file or a directory: `children` are by folded name, each with its own spelling."""

    def __init__(self, number: int, mode: int) -> None:
        self.number, self.mode, self.links = number, mode, 1
        self.owner = (0, 0)
        self.data = bytearray()
        self.modified = 0
        self.children: dict[str, tuple[str, Node]] = {}


class FileSystem:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._nodes: dict[int, Node] = {}
        self._root = self._new(stat.S_IFDIR | 0o777)

    def answer(self, operation: int, number: int, body: bytes, owner: tuple[int, int]) -> bytes | None:
        """The body of the reply, None for none. Raises OSError."""
        node = self._nodes.get(number, self._root)
        match operation:
            case 2 | 42 | 36:  # FORGET, BATCH_FORGET, INTERRUPT
                return None
            case 26:  # INIT
                return struct.pack("<IIIIHHIIHHI7I", 7, 31, BLOCK, 0, 12, 10, 1 << 17, 1, 0, 0, 0, *[0] * 7)
            case 1:  # LOOKUP
                return self._entry(self._child(node, _text(body)))
            case 3:  # GETATTR
                return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case 4:  # SETATTR
                self._set(node, body)
                return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case 8:  # MKNOD
                return self._entry(self._add(node, _text(body[16:]), struct.unpack_from("<I", body)[0], owner))
            case 9:  # MKDIR
                mode = stat.S_IFDIR | struct.unpack_from("<I", body)[0]
                return self._entry(self._add(node, _text(body[8:]), mode, owner))
            case 35:  # CREATE
                made = self._add(node, _text(body[16:]), struct.unpack_from("<I", body, 4)[0], owner)
                return self._entry(made) + bytes(16)
            case 10 | 11:  # UNLINK, RMDIR
                child = self._child(node, _text(body))
                if child.children:
                    raise OSError(errno.ENOTEMPTY, "")
                del node.children[self._fold(_text(body))]
                child.links -= 1
                return b""
            case 12 | 45:  # RENAME, RENAME2
                old, new = body[8 if operation == 12 else 16 :].split(b"\0")[:2]
                self._rename(node, old.decode(), self._nodes[struct.unpack_from("<Q", body)[0]], new.decode())
                return b""
            case 13:  # LINK
                if self._options.no_links:
                    raise OSError(errno.EPERM, "")
                target, name = self._nodes[struct.unpack_from("<Q", body)[0]], _text(body[8:])
                if self._fold(name) in node.children:
                    raise OSError(errno.EEXIST, "")
                node.children[self._fold(name)] = (name, target)
                target.links += 1
                return self._entry(target)
            case 14 | 27:  # OPEN, OPENDIR
                return bytes(16)
            case 15:  # READ
                _, at, size = struct.unpack_from("<QQI", body)
                return bytes(node.data[at : at + size])
            case 16:  # WRITE
                _, at, size = struct.unpack_from("<QQI", body)
                node.data.extend(bytes(max(0, at - len(node.data))))
                node.data[at : at + size] = body[40 : 40 + size]
                node.modified = self._held(time.time_ns())
                return struct.pack("<II", size, 0)
            case 28:  # READDIR
                return _listing(node, *struct.unpack_from("<QQI", body)[1:])
            case 17:  # STATFS
                return struct.pack("<5Q4I6I", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0, *[0] * 6)
            case 18 | 20 | 25 | 29 | 30 | 34 | 38:  # RELEASE, FSYNC, FLUSH, RELEASEDIR, FSYNCDIR, ACCESS, DESTROY
                return b""
        raise OSError(errno.ENOSYS, "")

    def _fold(self, name: str) -> str:
        return unicodedata.normalize("NFD", name).casefold() if self._options.fold else name

    def _held(self, moment: int) -> int:
        """A time as it can be stored, in nanoseconds."""
        if self._options.latest is not None:
            moment = min(moment, self._options.latest * 10**9)
        granularity: int = self._options.granularity
        return moment // granularity * granularity

    def _new(self, mode: int) -> Node:
        node = Node(len(self._nodes) + 1, mode)
        node.modified = self._held(time.time_ns())
        self._nodes[node.number] = node
        return node

    def _add(self, folder: Node, name: str, mode: int, owner: tuple[int, int]) -> Node:
        if self._fold(name) in folder.children:
            raise OSError(errno.EEXIST, "")
        node = self._new(mode)
        node.owner = owner
        folder.children[self._fold(name)] = (name, node)
        return node

    def _child(self, folder: Node, name: str) -> Node:
        try:
            return folder.children[self._fold(name)][1]
        except KeyError:
            raise OSError(errno.ENOENT, "") from None

    def _rename(self, folder: Node, old: str, target: Node, new: str) -> None:
        node = self._child(folder, old)
        replaced = target.children.pop(self._fold(new), None)
        if replaced is not None and replaced[1] is not node:
            replaced[1].links -= 1
        folder.children.pop(self._fold(old), None)
        target.children[self._fold(new)] = (new, node)

    def _set(self, node: Node, body: bytes) -> None:
        valid, _, _, size, _, _, seconds, _, _, nanoseconds, _, mode, _, _, _, _ = _SET.unpack_from(body)
        if valid & (1 << 5 | 1 << 8) and self._options.no_times:
            raise OSError(errno.EPERM, "")
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & 1 << 3:
            node.data[:] = node.data[:size].ljust(size, b"\0")
        if valid & 1 << 8:
            node.modified = self._held(time.time_ns())
        elif valid & 1 << 5:
            node.modified = self._held(seconds * 10**9 + nanoseconds)

    def _attributes(self, node: Node) -> bytes:
        seconds, rest = divmod(node.modified, 10**9)
        size = len(node.data)
        return _ATTRIBUTES.pack(
            node.number, size, -(-size // 512), seconds, seconds, seconds, rest, rest, rest, node.mode, node.links,
            *node.owner, 0, 4096, 0,
        )  # fmt: skip

    def _entry(self, node: Node) -> bytes:
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + self._attributes(node)


def _listing(node: Node, start: int, room: int) -> bytes:
    listed = b""
    for at, (name, child) in enumerate([*node.children.values()][start:], start + 1):
        encoded = name.encode()
        entry = struct.pack("<QQII", child.number, at, len(encoded), child.mode >> 12) + encoded
        entry += bytes(-len(entry) % 8)
        if len(listed) + len(entry) > room:
            break
        listed += entry
    return listed


def _text(body: bytes) -> str:
    return body.partition(b"\0")[0].decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--fold", action="store_true")
    parser.add_argument("--granularity", type=int, default=1)
    parser.add_argument("--latest", type=int)
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--no-links", action="store_true")
    options = parser.parse_args()
    device = os.open("/dev/fuse", os.O_RDWR)
    settings = f"fd={device},rootmode=40777,user_id=0,group_id=0,allow_other".encode()
    if ctypes.CDLL(None).mount(b"awkward", options.directory.encode(), b"fuse", 0, settings) != 0:
        raise SystemExit("it cannot be mounted")
    print("mounted", flush=True)
    system = FileSystem(options)
    while True:
        try:
            message = os.read(device, BLOCK + 4096)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            return  # ENODEV: it is unmounted
        _, operation, unique, number, user, group = struct.unpack_from("<IIQQII", message)
        try:
            body, status = system.answer(operation, number, message[40:], (user, group)), 0
        except OSError as error:
            body, status = b"", -(error.errno or errno.EIO)
        if body is not None:
            os.write(device, struct.pack("<IiQ", 16 + len(body), status, unique) + body)


if __name__ == "__main__":
    main()
