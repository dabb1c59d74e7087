"""Commands and exit codes. No logic: each command imports what implements it, and only that.

Exit codes: 0, success; 1, failure, and one line on standard error states the reason; 2, the command line is wrong;
130, stopped by Ctrl-C. `up` and `server` run until they are stopped: with them Ctrl-C ends in 0.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from safelight import __version__
from safelight.cli.options import (
    configured,
    keyring,
    max_image_size,
    of_clients,
    of_nodes,
    user_argument,
    user_of,
    user_option,
    vault,
)
from safelight.cli.user.declarations import Decorator, json_option, jsonl_option, stacked, user_commands
from safelight.errors import SafelightError, reason
from safelight.runtime import process

if TYPE_CHECKING:
    from safelight.config import Config

T = TypeVar("T")

_NO_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a path in a message may have, and a line may not."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="safelight", message="%(prog)s %(version)s")
def safelight() -> None:
    """A fault-tolerant cluster that encrypts people's images.

    To start three nodes and a prompt on this machine: safelight run --user alice

    To complete commands, options and names in bash: eval "$(_SAFELIGHT_COMPLETE=bash_source safelight)"
    """
    from safelight.runtime.descriptors import raise_limit

    raise_limit()


# -- nodes --


@safelight.command()
@click.argument("node", type=int)
@click.option("--until-eof", is_flag=True, hidden=True)
@configured(of_nodes, max_image_size)
def server(config: Config, node: int, until_eof: bool) -> None:
    """Run one node: NODE is its position in --servers, from 1."""
    with _long_lived_imports():
        from safelight.node.server import run

    run(config, node, until_eof=until_eof)


@safelight.command()
@configured(of_nodes, max_image_size)
def up(config: Config) -> None:
    """Run all nodes in this terminal. Ctrl-C stops them."""
    from safelight.cli.launch import up

    up(config)


@safelight.command()
@user_option
@configured(of_nodes, of_clients, max_image_size)
def run(config: Config) -> None:
    """Run all nodes, with a prompt for a user.

    If standard input is not a terminal, it contains the commands. The exit code is 0 if all of them succeed.
    """
    with _long_lived_imports():
        from safelight.cli.launch import run

    _finish(run(config, user_of(config)))


@safelight.command()
@user_argument
@configured(of_clients, max_image_size)
def client(config: Config) -> None:
    """Open the prompt of USER. Type help in it."""
    with _long_lived_imports():
        from safelight.cli.output.console import ConsoleReporter
        from safelight.cli.user.repl import converse

    _finish(_complete(converse(config, user_of(config), ConsoleReporter(dialogue=True))))


@safelight.command()
@click.option("--to", type=click.Path(path_type=Path), default="demo", show_default=True, help="For the picture.")
@json_option
def demo(to: Path, output: str | None) -> None:
    """Show a failover in a temporary cluster.

    It encrypts a photograph, kills the leader, encrypts the photograph again, and draws a picture of the result.
    """
    from safelight.cli.demo import walk_through

    walk_through(to, output)


# -- a user's commands --


def _add(name: str, function: Callable[..., Any], *more: Decorator) -> None:
    """Add a user's command to the command line, with these options in addition to its own."""
    declared = user_commands.commands[name]
    command = click.command(name, help=declared.help)(stacked(*more)(function))
    command.params[:0] = declared.params
    safelight.add_command(command)


def _with_session(name: str) -> Callable[..., None]:
    def command(config: Config, **options: Any) -> None:
        with _long_lived_imports():
            from safelight.cli.user.commands import run
            from safelight.cli.user.questions import ask
            from safelight.cli.user.standard_input import standard_input

        user = user_of(config)
        if name == "upload":
            paths, original, any_type = options["paths"], options["name"], options["any_type"]
            options["source"] = standard_input(config, paths, name=original, any_type=any_type)
        _finish(_complete(run(config, user, name, ask if sys.stdin.isatty() else None, options)))

    return command


def _info(**options: Any) -> None:
    from safelight.cli.output.console import ConsoleReporter
    from safelight.cli.user.commands import info

    _finish(info(ConsoleReporter(dialogue=False), **options))


