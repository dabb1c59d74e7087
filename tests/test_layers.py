"""The house's plan, held against the code: imports point downward only, and the core does no I/O."""

import ast
from pathlib import Path

import pytest

import safelight

SOURCE = Path(safelight.__file__).parent

LAYERS = [
    {"errors", "http", "allocator", "times", "pour", "descriptors"},
    {"bully", "encryption", "sizes", "imagetypes", "names", "decoding", "durable", "samples", "reach", "signals"}
    | {"private", "process"},
    {"config"},
    {"protocol"},
    {"signed", "tls", "vault"},
    {"tickets", "orders"},
    {"client", "node"},
    {"cluster"},
    {"launch", "demo", "operate"},
    {"maintain"},
    {"cli"},
    {"__main__"},
]

CORE = [
    "bully.py",
    "encryption",
    "names.py",
    "imagetypes.py",
    "sizes.py",
    "times.py",
    "signed.py",
    "tickets.py",
    "orders.py",
    "protocol.py",
]
OUTSIDE = {"asyncio", "socket", "ssl", "time", "datetime", "subprocess", "pathlib", "tempfile", "logging", "threading"}


def modules(*places: str) -> list[Path]:
    found = [SOURCE / place for place in places] or [SOURCE]
    return sorted(path for place in found for path in (place.rglob("*.py") if place.is_dir() else [place]))


def imports(path: Path) -> set[str]:
    """Dotted names of what a module imports, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward_only(path: Path) -> None:
    own = part_of(path)
    if own == "__init__":
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("safelight.")}
    parts = {part for parts in LAYERS for part in parts}
    for other in (used & parts) - {own}:
        assert layer(other) < layer(own) or (layer(other) == layer(own) == 1), f"{own} imports {other}"


@pytest.mark.parametrize("path", modules(*CORE), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_core_has_neither_network_nor_clock_nor_disk(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & OUTSIDE
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def test_aiohttp_is_imported_in_one_place() -> None:
    """Whoever imports it first pays for certificate authorities that nobody uses: see safelight/http.py."""
    importers = {path.name for path in modules() if any(name.split(".")[0] == "aiohttp" for name in imports(path))}
    assert importers == {"http.py"}
