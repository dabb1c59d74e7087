"""Enrolment that is cut short at any point, and users whom the operator adds: nobody loses a name, nobody gets two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safelight import durable
from safelight.cluster import environment, throwaway
from safelight.node.datadir import DataError, create_cluster
from safelight.node.users import Users, add
from safelight.protocol import Problem, Refusal, fingerprint
from tests.accounts import ordinary_account
from tests.running import GENEROUS

MINE, ANOTHERS = fingerprint("slt_mine"), fingerprint("slt_anothers")


class Crash(Exception):
    """The node dies here."""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    create_cluster(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def half_enrolled(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory in which my enrolment as ann was cut short after its first file."""
    create_once = durable.create_once

    def crash_before_the_second(path: Path, data: bytes) -> bool:
        if path.suffix == ".json":
            raise Crash
        return create_once(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "create_once", crash_before_the_second)
        with pytest.raises(Crash):
            add(data_dir, "ann", MINE)
    return data_dir


def problem(attempt: Callable[[], object]) -> Problem:
    with pytest.raises(Refusal) as raised:
        attempt()
    return raised.value.problem


def test_a_half_enrolled_user_is_unknown_until_enrolled_again(half_enrolled: Path) -> None:
    users = Users(half_enrolled)
    assert problem(lambda: users.of_token("slt_mine")) is Problem.UNKNOWN_TOKEN
    assert users.enrol("ann", MINE)
    assert users.of_token("slt_mine") == "ann"
    assert not users.enrol("ann", MINE)


def test_a_half_enrolled_token_gets_no_other_name(half_enrolled: Path) -> None:
    assert problem(lambda: Users(half_enrolled).enrol("ben", MINE)) is Problem.WRONG_USER
    assert Users(half_enrolled).enrol("ann", MINE)


def test_a_half_enrolled_name_is_free_for_another(half_enrolled: Path) -> None:
    users = Users(half_enrolled)
    assert users.enrol("ann", ANOTHERS)
    assert users.of_token("slt_anothers") == "ann"
    assert problem(lambda: users.of_token("slt_mine")) is Problem.UNKNOWN_TOKEN
    assert problem(lambda: users.enrol("ann", MINE)) is Problem.NAME_TAKEN


def test_a_token_that_asked_for_a_taken_name_may_have_another(data_dir: Path) -> None:
    users = Users(data_dir)
    assert users.enrol("ann", ANOTHERS)
    assert problem(lambda: users.enrol("ann", MINE)) is Problem.NAME_TAKEN
    assert users.enrol("ben", MINE)
    assert users.of_token("slt_mine") == "ben"


def test_a_token_is_found_without_looking_at_other_users(data_dir: Path) -> None:
    add(data_dir, "ann", MINE)
    for damaged in ("ben", "carl"):
        (data_dir / "users" / f"{damaged}.json").write_bytes(b"\xff")
    users = Users(data_dir)
    assert users.of_token("slt_mine") == "ann"
    assert problem(lambda: users.of_token("slt_anothers")) is Problem.UNKNOWN_TOKEN


@pytest.mark.parametrize("name", ["../x", "", "a/b", "."])
def test_a_name_that_is_none_is_refused_before_anything_is_written(data_dir: Path, name: str) -> None:
    with pytest.raises(Exception, match="name"):
        add(data_dir, name, MINE)
    assert not any(path.is_file() for path in (data_dir / "users").rglob("*"))


# -- the operator's side --


def test_a_user_is_added_where_only_the_keyring_was_copied_to(tmp_path: Path, data_dir: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "keyring.json").write_bytes((data_dir / "keyring.json").read_bytes())
    assert add(copy, "ann", MINE)
    assert Users(copy).of_token("slt_mine") == "ann"


@pytest.mark.parametrize("made", [False, True])
def test_where_there_is_no_cluster_no_user_is_added(tmp_path: Path, made: bool) -> None:
    config = throwaway(tmp_path)
    if made:
        config.data_dir.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "safelight", "user", "add", "ann", MINE],
        env=environment(config),
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert str(config.data_dir) in line
    assert "--data-dir" in line
    assert not (config.data_dir / "users").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make what belongs to somebody else")
def test_a_data_directory_of_somebody_elses_is_said(data_dir: Path) -> None:
    with ordinary_account(), pytest.raises(DataError, match=str(data_dir)):
        add(data_dir, "ann", MINE)
