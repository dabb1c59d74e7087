"""The vault from the command line and from the REPL, against real nodes."""

from __future__ import annotations

import asyncio
import filecmp
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user.bulk import Remove
from safelight.client.session import Session
from safelight.local.cluster import environment
from tests.cli.commandline import COMMAND, Terminal, safelight, started
from tests.mission.support import contents, image_of, seal
from tests.running import GENEROUS, Running, as_user

LONG_AGO = 1_000_000_000_123_456_000  # nanoseconds: in 2001, with a fraction


@pytest.fixture
def photo(tmp_path: Path, photograph: Path) -> Path:
    path = tmp_path / "my photo.png"
    shutil.copy(photograph, path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def listed(cluster: Running, user: str) -> list[str]:
    async def names(session: Session) -> list[str]:
        return [image.name async for page in session.images.all() for image in page]

    return as_user(cluster.config, user, names)


def test_a_newcomers_session(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    commands = ["ls", "upload 'my photo.png'", "ls", "get 'my photo.png'", "rm 'my photo.png' --yes", "ls"]
    done = safelight("client", "newcomer", config=shared_cluster.config, cwd=tmp_path, stdin="\n".join(commands))
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [answer.partition("\n")[2] for answer in done.stdout.split("newcomer> ")[1:]]
    nothing, uploaded, listing, got, removed, nothing_again = answers
    assert nothing == nothing_again == "the vault has no images of yours: upload one\n"
    assert "  ✓ Kept in the vault\n" in uploaded
    [name] = contents(tmp_path / "images")
    assert listing.splitlines()[1].startswith(f"{name}  image/png")
    assert listing.splitlines()[1].endswith("  my photo.png")
    assert got.endswith("✓ Success!\nDecrypted image saved to: decrypted/my photo.png\n")
    assert f"✓ {name} removed" in removed
    assert filecmp.cmp(photo, tmp_path / "decrypted" / "my photo.png", shallow=False)
    assert (tmp_path / "decrypted" / "my photo.png").stat().st_mtime_ns == LONG_AGO
    assert contents(tmp_path / "images") == [name]  # what is on this machine stays


def test_nothing_is_overwritten_without_force(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config, user = shared_cluster.config, ("--user", "careful", "--quiet")
    seal(config, photo, tmp_path / "images", "careful")
    precious = tmp_path / "out" / "my photo.png"
    precious.parent.mkdir()
    precious.write_text("precious")
    for arguments, code in ((["my photo.png"], 1), (["my*"], 0), (["my photo.png", "--force"], 0)):
        done = safelight("get", *arguments, "--to", "out", *user, config=config, cwd=tmp_path)
        assert done.returncode == code
        if code:
            assert "'out/my photo.png' exists: give --force" in done.stderr
            assert done.stderr.count("\n") == 1
        if "--force" not in arguments:
            assert precious.read_text() == "precious"
    assert filecmp.cmp(precious, photo, shallow=False)
    assert contents(tmp_path / "out") == ["my photo-2.png", "my photo.png"]


def test_images_of_one_name_get_files_of_their_own_and_a_second_run_finds_them(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "twins", "--quiet")
    (tmp_path / "trip").mkdir()
    other = image_of(5000, tmp_path / "trip" / "my photo.png", photo)
    safelight("upload", photo, other, *user, config=config, cwd=tmp_path)
    done = safelight("get", "*", *user, config=config, cwd=tmp_path)
    made = [tmp_path / "decrypted" / name for name in ("my photo-2.png", "my photo.png")]
    assert sorted(done.stdout.splitlines()) == [str(path.relative_to(tmp_path)) for path in made]
    assert {path.read_bytes() for path in made} == {photo.read_bytes(), other.read_bytes()}
    made[0].unlink()
    again = safelight("get", "*", *user, config=config, cwd=tmp_path)
    assert again.stdout.splitlines() == ["decrypted/my photo-2.png"]
    done = safelight("get", "my photo.png", *user, config=config, cwd=tmp_path)
    assert done.returncode == 1
    assert "several images were made from 'my photo.png'" in done.stderr


def test_images_that_only_their_bytes_tell_apart_all_arrive(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "look-alikes")
    icons = {}
    for number, name in enumerate(("icon.png", "icon.png", "icon-2.png", "ICON.png")):
        (tmp_path / str(number)).mkdir()
        path = image_of(5000, tmp_path / str(number) / name, photo)
        path.write_bytes(path.read_bytes()[:-1] + bytes([number]))
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        icons[path] = path.read_bytes()

    def get(pattern: str) -> str:
        done = safelight("get", pattern, "--to", "out", *user, config=config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def out() -> list[bytes]:
        return sorted(path.read_bytes() for path in (tmp_path / "out").iterdir())

    first, second, third, fourth = icons
    names = {path: seal(config, path, tmp_path / "images", "look-alikes").path.name for path in (first, third)}
    assert get("*") == "2 done, 0 failed"
    names[second] = seal(config, second, tmp_path / "images", "look-alikes").path.name
    assert get(f"{names[second][:-1]}?") == "1 done, 0 failed"  # a pattern that matches the new one only
    assert out() == sorted([icons[first], icons[second], icons[third]])
    names[fourth] = seal(config, fourth, tmp_path / "images", "look-alikes").path.name
    assert get("*") == "1 done, 3 there already, 0 failed"
    assert out() == sorted(icons.values())
    assert get("*") == "0 done, 4 there already, 0 failed"
    (tmp_path / "out" / "icon.png").unlink()
    assert get("*") == "1 done, 3 there already, 0 failed"
    assert out() == sorted(icons.values())


def test_the_sealed_file_that_the_vault_keeps_is_the_one_that_came_back(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "sealer", "--quiet")
    made = seal(config, photo, tmp_path / "images", "sealer").path
    done = safelight("get", made.name, "--sealed", "--to", "again", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(made, tmp_path / "again" / made.name, shallow=False)
    told = safelight("info", made, config=config, cwd=tmp_path)
    assert told.returncode == 0
    assert "sealer" in told.stdout
    assert f"{photo.stat().st_size:,} bytes" in told.stdout


def test_what_is_not_to_be_kept_is_not(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config, user = shared_cluster.config, ("--user", "discreet")
    for options in (["--no-keep"], ["--scheme", "classic"]):
        done = safelight("upload", photo, *options, *user, config=config, cwd=tmp_path)
        assert done.returncode == 0
        assert "✓ Kept" not in done.stdout
    assert listed(shared_cluster, "discreet") == []


def test_nothing_is_removed_unless_somebody_means_it(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config, user = shared_cluster.config, ("--user", "remover")
    for _ in range(3):
        seal(config, photo, tmp_path / "images", "remover")
    done = safelight("rm", "*", *user, config=config, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--yes" in done.stderr
    assert len(listed(shared_cluster, "remover")) == 3
    with ExitStack() as stack:
        for arguments in (["rm", "*", *user], ["client", "remover"]):
            terminal = Terminal(*arguments, config=config, cwd=tmp_path)
            stack.callback(terminal.close)
            if arguments[0] == "client":
                terminal.wait_for("remover>")
                terminal.type("rm *\r")
            terminal.wait_for("Remove these 3 images from the vault, permanently?")
            assert contents(tmp_path / "images")[0] in terminal.seen
            terminal.type("n\r")
            terminal.wait_for("nothing was removed")
        terminal = Terminal("rm", "*", *user, config=config, cwd=tmp_path)
        stack.callback(terminal.close)
        terminal.wait_for("permanently?")
        terminal.interrupt()
        assert terminal.end() == 130
    assert len(listed(shared_cluster, "remover")) == 3
    done = safelight("rm", "*", "--yes", "--pattern", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0
    assert listed(shared_cluster, "remover") == []


LITERAL = {  # a name that is also a pattern, and a name that this pattern matches
    "photo [1].png": "photo 1.png",
    "a*.png": "abc.png",
    "what?.png": "what!.png",
    "[!a].png": "b.png",
    "back\\*.png": "back\\slash.png",
    "[a-c]]*[.png": "b]x[.png",
    "[" * 120 + "x]*": "[" * 120 + "x]y",  # longer than any name, if it were escaped
}


@pytest.mark.parametrize(("literal", "other"), LITERAL.items(), ids=[name[:9] for name in LITERAL])
def test_a_word_is_a_pattern_only_if_nothing_has_exactly_this_name(
    shared_cluster: Running, tmp_path: Path, photo: Path, literal: str, other: str
) -> None:
    config, name = shared_cluster.config, f"literal{[*LITERAL].index(literal)}"
    user = ("--user", name)
    images = {each: seal(config, image_of(5000 + size, tmp_path / each, photo), tmp_path / "images", name)
              for size, each in enumerate((literal, other))}  # fmt: skip
    done = safelight("get", literal, *user, "--quiet", config=config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"decrypted/{literal}\n"
    assert filecmp.cmp(tmp_path / "decrypted" / literal, tmp_path / literal, shallow=False)
    table = safelight("ls", literal, *user, config=config, cwd=tmp_path).stdout.splitlines()[1:]
    assert [line.endswith(f"  {literal}") for line in table] == [True]
    assert safelight("client", name, config=config, cwd=tmp_path, stdin=f"rm '{literal}' --yes\n").returncode == 0
    assert listed(shared_cluster, name) == [images[other].path.name]
    done = safelight("rm", literal, "--yes", *user, config=config, cwd=tmp_path)  # a pattern now
    assert done.returncode == 1
    assert "--pattern" in done.stderr
    assert listed(shared_cluster, name) == [images[other].path.name]


def test_of_two_images_from_files_of_one_name_neither_that_name_nor_its_pattern_is_taken(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "doubtful")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        seal(config, image_of(5000, tmp_path / folder / "[1].png", photo), tmp_path / "images", "doubtful")
    seal(config, image_of(5000, tmp_path / "1.png", photo), tmp_path / "images", "doubtful")
    for command in (["rm", "[1].png", "--yes", "--pattern"], ["get", "[1].png"], ["get", "[1].png", "1.png"]):
        done = safelight(*command, *user, config=config, cwd=tmp_path)
        assert done.returncode == 1
        assert "several images were made from '[1].png': say which, by a name that `ls '[1].png'` shows" in done.stderr
    table = safelight("ls", "[1].png", *user, config=config, cwd=tmp_path).stdout.splitlines()[1:]
    assert [line.endswith("  [1].png") for line in table] == [True, True]
    assert len(listed(shared_cluster, "doubtful")) == 3


def test_a_name_of_an_image_goes_before_the_name_of_a_file(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "namesake")
    first = seal(config, photo, tmp_path / "images", "namesake").path.name
    seal(config, image_of(5000, tmp_path / first, photo), tmp_path / "images", "namesake")  # from a file of that name
    assert safelight("rm", first, "--yes", *user, config=config, cwd=tmp_path).returncode == 0
    [left] = listed(shared_cluster, "namesake")
    assert left != first
    assert len(safelight("ls", first, *user, config=config, cwd=tmp_path).stdout.splitlines()) == 2
    assert safelight("rm", first, "--yes", *user, config=config, cwd=tmp_path).returncode == 0  # now it is the file's
    assert listed(shared_cluster, "namesake") == []


def test_a_pattern_removes_what_was_listed_by_name_and_nothing_else(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "lister")
    named = [seal(config, photo, tmp_path / "images", "lister").path.name for _ in range(12)]
    done = safelight("rm", "*.png", "--yes", *user, config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    *lines, refusal = done.stderr.splitlines()
    assert sorted(line.strip().partition("  (from ")[0] for line in lines) == sorted(named)
    assert refusal.startswith("safelight: --yes does not confirm a pattern, as '*.png' is: nothing was removed;")
    assert "the 12 images listed" in refusal
    with ExitStack() as stack:
        terminal = Terminal("rm", "*.png", *user, config=config, cwd=tmp_path)
        stack.callback(terminal.close)
        terminal.wait_for("Remove these 12 images from the vault, permanently?")
        assert all(name in terminal.seen for name in named)
        late = seal(config, photo, tmp_path / "images", "lister").path.name
        terminal.type("y\r")
        terminal.wait_for("12 removed, 0 failed")
    assert listed(shared_cluster, "lister") == [late]
    done = safelight("rm", "*", "--yes", "--pattern", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0
    assert late in done.stderr
    assert listed(shared_cluster, "lister") == []


@pytest.mark.parametrize("word", [os.fsdecode(b"caf\xe9*.png"), os.fsdecode(b"caf\xe9.png"), "", "x" * 300, "a/*"])
def test_a_word_that_no_image_can_have_is_one_line(shared_cluster: Running, tmp_path: Path, word: str) -> None:
    for command in (["get", word], ["rm", word, "--yes"], ["ls", word]):
        done = safelight(*command, "--user", "nameless", config=shared_cluster.config, cwd=tmp_path)
        assert done.returncode == (0 if command[0] == "ls" else 1)
        said = done.stdout if command[0] == "ls" else done.stderr
        assert (said.count("\n"), said.removeprefix("safelight: ").startswith("no image ")) == (1, True)


def test_two_who_remove_the_same_at_once_both_have_it_removed(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    names = [seal(shared_cluster.config, photo, tmp_path / "images", "pair").path.name for _ in range(8)]

    async def remove(session: Session) -> list[bool]:
        commands = [Remove(session, ConsoleReporter(dialogue=True)) for _ in range(2)]
        return await asyncio.gather(*(command.run(names) for command in commands))

    assert as_user(shared_cluster.config, "pair", remove) == [True, True]
    assert listed(shared_cluster, "pair") == []


def test_other_peoples_images_are_as_if_there_were_none(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config = shared_cluster.config
    seal(config, photo, tmp_path / "images", "owner")
    [name] = listed(shared_cluster, "owner")
    for command in (["get", name], ["rm", name, "--yes"]):
        done = safelight(*command, "--user", "stranger", config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, f"safelight: no image is called {name!r}: see `ls`\n")
    assert listed(shared_cluster, "stranger") == []
    assert listed(shared_cluster, "owner") == [name]
    assert not (tmp_path / "decrypted").exists()


@pytest.fixture
def album(tmp_path: Path, photograph: Path) -> Path:
    """Sixty images in two folders, and what is none."""
    for number in range(60):
        path = tmp_path / "album" / f"{number % 2}" / f"{number // 2:02}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        image_of(200_000 + number, path, photograph)
    (tmp_path / "album" / "notes.txt").write_text("no image")
    (tmp_path / "album" / ".hidden.png").write_bytes(photograph.read_bytes())
    return tmp_path / "album"


def test_an_interrupted_upload_of_a_directory_goes_on_and_does_nothing_twice(
    shared_cluster: Running, tmp_path: Path, album: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "collector")
    with started("upload", "album", *user, config=config, cwd=tmp_path) as it:
        it.wait_for("✓")
        it.process.kill()
        it.end()
    assert contents(tmp_path / "images")
    done = safelight("upload", "album", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = done.stdout.splitlines()[-1]
    before = int(summary.partition(" done before")[0].rpartition(" ")[2])
    assert 0 < before < 60
    assert summary.startswith(f"{60 - before} done and kept in the vault")
    assert summary.endswith("2 skipped (1 hidden, 1 not an image), 0 failed")
    assert len(listed(shared_cluster, "collector")) == 60
    assert len([name for name in contents(tmp_path / "images") if not name.startswith(".")]) == 60
    safelight("get", "*", *user, config=config, cwd=tmp_path)
    got = sorted(path.read_bytes() for path in (tmp_path / "decrypted").iterdir())
    assert got == sorted(path.read_bytes() for path in album.glob("?/*.png"))


def test_what_was_removed_or_changed_since_is_uploaded_again(
    shared_cluster: Running, tmp_path: Path, album: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "changer")
    shutil.rmtree(album / "1")
    assert safelight("upload", "album", *user, config=config, cwd=tmp_path).returncode == 0
    names = listed(shared_cluster, "changer")
    safelight("rm", names[0], names[1], "--yes", *user, config=config, cwd=tmp_path)
    with (album / "0" / "07.png").open("ab") as file:
        file.write(b"more")
    again = safelight("upload", "album", *user, config=config, cwd=tmp_path).stdout.splitlines()
    assert len([line for line in again if line.startswith("✓")]) in (
        2,
        3,
    )  # one of those removed may be the changed one
    assert again[-1].startswith(f"{len(again) - 1} done and kept in the vault")


def test_an_upload_that_is_not_to_be_kept_works_as_ever(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config, user = shared_cluster.config, ("--user", "keepless")
    done = safelight("upload", photo, "--no-keep", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0
    assert "vault" not in done.stdout
    (sealed,) = contents(tmp_path / "images")
    done = safelight("decrypt", f"images/{sealed}", "--to", "opened", *user, config=config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (opened,) = contents(tmp_path / "opened")
    assert filecmp.cmp(photo, tmp_path / "opened" / opened, shallow=False)
    for command in (["get", sealed], ["rm", sealed, "--yes"]):
        done = safelight(*command, *user, config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert listed(shared_cluster, "keepless") == []


def test_a_name_that_several_images_have_is_asked_about_or_listed(
    shared_cluster: Running, tmp_path: Path, photo: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "asked")
    newest_first = [seal(config, photo, tmp_path / "images", "asked").path.name for _ in range(3)][::-1]
    for command in (["get", "my photo.png"], ["rm", "my photo.png", "--yes"]):
        done = safelight(*command, *user, config=config, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.endswith(f"shows: {', '.join(newest_first)} (newest first)\n")
    with ExitStack() as stack:
        for command, answer, said in (
            (["get", "my photo.png"], "2\r", "Decrypted image saved to: decrypted/my photo.png"),
            (["get", "my photo.png", "--to", "no"], "7\r", "type a number from 1 to 3"),
            (["rm", "my photo.png"], "\r", "Remove this image"),
        ):
            terminal = Terminal(*command, *user, config=config, cwd=tmp_path)
            stack.callback(terminal.close)
            terminal.wait_for("Which one?")
            assert all(name in terminal.seen for name in newest_first)
            terminal.type(answer)
            terminal.wait_for(said)
        assert newest_first[0] in terminal.seen
        terminal.type("y\r")
        terminal.wait_for("1 removed")
    assert listed(shared_cluster, "asked") == newest_first[1:]


def test_a_mistyped_name_gets_a_suggestion(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config, user = shared_cluster.config, ("--user", "typist")
    seal(config, photo, tmp_path / "images", "typist")
    for command in (["get", "my foto.png"], ["rm", "my foto.png", "--yes"]):
        done = safelight(*command, *user, config=config, cwd=tmp_path)
        said = "no image is called 'my foto.png': did you mean 'my photo.png'?"
        assert (done.returncode, done.stderr) == (1, f"safelight: {said}\n")
    done = safelight("get", "zebra", *user, config=config, cwd=tmp_path)
    assert done.stderr == "safelight: no image is called 'zebra': see `ls`\n"


def test_a_shell_completes_names_and_original_names(shared_cluster: Running, tmp_path: Path, photo: Path) -> None:
    config = shared_cluster.config
    name = seal(config, image_of(5000, tmp_path / "enigma.png", photo), tmp_path / "images", "tab").path.name
    words = {"_SAFELIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "safelight get --user tab en", "COMP_CWORD": "4"}
    done = subprocess.run([*COMMAND], env=environment(config) | words, capture_output=True, text=True, timeout=GENEROUS)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {name, "enigma.png"}
