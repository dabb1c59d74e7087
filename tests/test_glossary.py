"""docs/glossary.md holds: what it says not to say is said in no document, no name and no message.

In the last column of its tables, `code` marks what occurs nowhere, and *italics* mark what occurs in no name of a
module or public class. Anything else there is advice to the reader.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = sorted((ROOT / "src" / "safelight").rglob("*.py"))
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")} - {GLOSSARY})

ROWS = re.findall(r"^\| (?!say \|)([^|]+?) \| ?([^|]*?) ?\| ?([^|]*?) ?\|$", GLOSSARY.read_text(), re.MULTILINE)
NOWHERE = [phrase for _, _, avoided in ROWS for phrase in re.findall(r"`([^`]+)`", avoided)]
NOT_IN_NAMES = {word for _, _, avoided in ROWS for word in re.findall(r"\*([^*]+)\*", avoided)} | {*NOWHERE}
_ANY = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in NOWHERE)
PHRASES = re.compile(rf"\b(?:{_ANY})(?:s|d|ed|ing)?\b", re.IGNORECASE)


def found(path: Path, texts: Iterator[tuple[int, str]]) -> list[str]:
    """`FILE:LINE: PHRASE` for each phrase of the last column in texts that begin at a line."""
    name = path.relative_to(ROOT)
    return [
        f"{name}:{line + text.count(chr(10), 0, match.start())}: {' '.join(match[0].split())}"
        for line, text in texts
        for match in PHRASES.finditer(text)
    ]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """What a module says: its strings, docstrings among them, and its comments, each with its line.

    A string of one word is a name, such as a field of a JSON document that other programs read.
    """
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def names(path: Path) -> Iterator[str]:
    """A module's name and those of its public classes."""
    yield path.parent.name if path.stem == "__init__" else path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_the_tables_are_read_and_contradict_each_other_nowhere() -> None:
    assert len(ROWS) > 60
    assert {"whoever", "in earnest", "errand"} <= {*NOWHERE}
    said = [word for say, _, _ in ROWS for word in say.split(", ")]
    assert len({*said}) == len(said), "a word has two meanings"
    assert not {*said} & NOT_IN_NAMES
    assert not [say for say, meaning, _ in ROWS if PHRASES.search(f"{say} {meaning}")]


def text_of(document: Path) -> str:
    """A document, without the names of fields in docs/json.md: programs read those since 0.1."""
    text = document.read_text()
    return re.sub(r"\"\w+\":|`\w+`", "``", text) if document.name == "json.md" else text


def test_documents_use_the_glossarys_words() -> None:
    wrong = [each for path in DOCUMENTS for each in found(path, iter([(1, text_of(path))]))]
    assert not wrong, "\n".join(wrong)


def test_modules_and_public_classes_use_the_glossarys_words() -> None:
    wrong = [f"{path}: {name}" for path in SOURCES for name in names(path) if words(name) & NOT_IN_NAMES]
    assert not wrong, "\n".join(wrong)


def test_messages_and_docstrings_use_the_glossarys_words() -> None:
    wrong = [each for path in SOURCES for each in found(path, prose(path))]
    assert not wrong, "\n".join(wrong)
