"""The project's habits agree with each other: Makefile, CI, hooks, decisions and supported versions of Python."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = {*re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)}
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
CI = (ROOT / ".ci" / "run").read_text()
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def made(text: str) -> set[str]:
    """The targets that a file calls."""
    return {*re.findall(r"(?:^|run: )make ([a-z-]+)", text, re.MULTILINE)}


def test_both_ways_of_ci_call_the_same_targets() -> None:
    assert made(CI) | made(WORKFLOW) <= TARGETS
    assert {"check", "docs", "test", "test-slow"} <= made(CI) & made(WORKFLOW)
    assert made(CI) - made(WORKFLOW) == {"test-ends"}  # the workflow has a job for each version instead


def test_every_action_is_pinned_by_its_commit() -> None:
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and "# v" in note for action, note in used), used


def test_the_hooks_download_nothing() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"repo: (\S+)", hooks)) == {"local"}
    assert set(re.findall(r"language: (\S+)", hooks)) == {"system", "pygrep"}
    commands = re.findall(r"entry: (.*)\n *language: system", hooks)
    assert commands
    assert all(command.startswith(".venv/bin/") for command in commands)


def test_the_supported_versions_of_python_are_the_same_everywhere() -> None:
    (listed,) = re.findall(r"^PYTHONS \?= (.*)$", MAKEFILE, re.MULTILINE)
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    versions = listed.split()
    assert re.findall(r"[\d.]+", matrix) == versions
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"


def test_every_decision_has_its_three_parts_and_is_listed() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    site = (ROOT / "mkdocs.yml").read_text()
    for number, path in enumerate(DECISIONS, start=1):
        text = path.read_text()
        title = text.splitlines()[0].removeprefix("# ")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], path
        assert title.startswith(f"{number}. ")
        assert f"| [{number}]({path.name}) | {title.partition('. ')[2]} |" in index
        assert f"decisions/{path.name}" in site
    assert len(DECISIONS) >= 10
