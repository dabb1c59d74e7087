"""Random faults end in agreement; and a bug in the election does not go unnoticed."""

import subprocess
import sys
from pathlib import Path

import pytest

from safelight.election.bully import Election

from .mutations import MUTATIONS
from .scenario import commands, rewrite
from .simulate import fails, generate, minimise, search


@pytest.mark.parametrize("first", range(0, 2400, 100))
def test_random_faults_end_in_agreement(first: int) -> None:
    for seed in range(first, first + 100):
        assert fails(generate(seed)) is None, f"python -m tests.election.simulate --seeds 1 --from {seed}"


@pytest.mark.parametrize("seed", [7236493, 30497761, 60502969])
def test_seeds_that_failed_once(seed: int) -> None:
    assert fails(generate(seed)) is None


def test_progress_is_for_a_terminal_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.election.simulate", "--seeds", "200"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stdout.startswith("200 seeds from 0, none failed")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_simulation_notices(mutation: type[Election]) -> None:
    assert any(fails(generate(seed), mutation) for seed in range(500))


def test_what_fails_is_written_down_as_a_scenario_that_shows_it(tmp_path: Path) -> None:
    said: list[str] = []
    path = search(0, 500, tmp_path, MUTATIONS[0], said.append)
    assert path is not None
    text = path.read_text()
    assert "VIOLATION: " in text
    assert rewrite(text, MUTATIONS[0]) == text
    assert "VIOLATION" not in rewrite(text)
    assert len(commands(text)) < 15
    assert str(path) in said[-1]


def test_failing_scenario_is_cut_down_to_what_matters() -> None:
    story = ["nodes 1 2 3", "drift 1 1.01", "start 1 2 3", "advance 5s", "break 1->2", "kill 1", "advance 1s"]

    def loses_one(fewer: list[str]) -> bool:
        return "start 1 2 3" in fewer and "kill 1" in fewer

    assert minimise(story, loses_one) == ["nodes 1 2 3", "start 1 2 3", "kill 1"]
