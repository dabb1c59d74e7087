"""`upload -`: the image on standard input.

It is copied to a temporary file without a name, so that a retry can send it again; nothing stays on the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from safelight.client.files.source_file import SourceFile, spool
from safelight.config import Config


def standard_input(config: Config, paths: Sequence[str], *, name: str | None, any_type: bool) -> SourceFile | None:
    """The image, if the only path is `-`. Raises CannotRead, and UsageError for a wrong combination.

    Call it outside the event loop: it waits for the end of the input, and Ctrl-C must end that.
    """
    if "-" not in paths:
        if name is not None:
            raise click.UsageError("--name is for the image on standard input: give - as the only PATH")
        return None
    if len(paths) > 1:
        raise click.UsageError("- stands for standard input: give it as the only PATH, or ./- for a file of that name")
    return spool(sys.stdin.buffer, "standard input", any_type=any_type, max_size=config.max_image_size)
