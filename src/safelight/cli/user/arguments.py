"""What the commands about images take: the same in the REPL and on the command line, so it is said once, here."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


def stacked(*decorators: Decorator) -> Decorator:
    """One decorator for many; the first is the outermost."""
    return lambda function: reduce(lambda inner, each: each(inner), reversed(decorators), function)


def _to(default: str, what: str) -> Decorator:
    directory = click.Path(path_type=Path)
    return click.option(
        "--to", type=directory, default=default, show_default=True, help=f"Directory for the {what} images."
    )


_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
_names = click.argument("names", nargs=-1, required=True, metavar="NAME|PATTERN...")
_scheme = click.option(
    "--scheme",
    type=click.Choice(["sealed", "classic"]),
    default="sealed",
    show_default=True,
    help="'classic' is AES-128-CTR under SHA-256 of the user name: for teaching only. It protects nothing.",
)
_any = click.option("--any", "any_type", is_flag=True, help="Accept files that are not images, too.")
_no_keep = click.option("--no-keep", is_flag=True, help="Do not store them in the vault.")
_follow_links = click.option("--follow-links", is_flag=True, help="Follow symbolic links to directories, each once.")

upload_arguments = stacked(_paths, _to("images", "encrypted"), _scheme, _any, _no_keep, _follow_links)
decrypt_arguments = stacked(_paths, _to("decrypted", "decrypted"), _scheme)
ls_arguments = stacked(
    click.argument("pattern", required=False, metavar="[PATTERN]"),
    click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object per line."),
)
get_arguments = stacked(
    _names,
    click.option(
        "--to",
        type=click.Path(path_type=Path),
        help="Directory for the images.  [default: decrypted; with --sealed: images]",
    ),
    click.option("--sealed", is_flag=True, help="Download the sealed files instead of the images."),
    click.option("--force", is_flag=True, help="Replace existing files."),
)
rm_arguments = stacked(
    _names,
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option("--pattern", is_flag=True, help="With --yes: allow a PATTERN to remove what it matches."),
)
info_arguments = click.argument("paths", nargs=-1, required=True, metavar="FILE...")
