"""The conversation, with a session that only remembers what it was asked for."""

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from safelight.cli.output import console
from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user import repl
from safelight.cli.user.completion import completions
from safelight.cli.user.repl import Repl, prompt_commands
from safelight.cli.user.words import expand, split
from safelight.client.requests.feedback import Feedback
from safelight.client.session import Saved, Session
from safelight.errors import SafelightError
from safelight.local.cluster import ephemeral_config
from safelight.wire.messages import Scheme
from tests.running import GENEROUS


class Remembering:
    """Instead of a session: it succeeds, unless the file's name says otherwise."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.begun: Callable[[], None] = lambda: None

    async def seal(
        self, path: str, *, to: Path, scheme: Scheme, any_type: bool, keep: bool, feedback: Feedback, **_: object
    ) -> Saved:
        self.asked.append(("seal", path, str(to), scheme, any_type, keep))
        if path == "bad.png":
            raise SafelightError("'bad.png' does not exist")
        if path == "bug.png":
            raise ZeroDivisionError("oops")
        if path == "endless.png":
            self.begun()
            await asyncio.Event().wait()
        feedback.broadcasting()
        feedback.declined(1, "Node 1 is not the leader")
        feedback.unreachable(2, "connection refused")
        feedback.processed(3)
        return Saved(to / f"encrypted_{Path(path).stem}_1730738456.png", 3, 1)

    async def open(self, path: str, *, to: Path, scheme: Scheme, feedback: Feedback) -> Saved:
        self.asked.append(("open", path, str(to), scheme))
        if path == "bobs.png":
            raise SafelightError("This file is sealed for 'bob', not 'alice'")
        feedback.broadcasting()
        feedback.processed(3)
        return Saved(to / "decrypted_test_1730738456.png", 3, 1)


class Conversation:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.session = Remembering()
        self.config = ephemeral_config(directory)
        self.repl = Repl(self.config, cast("Session", self.session), ConsoleReporter(dialogue=True))
        self._capsys = capsys

    def say(self, line: str) -> bool:
        return asyncio.run(self.repl.execute(line))

    @property
    def answer(self) -> str:
        return self._capsys.readouterr().out


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Conversation:
    monkeypatch.chdir(tmp_path)
    return Conversation(tmp_path, capsys)


def test_an_upload_reads_as_the_mission_says(alice: Conversation) -> None:
    assert alice.say("upload test.png")
    assert alice.answer == (
        "Broadcasting...\n"
        "  - Server 1 declined: Node 1 is not the leader\n"
        "  - Server 2 unreachable: connection refused\n"
        "  ✓ Leader (server 3) processed request\n"
        "✓ Success!\n"
        "Encrypted image saved to: images/encrypted_test_1730738456.png\n"
    )


def test_a_decryption_reads_alike(alice: Conversation) -> None:
    assert alice.say("decrypt images/encrypted_test_1730738456.png")
    assert alice.answer.endswith("✓ Success!\nDecrypted image saved to: decrypted/decrypted_test_1730738456.png\n")


def test_options_reach_the_session(alice: Conversation) -> None:
    assert alice.say("upload a.png --scheme classic --any --no-keep --to out")
    assert alice.say("decrypt a.bin --scheme classic --to 'my out'")
    assert alice.session.asked == [
        ("seal", "a.png", "out", Scheme.CLASSIC, True, False),
        ("open", "a.bin", "my out", Scheme.CLASSIC),
    ]


def test_several_paths_quotes_home_and_patterns(alice: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    for name in ("b 2.png", "b 1.png", "[c].png", "c.png"):
        Path(name).touch()
    Path("b 3.png").mkdir()
    assert alice.say("upload 'my photo.png' ~/x.png b*.png [c].png")
    assert [asked[1] for asked in alice.session.asked] == [
        "my photo.png",
        "/home/alice/x.png",
        "b 1.png",
        "b 2.png",
        "[c].png",
    ]


def test_what_exists_is_meant_before_any_pattern(alice: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("home [1]").absolute()
    monkeypatch.setenv("HOME", str(home))
    for folder in ("home [1]", "home 1", "my[1]", "my1"):
        Path(folder).mkdir()
        for name in ("x1.png", "x2.png", "x[1].png"):
            (Path(folder) / name).touch()
    assert alice.say("upload my[1]/x?.png my*/x[1].png ~/*1.png")
    assert [asked[1] for asked in alice.session.asked] == [
        "my[1]/x1.png",
        "my[1]/x2.png",
        "my1/x[1].png",
        "my[1]/x[1].png",
        f"{home}/x1.png",
    ]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("uplaod x.png", "✗ there is no command 'uplaod'; did you mean upload?\n"),
        ("STATUS", "✗ there is no command 'STATUS'; did you mean status?\n"),
        ("frobnicate", "✗ there is no command 'frobnicate'; help lists all there are\n"),
        ("upload 'x.png", "✗ a quote is not closed; write a path with spaces as 'my photo.png'\n"),
        ("upload x\\", "✗ nothing follows the last backslash; write a path with spaces as 'my photo.png'\n"),
        ("upload *.gif", "✗ no file matches '*.gif'\n"),
        ("upload bad.png", "✗ 'bad.png' does not exist\n"),
        ("quit now", "✗ quit takes nothing after it\n"),
    ],
)
def test_an_error_is_one_line_and_the_conversation_goes_on(alice: Conversation, line: str, answer: str) -> None:
    assert not alice.say(line)
    assert alice.answer == answer
    assert not alice.repl.done
    assert alice.say("help")


@pytest.mark.parametrize(
    "line", ["upload", "upload x --frob", "decrypt --to", "upload x --scheme rot13", "upload bug.png"]
)
def test_nothing_ends_the_conversation_but_quit(alice: Conversation, line: str) -> None:
    assert not alice.say(line)
    answer = alice.answer
    assert answer.startswith("✗ ")
    assert answer.count("\n") == 1
    assert not alice.repl.done
    assert alice.say("exit")
    assert alice.repl.done


def test_one_bad_file_does_not_keep_the_others_from_being_uploaded(alice: Conversation) -> None:
    assert not alice.say("upload bad.png good.png")
    assert [asked[1] for asked in alice.session.asked] == ["bad.png", "good.png"]
    assert "encrypted_good" in alice.answer


def test_of_several_files_each_is_named_and_all_are_counted(alice: Conversation) -> None:
    assert not alice.say("decrypt one.png bobs.png two.png")
    lines = alice.answer.splitlines()
    assert [line.split()[1].removesuffix(":") for line in lines[:-1]] == ["one.png", "bobs.png", "two.png"]
    assert "✗ bobs.png: This file is sealed for 'bob', not 'alice'" in lines
    assert lines[-1] == "2 done, 1 failed"


def test_a_path_with_spaces_that_was_not_quoted_is_recognised(alice: Conversation) -> None:
    Path("my pics").mkdir()
    Path("my pics/summer 1.jpg").touch()
    assert not alice.say("upload my pics/summer 1.jpg")
    assert alice.answer == "✗ a path with spaces needs quotes: 'my pics/summer 1.jpg'\n"
    assert not alice.say("upload my pics")
    hint = alice.answer.removeprefix("✗ a path with spaces needs quotes: ").strip()
    assert alice.session.asked == []
    assert alice.say(f"upload {hint}")
    assert alice.session.asked[0][1] == "my pics/summer 1.jpg"


@pytest.mark.parametrize("line", ["", "   ", "# upload x.png", "  #"])
def test_an_empty_line_and_a_comment_are_nothing(alice: Conversation, line: str) -> None:
    assert alice.say(line)
    assert (alice.answer, alice.session.asked) == ("", [])


def test_help_tells_of_every_command_and_more_of_those_with_options(alice: Conversation) -> None:
    alice.say("help")
    answer = alice.answer
    assert all(name in answer for name in prompt_commands.commands)
    alice.say("help upload")
    more = alice.answer
    alice.say("upload --help")
    assert more == alice.answer
    assert "--scheme" in more


def test_what_nodes_say_does_not_cut_an_answer_in_two(capfd: pytest.CaptureFixture[str]) -> None:
    async def answer() -> None:
        transcript = ConsoleReporter(dialogue=True)
        with transcript.answer():
            transcript.node(1, "Encrypted an image")
            assert capfd.readouterr().err == ""
        assert capfd.readouterr().err == "Node 1: Encrypted an image\n"

    asyncio.run(answer())


def test_what_nodes_say_in_a_long_answer_is_not_held_back_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "ASIDE", 0.01)

    async def answer() -> None:
        transcript, shown = ConsoleReporter(dialogue=True), asyncio.Event()
        monkeypatch.setattr(transcript._moving, "print", lambda line: shown.set())
        with transcript.answer():
            transcript.node(1, "Leader 3 is DOWN!")
            await asyncio.wait_for(shown.wait(), GENEROUS)

    asyncio.run(answer())


def test_what_comes_from_a_server_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter(dialogue=True).declined(1, "\x1b[2J\x07 gone\r\n\u202egnp")
    out = capsys.readouterr().out
    assert not set("\x1b\x07\r\u202e") & set(out)
    assert out.count("\n") == 1


# -- completion --


def completed(line: str) -> list[str]:
    """The lines that Tab can make of `line`."""
    return [line[: len(line) - length] + text for text, _, length in completions(prompt_commands, line)]


def test_commands_complete() -> None:
    assert completed("up") == ["upload "]
    assert set(completed("")) == {f"{name} " for name in prompt_commands.commands}
    assert completed("frob") == []


def test_names_of_listed_images_and_of_their_originals_complete() -> None:
    listed = {"encrypted_my photo_1.png": "my photo.png", "encrypted_x_2.png": "x.png"}

    def texts(line: str) -> list[str]:
        return [text for text, _, _ in completions(prompt_commands, line, listed)]

    assert texts("rm encrypted_m") == ["'encrypted_my photo_1.png' "]
    assert texts("get m") == ["'my photo.png' "]
    assert texts("ls x") == ["x.png "]
    assert texts("get --s") == ["--sealed "]


def test_options_complete() -> None:
    assert completed("upload x --s") == ["upload x --scheme "]
    assert completed("upload x --scheme c") == ["upload x --scheme classic "]
    assert completed("status --s") == []


@pytest.mark.parametrize("typed", ["my", "'my", '"my', "my\\ p", "my\\"])
def test_a_path_with_spaces_completes_to_one_word(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my photo.png").touch()
    [line] = completed(f"upload {typed}")
    assert split(line) == ["upload", "my photo.png"]


def test_a_completed_directory_can_be_completed_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my photos/it's").mkdir(parents=True)
    Path("my photos/it's/a.png").touch()
    Path("my photos/.hidden").touch()
    line = "upload my"
    for _ in range(3):
        [line] = completed(line)
    assert split(line) == ["upload", "my photos/it's/a.png"]


def test_home_completes_and_still_means_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b.png").touch()
    [line] = completed("upload ~/a")
    assert expand(split(line)[1:]) == [str(tmp_path / "a b.png")]


def test_only_directories_complete_after_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out.png").touch()
    assert completed("decrypt x --to o") == ["decrypt x --to out/"]
    assert set(completed("decrypt o")) == {"decrypt out/", "decrypt out.png "}


@pytest.mark.parametrize("name", ["a'b.png", 'a"b.png', "a\\b.png", "a$b.png", "-a.png", "ä ö.png"])
def test_any_name_survives_completion(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    [line] = completed("upload ./")
    assert shlex.split(line) == ["upload", f"./{name}"]


# -- keys --


@pytest.fixture
def keys(alice: Conversation) -> Callable[..., None]:
    """Type into alice's prompt, and `meanwhile` once endless.png is on its way; all of it ends with Ctrl-D."""

    def type_(text: str, *, meanwhile: str = "") -> None:
        async def converse() -> None:
            with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
                alice.session.begun = lambda: typed.send_text(meanwhile)
                typed.send_text(text + "\x04")
                await repl._on_terminal(alice.repl, alice.config, "alice", ConsoleReporter(dialogue=True))

        asyncio.run(converse())

    return type_


