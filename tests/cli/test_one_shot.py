"""`upload`, `decrypt`, `status` and `token` against real nodes."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.commandline import safelight
from tests.running import Running


@pytest.fixture
def photos(tmp_path: Path, photograph: Path) -> list[Path]:
    return [Path(shutil.copy(photograph, tmp_path / name)) for name in ("one.png", "two pictures.png")]


def test_an_upload_decrypts_to_what_it_was(shared_cluster: Running, tmp_path: Path, photos: list[Path]) -> None:
    config = shared_cluster.config
    up = safelight("upload", *photos, "--user", "alice", "--quiet", config=config, cwd=tmp_path)
    assert (up.returncode, up.stderr) == (0, "")
    sealed = up.stdout.splitlines()
    assert [Path(path).parent for path in sealed] == [Path("images")] * 2
    down = safelight("decrypt", *sealed, "--user", "alice", "--to", "out", "--quiet", config=config, cwd=tmp_path)
    assert (down.returncode, down.stderr) == (0, "")
    opened = [tmp_path / path for path in down.stdout.splitlines()]
    assert [path.read_bytes() for path in opened] == [path.read_bytes() for path in photos]
    assert {path.parent for path in opened} == {tmp_path / "out"}


def test_what_is_made_of_a_private_file_is_private_too(
    shared_cluster: Running, tmp_path: Path, photos: list[Path]
) -> None:
    path, config = photos[0], shared_cluster.config
    path.chmod(0o600)
    for command, directory in (("upload", "sealed"), ("decrypt", "opened")):
        made = safelight(command, path, "--user", "alice", "--to", directory, "--quiet", config=config, cwd=tmp_path)
        path = tmp_path / made.stdout.rstrip("\n")
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_feedback_is_the_missions(shared_cluster: Running, tmp_path: Path, photos: list[Path]) -> None:
    newcomer = ("--user", "dora")  # whose names nobody has had: one that is taken is offered again, under the next
    done = safelight("upload", photos[0], *newcomer, config=shared_cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *feedback, saved = done.stdout.splitlines()
    assert feedback[0] == "Broadcasting..."
    assert set(feedback[1:3]) == {f"  - Server {n} declined: Node {n} is not the leader" for n in (1, 2)}
    assert feedback[3:] == ["  ✓ Leader (server 3) processed request", "  ✓ Kept in the vault", "✓ Success!"]
    assert (tmp_path / saved.removeprefix("Encrypted image saved to: ")).is_file()


def test_a_failure_does_not_stop_the_rest_but_shows_in_the_exit_code(
    shared_cluster: Running, tmp_path: Path, photos: list[Path]
) -> None:
    done = safelight(
        "upload", "missing.png", photos[0], "--user", "alice", "--quiet", config=shared_cluster.config, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr == "safelight: 'missing.png' does not exist\n"
    assert len(done.stdout.splitlines()) == 1


def test_an_opened_image_says_what_it_is_even_if_the_sealed_file_did_not(
    shared_cluster: Running, tmp_path: Path, photos: list[Path]
) -> None:
    config, alice = shared_cluster.config, ("--user", "alice", "--quiet")
    [made] = safelight("upload", photos[0], *alice, config=config, cwd=tmp_path).stdout.splitlines()
    names = ["photo.sealed", "photo", "photo.txt"]
    for name in names:
        shutil.copy(tmp_path / made, tmp_path / name)
    opened = ["decrypted_photo.png", "decrypted_photo-2.png", "decrypted_photo.txt"]
    for name, expected in zip(names, opened, strict=True):
        done = safelight("decrypt", name, *alice, config=config, cwd=tmp_path)
        assert done.stdout.splitlines() == [f"decrypted/{expected}"]
    assert sorted(path.name for path in (tmp_path / "decrypted").iterdir()) == sorted(opened)
    assert {path.read_bytes() for path in (tmp_path / "decrypted").iterdir()} == {photos[0].read_bytes()}


def test_an_error_of_the_cluster_names_the_file(shared_cluster: Running, tmp_path: Path, photos: list[Path]) -> None:
    config = shared_cluster.config
    [bobs] = safelight("upload", photos[0], "--user", "bob", "--quiet", config=config, cwd=tmp_path).stdout.splitlines()
    done = safelight("decrypt", bobs, "--user", "alice", config=config, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"safelight: {bobs}: ")
    assert done.stderr.count("\n") == 1


def test_a_classic_file_opens_only_as_one(shared_cluster: Running, tmp_path: Path, photos: list[Path]) -> None:
    config = shared_cluster.config
    classic = ("--user", "alice", "--scheme", "classic", "--quiet")
    told = safelight("upload", photos[0], *classic[:-1], config=config, cwd=tmp_path).stdout
    assert "Not kept in the vault: a classic file protects nothing" in told
    [made] = safelight("upload", photos[0], *classic, config=config, cwd=tmp_path).stdout.splitlines()
    assert (tmp_path / made).stat().st_size == 16 + photos[0].stat().st_size
    assert safelight("decrypt", made, "--user", "alice", config=config, cwd=tmp_path).returncode == 1
    assert not list(tmp_path.glob("decrypted/*"))
    assert safelight("decrypt", made, *classic, config=config, cwd=tmp_path).returncode == 0


def test_status_tells_who_leads_to_people_and_to_programs(shared_cluster: Running, tmp_path: Path) -> None:
    done = safelight("status", config=shared_cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:5] == ["NODE", "ADDRESS", "ROLE", "EPOCH", "LEADER"]
    assert [(row.split()[0], row.split()[2], row.split()[4]) for row in rows] == [
        ("1", "worker", "3"),
        ("2", "worker", "3"),
        ("3", "leader", "3"),
    ]
    done = safelight("status", "--json", config=shared_cluster.config, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["leader"] == 3
    assert [server["load"]["role"] for server in told["servers"]] == ["worker", "worker", "leader"]


def test_a_token_is_told_by_its_fingerprint(shared_cluster: Running, tmp_path: Path) -> None:
    done = safelight("token", "carol", config=shared_cluster.config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    [token] = shared_cluster.config.client_dir.glob("tokens/*/carol")
    assert done.stdout.strip() == hashlib.sha256(token.read_bytes().strip()).hexdigest()
