"""What Tab completes at the prompt: commands, options, paths, and the names of images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import click

OF_VAULT = ("ls", "get", "rm")


def completions(
    commands: click.Group, line: str, images: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, str, int]]:
    """For the line up to the cursor: (text to insert, text to show, number of characters that it replaces).

    `images`: names of images, with the names of their original files.
    """
    raw, word, before = _last_word(line)
    if not before:
        yield from ((name + " ", name, len(raw)) for name in commands.commands if name.startswith(word))
        return
    if (command := commands.commands.get(before[0])) is None:
        return
    options = {name: each for each in command.params if isinstance(each, click.Option) for name in each.opts}
    if word.startswith("-"):
        yield from ((name + " ", name, len(raw)) for name in options if name.startswith(word))
    elif (option := options.get(before[-1])) is not None and isinstance(option.type, click.Choice):
        yield from ((f"{each} ", each, len(raw)) for each in option.type.choices if each.startswith(word))
    elif before[0] in OF_VAULT and before[-1] != "--to":
        names = dict.fromkeys([*images, *images.values()])
        yield from ((shlex.quote(name) + " ", name, len(raw)) for name in names if name and name.startswith(word))
    elif command.params:
        yield from ((text, label, len(raw)) for text, label in _paths(word, directories=before[-1] == "--to"))


def _last_word(line: str) -> tuple[str, str, list[str]]:
    """The word at the cursor, as typed (a quote may be open) and as a shell reads it, and the words before it."""
    start, quote, escaped = 0, "", False
    for position, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start = position + 1
    raw = line[start:]
    closed = raw.removesuffix("\\") if escaped else raw
    return raw, "".join(shlex.split(closed + quote)), shlex.split(line[:start])


def _paths(word: str, *, directories: bool) -> Iterator[tuple[str, str]]:
    folder, _, prefix = word.rpartition("/")
    parent = folder + "/" if "/" in word else ""
    try:
        with os.scandir(os.path.expanduser(parent) or ".") as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.is_file())
    except OSError:
        return
    for name, is_directory in found:
        hidden = name.startswith(".") and not prefix.startswith(".")
        if hidden or not name.startswith(prefix) or (directories and not is_directory):
            continue
        if is_directory:  # the quote stays open for the rest of the path
            yield _quoted(parent + name + "/").removesuffix("'"), name + "/"
        else:
            yield _quoted(parent + name) + " ", name


def _quoted(path: str) -> str:
    home, slash, rest = path.partition("/")
    if home.startswith("~") and slash:
        return home + slash + (shlex.quote(rest) if rest else "")
    return shlex.quote(path)
