"""The layout, checked against the code: imports point downward only, and the pure packages do no I/O."""

import ast
from pathlib import Path

import pytest

import safelight

SOURCE = Path(safelight.__file__).parent

LAYERS = [
    {"errors"},
    {"names", "sizes", "imagetypes", "timestamps"},
    {"decoding"},
    {"election", "encryption"},
    {"config", "samples"},
    {"runtime"},
    {"wire"},
    {"vault.stores"},
    {"vault"},
    {"client.files", "client.transport", "node.connections", "node.state"},
    {"client.requests", "node.work", "node.election"},
    {"client", "node.http"},
    {"node", "local"},
    {"cli.output"},
    {"cli.user", "cli.admin"},
    {"cli"},
    {"__main__"},
]
"""Every package and top-level module, from the lowest up. A package imports itself and what is below it, and never
what stands beside it: the library and the node do not know each other, nor a user's commands an operator's."""

PURE = ["election", "encryption", "wire", "names", "imagetypes", "sizes", "timestamps"]
PURE += [f"client/requests/{name}" for name in ("leader_request_state", "leader_search", "retry_policy")]
PURE += ["client/transport/deadline"]
IMPURE = {"asyncio", "socket", "ssl", "time", "datetime", "subprocess", "pathlib", "tempfile", "logging", "threading"}


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


def package_of(name: str) -> str:
    """The package (`client.files`) or top-level module (`names`) that a dotted name below `safelight` is in."""
    parts, path = [], SOURCE
    for part in name.split("."):
        if not (path / part).is_dir():
            break
        parts.append(part)
        path /= part
    return ".".join(parts) or name.split(".", maxsplit=1)[0]


def layer(package: str) -> int:
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


def own_package(path: Path) -> str:
    return package_of(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"))


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in modules()}
    below = {
        name: {
            module
            for imported in imports(path)
            for module in (imported, imported.rpartition(".")[0])
            if module in found and module != name
        }
        for name, path in found.items()
        if path.name != "__init__.py"
    }
    while leaves := {name for name, others in below.items() if not others & below.keys()}:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert not below


def test_every_package_has_its_layer() -> None:
    assert {own_package(path) for path in modules()} - {"__init__"} == {each for layer in LAYERS for each in layer}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward_only(path: Path) -> None:
    own = own_package(path)
    if own == "__init__":
        return
    below = {name.removeprefix("safelight.") for name in imports(path) if name.startswith("safelight.")}
    for other in {package_of(name) for name in below} - {own, "__version__"}:
        assert layer(other) < layer(own), f"{own} imports {other}"


@pytest.mark.parametrize(
    "path",
    [path for name in PURE for path in modules(name if (SOURCE / name).is_dir() else f"{name}.py")],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_the_core_has_neither_network_nor_clock_nor_disk(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def late_bound(source: str) -> set[int]:
    """Lines with a function that hides a reference to an object which may not exist yet: a lambda as an argument of a
    constructor, and any function within `__init__` that refers to `self`.
    """
    functions = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef)
    lines = set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.lstrip("_")[:1].isupper():
                arguments = [*node.args, *(each.value for each in node.keywords)]
                lines |= {each.lineno for each in arguments if isinstance(each, ast.Lambda)}
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for inner in ast.walk(node):
                if inner is not node and isinstance(inner, functions):
                    names = {each.id for each in ast.walk(inner) if isinstance(each, ast.Name)}
                    lines |= {inner.lineno} if "self" in names else set()
    return lines


@pytest.mark.parametrize("path", modules("node"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_parts_of_a_node_get_what_they_use_and_no_function_that_looks_it_up_later(path: Path) -> None:
    assert late_bound(path.read_text()) == set()


def test_a_circle_of_objects_cannot_hide_in_a_function() -> None:
    hidden = """
class Node:
    def __init__(self):
        self._load = LoadTracker(lambda: self._driver.role, most=4)
        def lost(peer):
            self._driver.lost(peer)
        links = Links(lost)
        self._health = health.Monitor(examine=lambda: examine(links))
        self._driver = ElectionDriver(send=links.send, sort=sorted([], key=lambda each: each))
"""
    assert late_bound(hidden) == {4, 5, 8}


def test_aiohttp_is_imported_in_one_place() -> None:
    """Its first import reads certificate authorities that nothing uses: see safelight/runtime/http.py."""
    importers = {path for path in modules() if any(name.split(".")[0] == "aiohttp" for name in imports(path))}
    assert importers == {SOURCE / "runtime" / "http.py"}
