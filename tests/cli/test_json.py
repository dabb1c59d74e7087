"""Results for programs: docs/json.md shows the documents that the commands print."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commandline import safelight
from tests.mission.support import contents
from tests.running import Running

DOCUMENT = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
EXAMPLES = re.findall(r"^\$ safelight (.*)\n((?:.*\n)+?)```", DOCUMENT, re.MULTILINE)


def shape(value: Any) -> Any:
    """Field names and kinds of values; of a list, the first element's."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_documented_commands_print_what_the_document_shows(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    shutil.copy(photograph, tmp_path / "photo.png")
    assert len(EXAMPLES) >= 12
    for command, example in EXAMPLES:
        sealed = next(iter(contents(tmp_path / "images")), "")
        words = [
            word.replace("encrypted_photo_1795380272.png", sealed).replace("alice", "json-reader")
            for word in shlex.split(command)
        ]
        done = safelight(*words, config=shared_cluster.config, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        printed = json.loads(done.stdout.splitlines()[0] if "--jsonl" in words else done.stdout)
        assert shape(printed) == shape(json.loads(example)), command
        assert re.sub(r"[0-9]", "", str(printed.get("epoch", "1.3"))) == "."


def test_failures_are_results_too_and_stay_on_standard_error(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config = shared_cluster.config
    for output in ("--json", "--jsonl"):
        for files in (["missing.png"], ["missing.png", photograph]):
            done = safelight("upload", *files, "--user", "json-fails", output, config=config, cwd=tmp_path)
            assert (done.returncode, done.stderr) == (1, "safelight: 'missing.png' does not exist\n")
            lines = done.stdout.splitlines()
            results = json.loads(done.stdout)["results"] if output == "--json" else [json.loads(line) for line in lines]
            assert [each["status"] for each in results] == ["failed", "done"][: len(files)]
            assert results[0] == {"status": "failed", "file": "missing.png", "error": "'missing.png' does not exist"}
    done = safelight("get", "nosuch.png", "--user", "json-fails", "--json", config=config, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_the_history_is_one_line_for_each_result_newest_first(
    shared_cluster: Running, tmp_path: Path, photograph: Path
) -> None:
    config, user = shared_cluster.config, ("--user", "historian")
    assert safelight("history", *user, config=config, cwd=tmp_path).stdout == "nothing yet: upload an image\n"
    assert safelight("upload", photograph, *user, config=config, cwd=tmp_path).returncode == 0
    [sealed] = contents(tmp_path / "images")
    lines = f"get {photograph.name}\nget nosuch\nrm {sealed} --yes\nhistory\n"
    prompt = safelight("client", "historian", config=config, cwd=tmp_path, stdin=lines).stdout
    shown = safelight("history", *user, config=config, cwd=tmp_path).stdout
    assert prompt.endswith(f"historian> history\n{shown}")
    heading, *rows = shown.splitlines()
    assert heading.split() == ["TIME", "COMMAND", "NODE", "NAME", "FROM", "SAVED", "TO"]
    assert [row.split()[2] for row in rows] == ["rm", "get", "upload"]
    assert all(sealed in row for row in rows)
    assert rows[1].endswith(str(tmp_path / "decrypted" / photograph.name))
    [file] = config.client_dir.glob("results-historian.jsonl")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "holiday.png"])
def test_an_image_from_standard_input_is_like_one_from_a_file(
    shared_cluster: Running, tmp_path: Path, photograph: Path, name: str
) -> None:
    from tests.cli.test_surroundings import Shell

    shell = Shell(shared_cluster.config, tmp_path)
    user = f"piper-{len(name)}"
    options = f"--name {name}" if name else ""
    code, out, err = shell(f"cat {shlex.quote(str(photograph))} | $S upload - {options} --user {user} --json")
    assert (code, err) == (0, "")
    [result] = json.loads(out)["results"]
    original = name or "stdin.png"
    assert result["name"].startswith(f"encrypted_{original.removesuffix('.png')}_")
    code, out, err = shell(f"$S get {original} --user {user} --quiet")
    assert (code, out) == (0, f"decrypted/{original}\n")
    assert (tmp_path / "decrypted" / original).read_bytes() == photograph.read_bytes()


def test_standard_input_that_cannot_be_uploaded_is_one_line(shared_cluster: Running, tmp_path: Path) -> None:
    from tests.cli.test_surroundings import Shell

    shell = Shell(shared_cluster.config, tmp_path)
    for script, code, said in (
        ("true | $S upload - --user piper", 1, "'standard input' is empty"),
        ("echo text | $S upload - --user piper", 1, "'standard input' is not an image"),
        ("yes | $S upload - --any --max-image-size 1K --user piper", 1, "'standard input' is too large"),
        ("$S upload - a.png --user piper", 2, "give it as the only PATH"),
        ("$S upload a.png --name b.png --user piper", 2, "--name is for the image on standard input"),
        ("echo upload - | $S client piper", 1, ""),
    ):
        status, out, err = shell(script)
        assert (status, (out + err).count("\n") - ("piper> " in out)) == (code, 1), script
        assert said in out + err
    assert contents(tmp_path / "images") == []
