"""JSON for programs, and the results of operators' commands. docs/json.md shows every shape."""

from __future__ import annotations

import json
from typing import Any, Self

import click
import msgspec

from safelight import timestamps


class Outcome(str):
    """What a command did: in words, and as a document."""

    document: dict[str, Any]

    @classmethod
    def of(cls, text: str, **document: Any) -> Self:
        outcome = cls(text)
        outcome.document = document
        return outcome

    def show(self, output: str | None) -> None:
        """Print the words, or for "json" the document."""
        click.echo(str(self)) if output is None else show_document(self.document)


def encode(value: Any) -> bytes:
    """`value` (structs, decimals and dates included) as one line of JSON.

    A name that is not UTF-8 keeps its bytes: each is an escaped lone surrogate, as in Python (PEP 383).
    """
    try:
        return timestamps.to_json(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def show_document(value: Any) -> None:
    """Print `value` as one indented JSON document."""
    click.echo(msgspec.json.format(encode(value), indent=2))


def show_lines(values: list[Any]) -> None:
    """Print each value as one line of JSON."""
    click.echo(b"".join(encode(value) + b"\n" for value in values), nl=False)