def _status(config: Config, **options: Any) -> None:
    from safelight.cli.output.console import ConsoleReporter
    from safelight.cli.user.commands import status

    _finish(_complete(status(config, ConsoleReporter(dialogue=False), **options)))


def _history(config: Config, **options: Any) -> None:
    from safelight.cli.user.commands import history
    from safelight.cli.user.history import History

    _complete(history(History(config.client_dir, user_of(config)), **options))


for _name in ("upload", "decrypt"):
    _add(_name, _with_session(_name), user_option, configured(of_clients, max_image_size))
for _name in ("ls", "get", "rm"):
    _add(_name, _with_session(_name), user_option, configured(of_clients))
_add("info", _info)
_add("status", _status, configured(of_clients))
_add("history", _history, user_option, configured(of_clients))


@safelight.command()
@user_argument
@json_option
@configured(of_clients)
def token(config: Config, output: str | None) -> None:
    """Print the fingerprint of USER's token.

    The operator needs it to add the user. The fingerprint is public; the token is a secret.
    """
    from safelight.cli.user.commands import fingerprint

    _complete(fingerprint(config, user_of(config))).show(output)


# -- an operator's commands --


@safelight.command("step-down")
@click.argument("node", type=int, required=False)
@click.option(
    "--for",
    "seconds",
    type=float,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the node stays ineligible. 0 makes it eligible again.",
)
@json_option
@configured(keyring)
def step_down(config: Config, node: int | None, seconds: float, output: str | None) -> None:
    """Let another node lead: make the leader, or NODE, ineligible.

    The node finishes the requests that it granted. The command waits until another node leads; if no other node can
    lead, the node stays the leader. A restart makes the node eligible again. Run this on a machine with the cluster's
    keyring.
    """
    from safelight.cli.admin.cluster import step_down

    _complete(step_down(config, node, seconds)).show(output)


@safelight.command()
@json_option
@configured(keyring, vault)
def init(config: Config, output: str | None) -> None:
    """Create the keyring of a new cluster.

    The keyring is the cluster's identity and contains all its secrets. On loopback the nodes create it themselves. If a
    keyring secret is configured, the keyring is wrapped with it.
    """
    from safelight.cli.admin.cluster import init

    _complete(init(config)).show(output)


@safelight.command()
@json_option
@jsonl_option
@configured(keyring, vault)
def verify(config: Config, output: str | None) -> None:
    """Read every object in the vault and check every tag.

    Reports objects that are damaged, missing, foreign or left over. The exit code is 0 if nothing is lost. The nodes
    can run. Run this on a machine with the cluster's keyring.
    """
    from safelight.cli.admin.vault import verify

    _finish(_complete(verify(config, output=output)))


@safelight.command()
@json_option
@configured(keyring, vault)
def rewrap(config: Config, output: str | None) -> None:
    """Encrypt all data keys under the current cluster key.

    Run this after `safelight keys rotate`. It rewrites about sixty bytes of each image. The nodes can run. If it is
    interrupted, run it again. It reports when the vault no longer needs an old key.
    """
    from safelight.cli.admin.vault import rewrap

    _complete(rewrap(config, output=output))


@safelight.group()
def keys() -> None:
    """Manage the cluster's keys: list, rotate, wrap, unwrap.

    Run these commands on a machine with the cluster's keyring.
    """


@keys.command("list")
@json_option
@configured(keyring)
def list_keys(config: Config, output: str | None) -> None:
    """List the ids of the cluster keys, when each was created, and which is current. Prints no secret."""
    from safelight.cli.admin.cluster import list_keys

    list_keys(config).show(output)


@keys.command()
@json_option
@configured(keyring)
def rotate(config: Config, output: str | None) -> None:
    """Create a new cluster key and activate it once every node has stored it.

    Old images can still be decrypted. No restart is needed. All nodes must run. If it is interrupted, run it again.
    """
    from safelight.cli.admin.cluster import rotate

    _complete(rotate(config)).show(output)