def test_tab_goes_on_where_the_last_one_ended(alice: Conversation, keys: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "my pics").mkdir()
    (tmp_path / "my pics" / "summer 1.jpg").touch()
    keys("upload my\t\t\n")
    assert [asked[1] for asked in alice.session.asked] == ["my pics/summer 1.jpg"]


def test_ctrl_c_is_a_key_while_a_command_runs_too(alice: Conversation, keys: Callable[..., None]) -> None:
    keys("upload endless.png\nupload next.png\n", meanwhile="\x03")
    assert [asked[1] for asked in alice.session.asked] == ["endless.png", "next.png"]
    assert "stopped by Ctrl-C" in alice.answer


def test_ctrl_c_clears_the_line_and_ctrl_d_leaves(alice: Conversation, keys: Callable[..., None]) -> None:
    keys("upload wrong.png\x03upload right.png\n")
    assert [asked[1] for asked in alice.session.asked] == ["right.png"]


def test_the_history_is_kept_for_the_next_time_and_from_others(alice: Conversation, keys: Callable[..., None]) -> None:
    keys("upload first.png\n")
    assert (alice.config.client_dir / "history-alice").stat().st_mode & 0o777 == 0o600
    keys("\x1b[A\n")
    assert [asked[1] for asked in alice.session.asked] == ["first.png", "first.png"]
