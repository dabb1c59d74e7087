"""The commands of a user, declared once: names, arguments, options and help.

`safelight` adds the configuration's options to them; the prompt uses them as they are. `Commands` implements each
under the same name, with the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safelight.cli.user.shell_completion import image_names

if TYPE_CHECKING:
    pass

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


def stacked(*decorators: Decorator) -> Decorator:
    """One decorator for many; the first is the outermost."""
    return lambda function: reduce(lambda inner, each: each(inner), reversed(decorators), function)


json_option = click.option("--json", "output", flag_value="json", help="Print the result as one JSON document.")
jsonl_option = click.option("--jsonl", "output", flag_value="jsonl", help="Print one JSON object per line, at once.")
_quiet = click.option("--quiet", "output", flag_value="quiet", help="Print only the paths of new files.")
_as_json = stacked(json_option, jsonl_option)
_directory = click.Path(path_type=Path)
_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
_names = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=image_names)
_scheme = click.option(
    "--scheme",
    type=click.Choice(["sealed", "classic"]),
    default="sealed",
    show_default=True,
    help="'classic' is AES-128-CTR with the SHA-256 of the user name as key: for teaching. It protects nothing.",
)


def _to(default: str, what: str) -> Decorator:
    return click.option(
        "--to", type=_directory, default=default, show_default=True, help=f"Directory for the {what} files."
    )


user_commands = click.Group("safelight")
"""Every command of a user that works the same on the command line and at the prompt."""


@user_commands.command()
@_paths
@_to("images", "encrypted")
@_scheme
@click.option("--any", "any_type", is_flag=True, help="Encrypt files that are not images, too.")
@click.option("--no-keep", is_flag=True, help="Do not store the images in the vault.")
@click.option("--follow-links", is_flag=True, help="Enter directories behind symbolic links, each once.")
@click.option("--name", metavar="NAME", help="Original name of what 'upload -' reads, if not stdin.TYPE.")
@_quiet
@_as_json
def upload() -> None:
    """Encrypt images and store them in the vault.

    A PATH that is a directory stands for every image in it, at any depth. If an upload of a directory is interrupted,
    run it again: it skips the images that are done. It also skips hidden files, files that are not images (unless you
    give --any), encrypted files and the directory --to, and reports each with the reason.

    If PATH is -, the image comes from standard input.

    One failure does not stop the others. The exit code is 0 if every upload succeeds.
    """


@user_commands.command()
@_paths
@_to("decrypted", "decrypted")
@_scheme
@_quiet
@_as_json
def decrypt() -> None:
    """Decrypt encrypted files.

    One failure does not stop the others. The exit code is 0 if every file is decrypted.
    """


@user_commands.command()
@click.argument("pattern", required=False, metavar="[PATTERN]")
@click.option("--json", "output", flag_value="json", help="The same as --jsonl.")
@jsonl_option
def ls() -> None:
    """List the images in the vault, newest first.

    PATTERN, such as '*.png', selects images by their name or by the name of their original file. If an image or an
    original file has exactly this name, ls lists only those.
    """


@user_commands.command()
@_names
@click.option("--to", type=_directory, help="Directory for the files.  [default: decrypted; with --sealed: images]")
@click.option("--sealed", is_flag=True, help="Download the sealed files; do not decrypt them.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@_quiet
@_as_json
def get() -> None:
    """Download images from the vault and decrypt them.

    NAME is an image's name or the name of its original file, as ls shows them. If several images have the same
    original name, get asks which one you mean; without a terminal, it lists them and exits. A NAME that no image has
    is a pattern, such as '*.png'; get skips files of a pattern that exist with the same size and time.
    """


@user_commands.command()
@_names
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--pattern", is_flag=True, help="With --yes: also remove what a pattern matches.")
@_as_json
def rm() -> None:
    """Remove images from the vault permanently.

    NAME is the same as for get. On a terminal, rm lists the images and asks. With --yes it does not ask; a pattern
    then needs --pattern, too. Files on this machine stay.
    """


@user_commands.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@_as_json
def info() -> None:
    """Describe encrypted files, without a key or a cluster."""


@user_commands.command()
@json_option
def status() -> None:
    """Show every node: role, epoch, leader and load.

    The exit code is 0 if there is a leader.
    """


@user_commands.command()
@click.option("-n", "most", type=click.IntRange(min=1), metavar="N", help="Show only the newest N results.")
@_as_json
def history() -> None:
    """Show what you did on this machine, newest first.

    Each line is an image that an upload, decrypt, get or rm of yours finished, with the node that did the work.
    """
