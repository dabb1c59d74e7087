"""`make` executes no package whose hash is not in a lock: to run Safelight, to build it, or to resolve the locks."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = {path.name for path in ROOT.glob("requirements*.lock")}
GROUPS = {"requirements.lock": None, "requirements-dev.lock": "dev", "requirements-build.lock": "build"}
GROUPS |= {"requirements-lock.lock": "lock", "requirements-docs.lock": "docs"}
GROUPS |= {"requirements-release.lock": "release"}


def recipes() -> list[str]:
    """The Makefile's commands, with its variables in place."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    variables = dict(re.findall(r"^(\w+) :?\??= (.*)$", text, re.MULTILINE))
    lines = [line.strip() for line in text.splitlines() if line.startswith("\t")]
    for _ in variables:
        lines = [re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), line) for line in lines]
    return lines


def locked(lock: str) -> dict[str, str]:
    """Names and versions."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_every_installation_is_from_a_lock_or_of_what_is_here() -> None:
    installations = [line for line in recipes() if re.search(r"pip3? install|uv pip (install|sync)|easy_install", line)]
    assert installations
    for line in installations:
        if "--editable ." in line:
            assert {"--no-index", "--no-build-isolation", "--no-deps"} <= {*line.split()}, line
        elif "dist/*.whl" in line:
            assert {"--no-index", "--no-deps"} <= {*line.split()}, line
        else:
            named = set(re.findall(r"-r (\S+)", line))
            assert named, line
            assert named <= LOCKS, line
            assert line.split()[-2 * len(named) - 1] == ":all:", f"something beside locks is installed: {line}"
            assert "--require-hashes --only-binary :all:" in line, line


def test_nothing_else_is_downloaded() -> None:
    for path in (ROOT / "Makefile", ROOT / ".ci" / "run"):
        for word in ("pipx", "uvx", "uv run", "curl ", "wget", "npx", "git clone", "ensurepip --upgrade"):
            commands = recipes() if path.name == "Makefile" else path.read_text().splitlines()
            assert not [line for line in commands if word in line.replace("curl:curl", "")], (path, word)


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_every_line_of_a_lock_has_a_version_and_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert packages
    for line in packages:
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[.*\])?==[^ ;]+( ; .*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line


def test_each_lock_has_what_pyproject_asks_for_and_all_have_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    extras = project["project"]["optional-dependencies"]
    assert {*extras} == {"bucket", "page"}
    needed = [*project["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
    assert {*GROUPS} == LOCKS
    every: dict[str, str] = {}
    for lock, group in GROUPS.items():
        wanted = groups[group] if group else needed
        names = {re.split(r"[\[>=<; ]", each)[0].lower().replace("_", "-") for each in wanted if isinstance(each, str)}
        found = locked(lock)
        assert names <= {*found}, lock
        assert not {name for name in found if every.setdefault(name, found[name]) != found[name]}, lock
    builds = {re.split(r"[>=<]", each)[0] for each in project["build-system"]["requires"]}
    assert builds <= {*locked("requirements-build.lock")}