@keys.command()
@json_option
@configured(keyring)
def wrap(config: Config, output: str | None) -> None:
    """Encrypt the keyring file with a secret.

    The secret is in the file that keyring_secret_file names, or in SAFELIGHT_KEYRING_SECRET. Configure it for this
    machine's nodes first: a node that cannot read the keyring is ineligible.
    """
    from safelight.cli.admin.cluster import wrap

    wrap(config, wrapped=True).show(output)


@keys.command()
@json_option
@configured(keyring)
def unwrap(config: Config, output: str | None) -> None:
    """Decrypt the keyring file: the reverse of `safelight keys wrap`."""
    from safelight.cli.admin.cluster import wrap

    wrap(config, wrapped=False).show(output)


@safelight.group()
def user() -> None:
    """Manage the cluster's users: add, list, token, revoke.

    Run these commands on a machine with the cluster's keyring and access to its vault.
    """


@user.command()
@click.argument("name")
@click.argument("fingerprint")
@json_option
@configured(keyring, vault)
def add(config: Config, name: str, fingerprint: str, output: str | None) -> None:
    """Add user NAME with the token that has this FINGERPRINT (64 hex digits)."""
    from safelight.cli.admin.users import add

    _complete(add(config, name, fingerprint)).show(output)


@user.command("list")
@json_option
@configured(keyring, vault)
def list_users(config: Config, output: str | None) -> None:
    """List all users: when each was added, and whether each is active or revoked."""
    from safelight.cli.admin.users import listing

    _complete(listing(config)).show(output)


@user.command("token")
@click.argument("name")
@click.argument("fingerprint")
@json_option
@configured(keyring, vault)
def give_token(config: Config, name: str, fingerprint: str, output: str | None) -> None:
    """Replace user NAME's token by the one that has this FINGERPRINT.

    The old token stops working within about a second. A revoked user becomes active again. Anyone who has the token can
    decrypt NAME's images: check whose it is.
    """
    from safelight.cli.admin.users import give

    _complete(give(config, name, fingerprint)).show(output)


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@configured(keyring, vault)
def revoke(config: Config, name: str, yes: bool, output: str | None) -> None:
    """Revoke user NAME's access.

    The token stops working on every node within about a second. The images stay, and nobody else can take the name.
    """
    from safelight.cli.admin.users import revoke

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("without a terminal, revoke cannot ask you to confirm: give --yes")
        if not click.confirm(f"Revoke {name}?", err=True):
            raise SafelightError("nothing was changed")
    _complete(revoke(config, name)).show(output)


# -- exit codes --


def main() -> NoReturn:
    """Run a command and exit with its code: 0 done, 1 failed, 2 wrong usage, 128 + N ended by signal N."""
    process.prepare()
    try:
        code = _code()
        sys.stdout.flush()
    except SystemExit as ended:  # by a signal, or by output that cannot be written
        code = ended.code
    sys.exit(process.end(code if isinstance(code, int) else 0))


def _code() -> int | str | None:
    """Execute the command line. The exit code, or None for 0; an error is printed as one line."""
    try:
        return cast(int | str | None, safelight.main(prog_name="safelight", standalone_mode=False))
    except SafelightError as error:
        return _complain(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "safelight"
        return _complain(f"{error.format_message()} (see: {path} --help)", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # no disk space for temporary files, no descriptors: an error of the machine, not a bug
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{reason(error)}", 1)
    except UnicodeEncodeError:
        if (encoding := sys.getfilesystemencoding()) == "utf-8":
            raise
        return _complain(f"this locale's encoding, {encoding}, lacks letters of a name: set LC_ALL=C.UTF-8", 1)


def _complain(message: str, code: int) -> int:
    click.echo(f"safelight: {_NO_LINE.sub('�', message)}", err=True)
    return code


def _finish(succeeded: bool) -> None:
    if not succeeded:
        raise click.exceptions.Exit(1)


@contextmanager
def _long_lived_imports() -> Iterator[None]:
    """Import without garbage collection, and never collect what was imported: an eighth of the imports' time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _complete(work: Coroutine[Any, Any, T]) -> T:
    from safelight.runtime.signals import run

    return run(work)
